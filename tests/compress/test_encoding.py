"""Whole files: rates with all bytes counted, plans, sizes, and a run that is killed and goes on."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from llmsys.compress.container_writer import part_path
from llmsys.compress.errors import TargetUnreachable, UnsupportedValues
from llmsys.errors import BadInput, UsageFault
from tests.compress.conftest import encode_file, read_back


def test_the_file_on_disk_meets_the_rate_from_below(k_proj, tmp_path):
    np.save(tmp_path / "w.npy", k_proj)
    for bits in (0.5, 2.0, 3.0, 8.0):
        out = tmp_path / f"{bits}.safetensors"
        encode_file(tmp_path / "w.npy", out, bits=bits)

        assert bits - 0.005 <= 8 * out.stat().st_size / k_proj.size <= bits


def test_a_model_directory_keeps_its_files_and_its_untouched_tensors(model_dir, tmp_path):
    lines = encode_file(model_dir, tmp_path / "out", bits=3.0)
    found = read_back(tmp_path / "out")
    original = read_plain(model_dir / "model.safetensors")

    assert {line.tensor: line.codec for line in lines} == {
        "a.weight": "tq",
        "b.weight": "tq",
        "norm.weight": "raw",
        "small.weight": "raw",
        "ids": "raw",
    }
    assert (tmp_path / "out/config.json").read_text() == (model_dir / "config.json").read_text()
    for name in ("norm.weight", "small.weight", "ids"):
        assert np.array_equal(found[name], original[name])
    for name in ("a.weight", "b.weight"):
        error = ((found[name] - original[name]) ** 2).mean() / original[name].var()
        assert 0.001 < error < 0.03


def read_plain(path):
    from safetensors.torch import load_file

    return {n: t.float().numpy() if t.is_floating_point() else t.numpy() for n, t in load_file(path).items()}


def test_lossless_keeps_a_model_bit_for_bit(model_dir, tmp_path):
    encode_file(model_dir, tmp_path / "out", lossless=True)
    found, original = read_back(tmp_path / "out"), read_plain(model_dir / "model.safetensors")

    assert all(np.array_equal(found[name], original[name]) for name in original)


def test_a_size_is_met_from_below(model_dir, tmp_path):
    whole = (model_dir / "model.safetensors").stat().st_size
    wanted = whole * 57 // 100
    encode_file(model_dir, tmp_path / "out", size=wanted)
    reached = (tmp_path / "out/model.safetensors").stat().st_size

    assert 0.97 * wanted < reached <= wanted


def test_bits_and_keep_of_single_tensors_are_obeyed(model_dir, tmp_path):
    lines = encode_file(model_dir, tmp_path / "out", bits=4.0, bits_for=("b.*=2.5",), keep=("a.*",))
    told = {line.tensor: line for line in lines}

    assert told["a.weight"].codec == "raw"
    assert 2.4 < told["b.weight"].bits <= 2.5


def test_a_plan_that_is_written_edited_and_read_is_what_is_coded(model_dir, tmp_path):
    encode_file(model_dir, tmp_path / "one", bits=3.0, plan_out=tmp_path / "plan.jsonl")
    plan = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    for line in plan:
        if line["tensor"] == "b.weight":
            line["bits"] = 5.0
    (tmp_path / "edited.jsonl").write_text("".join(json.dumps(line) + "\n" for line in plan))
    lines = encode_file(model_dir, tmp_path / "two", plan_in=tmp_path / "edited.jsonl")
    rates = {line.tensor: line.bits for line in lines}

    assert 4.94 < rates["b.weight"] <= 5.0
    assert {line["tensor"]: line["codec"] for line in plan}["norm.weight"] == "raw"
    assert {line["tensor"] for line in plan} == set(rates)


def test_equal_noise_gives_a_tensor_that_packs_well_fewer_bits(tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    flat = rng.uniform(-1, 1, (256, 256)).astype(np.float32)
    peaked = rng.standard_t(3, (256, 256)).astype(np.float32)
    save_file({"flat": flat, "peaked": peaked}, tmp_path / "in.safetensors")
    lines = encode_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors", bits=3.0)
    told = {line.tensor: line for line in lines}

    assert told["flat"].bits > told["peaked"].bits + 0.1
    assert told["flat"].nmse == pytest.approx(told["peaked"].nmse, rel=0.15)
    assert 2.995 <= 8 * (tmp_path / "out.safetensors").stat().st_size / 2**17 <= 3.0


def test_no_tensor_but_exact_ones_take_whole_numbers(tmp_path):
    np.save(tmp_path / "i.npy", np.arange(10_000))
    (tmp_path / "plan.jsonl").write_text('{"tensor":"i","codec":"tq","bits":4}\n')

    with pytest.raises(UnsupportedValues, match="i64 values"):
        encode_file(tmp_path / "i.npy", tmp_path / "o.safetensors", plan_in=tmp_path / "plan.jsonl")
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3.0, "nmse": 0.1}, "more than one target"),
        ({"lossless": True, "bits_for": ("*=3",)}, "--bits-for goes with a rate"),
        ({"trellis": 5}, "--trellis 5"),
        ({"bits_for": ("3",)}, None),
        ({"bits_for": ("*=x",)}, "expected GLOB=BITS"),
    ],
)
def test_options_that_contradict_each_other_are_refused(model_dir, tmp_path, options, message):
    if message is None:
        encode_file(model_dir, tmp_path / "out", **options)
        return
    with pytest.raises(UsageFault, match=message):
        encode_file(model_dir, tmp_path / "out", **options)


@pytest.mark.parametrize("bits", [0.01, 9.0])
def test_a_rate_that_cannot_be_had_is_refused_with_the_range(model_dir, tmp_path, bits):
    with pytest.raises(TargetUnreachable, match=r"0.1 to 8.0"):
        encode_file(model_dir, tmp_path / "out", bits=bits)


def test_what_is_no_input_is_refused_by_name(tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "bad.npy").write_bytes(b"hello")
    for name in ("x.txt", "bad.npy", "."):
        with pytest.raises(BadInput, match=str(tmp_path / name)):
            encode_file(tmp_path / name, tmp_path / "out")


def test_a_big_endian_and_a_fortran_array_are_coded_as_they_read(k_proj, tmp_path):
    np.save(tmp_path / "big.npy", k_proj.astype(">f4"))
    np.save(tmp_path / "turned.npy", np.asfortranarray(k_proj.astype(np.float32)))
    for name in ("big", "turned"):
        encode_file(tmp_path / f"{name}.npy", tmp_path / f"{name}.safetensors", lossless=True)
        assert np.array_equal(read_back(tmp_path / f"{name}.safetensors")[name], k_proj.astype(np.float32))


KILLED = """
import os, signal, sys
from pathlib import Path
from llmsys.compress.requests import EncodeRequest
prepared = EncodeRequest(bits=3.0).prepare(Path(sys.argv[1]))
for number, line in enumerate(prepared.encode(Path(sys.argv[2]), resume=sys.argv[3] == "resume")):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_after_two(source, out, how):
    run = subprocess.run([sys.executable, "-c", KILLED, source, out, how], check=False, timeout=120)
    assert run.returncode == -signal.SIGKILL


def test_a_killed_run_leaves_no_output_and_resume_takes_what_was_finished(model_dir, tmp_path):
    encode_file(model_dir, tmp_path / "whole", bits=3.0)
    kill_after_two(model_dir, tmp_path / "out", "resume")
    path = tmp_path / "out/model.safetensors"
    assert not path.exists()
    with part_path(path).open("r+b") as part:  # and the last frame was cut in the middle of a write
        part.seek(0, os.SEEK_END)
        part.write(b"LLMSCMP1 half a fra")
    before = part_path(path).stat().st_size

    lines = encode_file(model_dir, tmp_path / "out", bits=3.0, resume=True)

    assert before > 1000
    assert len(lines) == 5
    assert path.read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert not part_path(path).exists()


def test_a_killed_run_without_resume_leaves_no_output(model_dir, tmp_path):
    kill_after_two(model_dir, tmp_path / "out", "once")

    assert not (tmp_path / "out/model.safetensors").exists()
    assert not part_path(tmp_path / "out/model.safetensors").exists()


def test_a_part_file_of_other_settings_is_not_taken(model_dir, tmp_path):
    kill_after_two(model_dir, tmp_path / "out", "resume")

    with pytest.raises(UsageFault, match="begun with other settings"):
        encode_file(model_dir, tmp_path / "out", bits=4.0, resume=True)


def test_a_part_file_that_changed_is_coded_again_from_the_damage_on(model_dir, tmp_path):
    encode_file(model_dir, tmp_path / "whole", bits=3.0)
    kill_after_two(model_dir, tmp_path / "out", "resume")
    path = tmp_path / "out/model.safetensors"
    data = bytearray(part_path(path).read_bytes())
    data[-3] ^= 1
    part_path(path).write_bytes(data)

    encode_file(model_dir, tmp_path / "out", bits=3.0, resume=True)

    assert path.read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
