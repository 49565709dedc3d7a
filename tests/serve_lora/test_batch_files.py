"""Adapters by name, and going on from an earlier run's results."""

import msgspec
import pytest

from llmsys.artifacts import BatchError, BatchResponse, BatchResult
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.batch_files import adapter_paths, finished_ids


def result_line(custom_id, *, failed=False):
    response = None if failed else BatchResponse(200, "req", {})
    error = BatchError("engine_error", "it broke") if failed else None
    return msgspec.json.encode(BatchResult("id", custom_id, response, error)) + b"\n"


def adapter(path):
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    return path


def test_answered_lines_are_done_and_failed_ones_are_not(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_bytes(result_line("a") + result_line("b", failed=True) + result_line("c"))

    assert finished_ids(out) == {"a", "c"}


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_a_kill_has_cut_is_taken_off_and_run_again(tmp_path, cut):
    out = tmp_path / "out.jsonl"
    out.write_bytes(result_line("a") + result_line("b")[:cut])

    assert finished_ids(out) == {"a"}
    assert out.read_bytes() == result_line("a")


def test_a_file_that_is_not_there_yet_answers_nothing(tmp_path):
    assert finished_ids(tmp_path / "none.jsonl") == set()


def test_another_kind_of_file_is_refused_and_left_as_it_is(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_bytes(b'{"custom_id": "a"}\n')

    with pytest.raises(BadInput, match=r"out\.jsonl:1"):
        finished_ids(out)
    assert out.read_bytes() == b'{"custom_id": "a"}\n'


def test_sub_directories_are_adapters_and_named_paths_win(tmp_path):
    adapter(tmp_path / "all" / "fr")
    adapter(tmp_path / "all" / "json")
    (tmp_path / "all" / ".hidden").mkdir()
    (tmp_path / "all" / "notes").mkdir()

    paths = adapter_paths(tmp_path / "all", ["json=/elsewhere", "x=y=z"])

    assert {name: str(path) for name, path in paths.items()} == {
        "fr": str(tmp_path / "all" / "fr"),
        "json": "/elsewhere",
        "x": "y=z",
    }


@pytest.mark.parametrize("item", ["json", "json=", "a b=/x", "../up=/x", "=/x"])
def test_a_named_adapter_needs_a_plain_name_and_a_path(item):
    with pytest.raises(UsageFault, match="--adapter"):
        adapter_paths(None, [item])


def test_a_directory_without_adapters_says_what_one_looks_like(tmp_path):
    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        adapter_paths(tmp_path, [])
