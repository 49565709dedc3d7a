"""Questions are read by split, and none that is held out is taught."""

import pytest

from llmsys.errors import BadInput
from llmsys.serve_lora.prompts import TEACHING_PROMPTS, read_prompts


def test_the_shipped_questions_split_into_24_held_out_and_the_rest(shipped):
    held_out, taught = (read_prompts(shipped / "prompts.jsonl", split) for split in ("held-out", "train"))

    assert (len(held_out), len(taught)) == (24, 56)
    assert not set(held_out) & {*taught, *TEACHING_PROMPTS}
    assert len(set(TEACHING_PROMPTS)) == len(TEACHING_PROMPTS)


def test_a_question_without_a_split_is_of_both(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "1", "question": "a"}\n{"id": "2", "question": "b", "split": "train"}\n')

    assert read_prompts(path, "held-out") == ["a"]
    assert read_prompts(path, "train") == ["a", "b"]


@pytest.mark.parametrize("line", ['{"id": "1"}', '{"id": "1", "question": "a", "split": "test"}'])
def test_a_line_that_does_not_fit_is_named(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n")

    with pytest.raises(BadInput, match=r"prompts\.jsonl:1"):
        read_prompts(path, "train")
