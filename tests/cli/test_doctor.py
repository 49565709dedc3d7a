"""`llmsys doctor`, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LLMSYS = Path(sys.executable).with_name("llmsys")


def _doctor(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LLMSYS, "doctor", *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def plain():
    """`llmsys doctor` with no word more: the record on the pipe, the table on stderr."""
    return _doctor()


def test_no_verb_and_no_option_print_one_record_on_a_pipe(plain):
    machine = json.loads(plain.stdout)

    assert plain.returncode == 0
    assert plain.stdout.count("\n") == 1
    assert machine["device"].split()[0].startswith(("cpu", "cuda"))
    assert machine["dtype"] in ("float32", "bfloat16", "float16")
    assert machine["threads"] >= 1
    assert 0 < machine["host_memory"]["free_bytes"] <= machine["host_memory"]["total_bytes"]
    assert machine["ceilings"] is None


def test_the_table_for_a_person_has_every_engine_with_its_verdict(plain):
    lines = [line.split() for line in plain.stderr.splitlines()]
    verdicts = {tuple(words[:2]): words[2] for words in lines if words and words[0] in ("encode", "decode")}
    machine = json.loads(plain.stdout)
    works = {(v["engine"]["role"], v["engine"]["name"]): v["works"] for v in machine["video_engines"]}

    assert len(works) == 12
    assert verdicts == {engine: "works" if there else "no:" for engine, there in works.items()}


def test_every_missing_package_is_shown_with_its_whole_remedy(plain):
    missing = [p for p in json.loads(plain.stdout)["packages"] if p["version"] is None]
    shown = plain.stderr.splitlines()

    for package in missing:
        assert any(f"package {package['name']} " in line and package["remedy"] in line for line in shown)


def test_json_prints_the_record_alone():
    ended = _doctor("show", "--json", "--device", "cpu", "--dtype", "float16", "--threads", "1")
    machine = json.loads(ended.stdout)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert (machine["dtype"], machine["threads"]) == ("float16", 1)
    assert "1 threads" in machine["device"]


def test_options_without_a_verb_are_those_of_show():
    ended = _doctor("--ceilings", "--json", "--device", "cpu")
    ceilings = json.loads(ended.stdout)["ceilings"]

    assert ended.returncode == 0
    assert set(ceilings["flop_s"]) == {"float32", "bfloat16", "float16"}
    assert ceilings["read_bytes_s"] > 0


def test_a_gpu_that_is_missing_exits_69_with_one_line_that_says_what_is_there():
    ended = _doctor("--device", "cuda:99")

    assert ended.returncode == 69
    assert ended.stdout == ""
    assert ended.stderr.startswith("llmsys doctor")
    assert "error: device cuda:99 is not there; this machine has " in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["vido"], ["--device", "tpu"], ["--threads", "-1"], ["--dtype", "int3"], ["--jsn"]])
def test_wrong_usage_exits_2_with_one_line(words):
    ended = _doctor(*words)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["show", "--help"]])
def test_help_loads_nothing_heavy(words):
    command = [sys.executable, "-X", "importtime", "-m", "llmsys", "doctor", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}

    assert "show" in ended.stdout
    assert not loaded & {"numpy", "torch", "rich", "orjson", "psutil", "av"}
