"""On the real engine in float32: a part's tokens do not depend on forks, on its neighbours, or on what a cache held."""

import pytest

from llmsys.engine import Engine, EngineConfig
from llmsys.sgd_decode import DecodeSettings, Prompts, Question, answer_all, writer_for
from llmsys.sgd_decode.backends import Job
from llmsys.sgd_decode.engine_backend import EngineBackend
from llmsys.sgd_decode.peers import load_peers
from llmsys.sgd_decode.plan import Node

pytestmark = pytest.mark.xdist_group("smollm2")
PLAN = "1. Roots | needs - | level 1\n2. Leaves | needs - | level 1\n3. The whole plant | needs 1,2 | level 1"
ASKED = [{"role": "user", "content": "How does a plant grow?"}]
TOKENS = 6


def backend(slots, *, spare_rows=32):
    config = EngineConfig(
        device="cpu", dtype="float32", quant="none", batch_invariant=True, max_sequences=slots, spare_rows=spare_rows,
        max_batch_tokens=256, max_len=1024,
    )  # fmt: skip
    return EngineBackend(Engine.load("smollm2", config=config), slots=slots)


def part_jobs(*, share_prefix):
    """The three parts of one plan, forked at their lines; the last goes on in the second's conversation."""
    prompts = Prompts.load()
    planning = prompts.planning(ASKED, max_nodes=3)
    lines = PLAN.splitlines()
    jobs = []
    for number in (1, 2, 3):
        before = [*planning, {"role": "assistant", "content": "\n".join(lines[:number])}]
        parents = (
            [(Node(1, "Roots"), "Roots drink water."), (Node(2, "Leaves"), "Leaves drink light.")]
            if number == 3
            else []
        )
        messages = prompts.writing(before, ASKED[0]["content"], Node(number, f"Part {number}"), parents)
        jobs.append(Job(f"0/{number}", messages, TOKENS, min_tokens=TOKENS, share_prefix=share_prefix))
    return jobs


def written(target, batches):
    """Text and tokens of every job, batch after batch."""
    found = {}
    cached = 0
    for batch in batches:
        for job in batch:
            target.start(job)
        while deltas := target.wait():
            for delta in deltas:
                text, tokens = found.get(delta.job, ("", 0))
                found[delta.job] = (text + delta.text, tokens + delta.tokens)
                cached += delta.cached_tokens
    return found, cached


@pytest.fixture(scope="module")
def alone():
    """Each part by itself, every prompt computed from its first token."""
    found, cached = written(backend(1), [[job] for job in part_jobs(share_prefix=False)])
    assert cached == 0
    return found


def test_parts_forked_from_one_plan_in_one_batch_are_those_written_one_by_one(alone):
    target = backend(4)
    planner = Job("0/plan", Prompts.load().planning(ASKED, max_nodes=3), 4)
    found, cached = written(target, [[planner], part_jobs(share_prefix=True)])
    del found["0/plan"]

    assert found == alone
    assert cached > 100
    assert all(tokens == TOKENS for _, tokens in found.values())


def test_the_width_of_the_batch_and_the_order_of_parts_change_no_token(alone):
    found, _ = written(backend(2), [part_jobs(share_prefix=True)[::-1]])

    assert found == alone


@pytest.mark.slow
def test_whole_answers_are_the_same_for_every_width_and_give_all_blocks_back():
    asked = Question(0, "q", ASKED)
    settings = DecodeSettings(max_nodes=3, node_tokens=6, answer_tokens=6)
    texts = []
    for slots in (1, 4):
        target = backend(slots)
        (done,) = answer_all([asked], target, writer_for(settings))
        texts.append((done.text, [node.title for node in done.plan.nodes]))
        assert target.engine.stats().running == target.engine.stats().waiting == 0
        assert target.engine.stats().blocks.referenced == 0

    assert texts[0] == texts[1]


@pytest.mark.slow
def test_greedy_parts_are_what_transformers_writes_for_the_same_prompts(alone):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmsys.gpu import embedded_model

    file = embedded_model()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for job in part_jobs(share_prefix=False):
        text = tokenizer.apply_chat_template(list(job.messages), add_generation_prompt=True, tokenize=False)
        batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
        expected = tokenizer.decode(out[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        assert alone[job.id][0].strip() == expected.strip()


@pytest.mark.slow
def test_peers_write_as_many_tokens_as_they_are_asked_for():
    assert {name: peer(ASKED, 9) for name, peer in load_peers("embedded").items()} == {
        "transformers generate": 9,
        "transformers prompt lookup": 9,
    }
