"""The tokenizer's thin layer: where answers end, what a chat template refuses, and text that comes back."""

import copy
import json
import shutil

import pytest
from transformers import AutoTokenizer

from llmsys.engine.errors import ModelError, RequestError
from llmsys.engine.tokens import Tokenizer
from llmsys.gpu import find_model

pytestmark = pytest.mark.xdist_group("smollm2")


@pytest.fixture(scope="module")
def theirs():
    path = find_model("smollm2")
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


@pytest.fixture(scope="module")
def directory(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    theirs.save_pretrained(path)
    return path


@pytest.fixture
def own(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / "model")


@pytest.fixture(scope="module")
def embedded():
    return Tokenizer.load(find_model("smollm2"))


@pytest.mark.parametrize("text", ["Hello, world!", "naïve 北京 🙂 \u0301", "a\n\n  b\t", "<|im_start|>user", ""])
def test_text_comes_back_and_has_the_ids_that_transformers_gives_it(embedded, theirs, text):
    ids = embedded.encode(text)

    assert ids == theirs.encode(text, add_special_tokens=False)
    assert embedded.decode(ids) == text.replace("<|im_start|>", "")


def test_a_conversation_is_laid_out_as_the_model_was_trained(embedded, theirs):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]

    ids = embedded.apply_chat(messages)

    assert theirs.decode(ids).endswith("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")
    assert theirs.decode(ids).startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_an_answer_ends_at_the_end_of_a_turn(embedded, theirs):
    assert theirs.convert_tokens_to_ids("<|im_end|>") in embedded.eos_ids


def test_an_answer_ends_at_the_turn_token_of_llama_3_too(theirs, tmp_path):
    tokenizer = copy.deepcopy(theirs)
    tokenizer.add_tokens(["<|eot_id|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)

    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in Tokenizer.load(tmp_path).eos_ids


@pytest.mark.parametrize(("declared", "found"), [(7, {7}), ([7, 11], {7, 11}), (None, set()), ("7", set())])
def test_a_directory_may_declare_more_tokens_that_end_an_answer(own, embedded, declared, found):
    (own / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))

    assert Tokenizer.load(own).eos_ids == embedded.eos_ids | found


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_generation_config_is_refused_by_name(own, text):
    (own / "generation_config.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(ModelError, match=r"generation_config\.json"):
        Tokenizer.load(own)


def test_an_exported_tokenizer_is_one_that_transformers_reads(embedded, theirs, tmp_path):
    messages = [{"role": "user", "content": "naïve 北京?"}]
    embedded.export(tmp_path)

    read = AutoTokenizer.from_pretrained(tmp_path)

    assert read.apply_chat_template(messages, return_dict=False) == theirs.apply_chat_template(
        messages, return_dict=False
    )
    assert read.special_tokens_map == theirs.special_tokens_map
    assert Tokenizer.load(tmp_path).eos_ids == embedded.eos_ids


def test_a_saved_tokenizer_comes_back_as_it_was(embedded, tmp_path):
    messages = [{"role": "user", "content": "naïve 北京?"}]
    embedded.save(tmp_path)

    again = Tokenizer.restore(tmp_path)

    assert again.apply_chat(messages) == embedded.apply_chat(messages)
    assert again.eos_ids == embedded.eos_ids


def test_a_model_without_a_chat_template_says_so(own):
    (own / "chat_template.jinja").unlink()

    with pytest.raises(RequestError, match="chat template"):
        Tokenizer.load(own).apply_chat([{"role": "user", "content": "Why?"}])


def test_messages_that_the_template_refuses_are_the_requests_fault(own):
    (own / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")

    with pytest.raises(RequestError, match="roles must alternate"):
        Tokenizer.load(own).apply_chat([{"role": "user", "content": "Why?"}])


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no readable tokenizer"):
        Tokenizer.load(tmp_path)
