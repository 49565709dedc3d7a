"""Checkpoints: whole or not there, every tensor once, nothing trusted."""

import json
import pickle
import shutil
from collections import Counter

import pytest
import torch

from llmsys.errors import BadInput
from llmsys.moe_train.train import (
    Checkpoint,
    ModelShape,
    RunConfig,
    TrainingState,
    fresh_expert_state,
    newest_checkpoint,
    writers,
)
from llmsys.moe_train.train.checkpoint import CheckpointNote, part_tensors, seal, write_part

SHAPE = ModelShape(layers=2, d_model=8, d_ff=8, heads=2, experts=3)
KEYS = [(mixture, expert) for mixture in range(2) for expert in range(3)]
COLUMNS = [[[0, 1], [1, 2], [2, 0]], [[0, 0], [1, 2], [2, 2]]]


def state_of_all(seed=0):
    state = TrainingState(SHAPE, seed=seed, dtype=torch.float32, lr=0.1)
    state.hold(
        [
            {expert: fresh_expert_state(SHAPE, mixture, expert, seed=seed, dtype=torch.float32) for expert in range(3)}
            for mixture in range(2)
        ]
    )
    return state


def write(out, step, seed=0, keys=KEYS):
    """A checkpoint of three parts; returns its place."""
    state = state_of_all(seed)
    chosen = writers(COLUMNS, [4, 7, 9], 3)
    for worker in (4, 7, 9):
        mine = [key for key in keys if chosen[key] == worker]
        write_part(out, step, 1, worker, part_tensors(state, mine, dense=worker == 4))
    return seal(out, step, 1, CheckpointNote(step, step, RunConfig(model=SHAPE).identity("digest")))


def test_every_expert_has_one_writer_who_holds_it_and_nobody_writes_much_more():
    found = writers(COLUMNS, [4, 7, 9], 3)

    assert set(found) == set(KEYS)
    for (mixture, expert), worker in found.items():
        assert expert in COLUMNS[mixture][[4, 7, 9].index(worker)]
    assert max(Counter(found.values()).values()) <= 3


def test_what_was_written_comes_back_bit_for_bit(tmp_path):
    checkpoint = Checkpoint(write(tmp_path, 5))
    state = state_of_all()
    fresh = TrainingState(SHAPE, seed=1, dtype=torch.float32, lr=0.1)
    checkpoint.load_dense(fresh)

    assert checkpoint.note.step == fresh.applied == 5
    for mixture, expert in KEYS:
        assert torch.equal(checkpoint.expert(mixture, expert), state.expert(mixture, expert))
    for name, expected in state.dense_tensors().items():
        assert torch.equal(fresh.dense_tensors()[name], expected)


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    found, faults = newest_checkpoint(tmp_path)

    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000002", "step-000000003"]
    assert list((tmp_path / "staging").iterdir()) == []
    assert (found.note.step, faults) == (3, [])


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "pickle", "note", "manifest", "twice"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, damage):
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    part = newest / "part-00007.safetensors"
    content = part.read_bytes()
    match damage:
        case "flip":
            part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "truncate":
            part.write_bytes(content[: len(content) // 2])
        case "remove":
            part.unlink()
        case "pickle":
            part.write_bytes(pickle.dumps({"weights": 1}))
        case "note":
            (newest / "training.json").write_text("{}")
        case "manifest":
            (newest / "manifest.json").write_text(json.dumps({"kind": "llmsys-moe-train", "version": 99, "files": {}}))
        case "twice":
            shutil.copy(part, newest / "part-00008.safetensors")
    found, (fault,) = newest_checkpoint(tmp_path)

    assert found.note.step == 1
    assert str(newest) in fault


def test_an_expert_that_no_part_holds_is_named(tmp_path):
    place = write(tmp_path, 1, keys=KEYS[:-1])

    with pytest.raises(BadInput, match=r"no tensor mixtures.1.experts.2.w1"):
        Checkpoint(place)


def test_an_expert_in_two_parts_is_refused(tmp_path):
    state = state_of_all()
    for worker in (1, 2):
        write_part(tmp_path, 1, 1, worker, part_tensors(state, KEYS, dense=worker == 1))
    place = seal(tmp_path, 1, 1, CheckpointNote(1, 1, RunConfig(model=SHAPE).identity("digest")))

    with pytest.raises(BadInput, match="is in another part too"):
        Checkpoint(place)


def test_a_place_without_checkpoints_has_none(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])
