"""A directory of adapters is read whole or refused, and one that is written appears whole or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.adapter_files import (
    TrainingRecord,
    find_adapters,
    new_directory,
    read_base_name,
    read_training_record,
    write_adapter,
)

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(1, dtype=torch.bfloat16)}


def test_what_is_written_is_read_back_and_equal_input_gives_equal_bytes(tmp_path):
    record = TrainingRecord(task="json", seed=3, steps=5)
    for name in ("one", "two"):
        write_adapter(tmp_path / name, TENSORS, {"r": 4, "base_model_name_or_path": "m"}, record)

    assert read_training_record(tmp_path / "one") == record
    assert read_base_name(tmp_path / "one") == "m"
    loaded = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_a_directory_that_fails_half_way_leaves_nothing(tmp_path):
    def half_way():
        with new_directory(tmp_path / "new") as directory:
            (directory / "file").write_text("x")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half"):
        half_way()

    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_there_stays_as_it_is(tmp_path):
    (tmp_path / "there").mkdir()

    with pytest.raises(UsageFault, match="exists"), new_directory(tmp_path / "there"):
        pytest.fail("nothing is to be written")


def test_adapters_are_found_by_their_configuration(tmp_path):
    for name in ("b", "a", ".hidden"):
        write_adapter(tmp_path / name, TENSORS, {}, TrainingRecord())
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.jsonl").touch()

    assert list(find_adapters(tmp_path)) == ["a", "b"]
    assert find_adapters(tmp_path / "a") == {"a": tmp_path / "a"}


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_place_without_adapters_is_refused(tmp_path, place):
    with pytest.raises(BadInput, match=r"no adapter is here; expected a directory with adapter_config\.json"):
        find_adapters(tmp_path / place)


def test_an_adapter_that_somebody_else_made_has_no_record(tmp_path):
    assert read_training_record(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"task": 3}', "{"])
def test_a_broken_record_is_named(tmp_path, content):
    (tmp_path / "training.json").write_text(content)

    with pytest.raises(BadInput, match=r"training\.json"):
        read_training_record(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"base_model_name_or_path": 3})])
def test_a_broken_configuration_is_named(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)

    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        read_base_name(tmp_path)


def test_a_configuration_may_name_no_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": null}')

    assert read_base_name(tmp_path) == ""
