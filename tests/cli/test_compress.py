"""`llmsys compress` as a user runs it: real weights to a rate, on files, in pipes, on a model; and what goes wrong."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Shell
from tests.compress.test_codec import write_wide_model
from tests.serve_lora.conftest import write_tiny_model

WEIGHTS = Path(__file__).parents[2] / "fixtures" / "compress" / "k_proj.npy"
VALUES = 192 * 576

pytestmark = pytest.mark.xdist_group("compress-cli")  # one worker, so that shared runs are made once


def records(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """A shell in whose directory w.safetensors holds the real weights at 3 bits."""
    shell = Shell(tmp_path_factory.mktemp("coded"))
    run = shell.run("compress", "encode", str(WEIGHTS), "w.safetensors", "--bits", "3")
    assert run.returncode == 0, run.stderr
    return shell, records(run.stdout)


def test_encode_says_each_tensor_and_the_total_that_is_on_disk(coded):
    shell, lines = coded
    size = (shell.directory / "w.safetensors").stat().st_size

    assert lines[0] | {"nmse": 0, "bytes": 0, "bits": 0} == {
        "tensor": "k_proj", "shape": [192, 576], "dtype": "f16", "codec": "tq", "nmse": 0, "bytes": 0, "bits": 0
    }  # fmt: skip
    assert lines[1]["bytes"] == size
    assert 2.995 <= 8 * size / VALUES <= 3.0
    assert 0.012 < lines[0]["nmse"] < 0.017


def test_inspect_reads_what_encode_said(coded):
    shell, lines = coded
    run = shell.run("compress", "inspect", "w.safetensors", "--json")

    assert records(run.stdout) == lines


def test_decode_gives_rows_that_are_those_of_the_whole(coded):
    shell, lines = coded
    shell.run("compress", "decode", "w.safetensors", "w.npy")
    part = shell.run("compress", "decode", "w.safetensors", "part.npy", "--tensor", "k_proj", "--rows", "5:9")
    whole, original = np.load(shell.directory / "w.npy"), np.load(WEIGHTS)

    assert part.returncode == 0, part.stderr
    assert np.array_equal(np.load(shell.directory / "part.npy"), whole[5:9])
    error = ((whole.astype(float) - original) ** 2).mean() / original.astype(float).var()
    assert error == pytest.approx(lines[0]["nmse"], rel=1e-6)


@pytest.mark.parametrize(
    ("flag", "dtype"), [("f32", "float32"), ("f16", "float16"), ("bf16", "float32")], ids=["f32", "f16", "bf16"]
)
def test_decode_changes_the_number_format_on_request(coded, flag, dtype):
    shell, _ = coded
    run = shell.run("compress", "decode", "w.safetensors", f"{flag}.npy", "--dtype", flag)

    assert run.returncode == 0, run.stderr
    assert np.load(shell.directory / f"{flag}.npy").dtype == dtype


def test_verify_finds_a_flipped_bit_and_names_the_tensor(coded, one_line):
    shell, _ = coded
    sound = shell.run("compress", "verify", "w.safetensors", "--deep", "--json")
    data = bytearray((shell.directory / "w.safetensors").read_bytes())
    data[-100] ^= 4
    (shell.directory / "bad.safetensors").write_bytes(data)
    bad = shell.run("compress", "verify", "bad.safetensors")

    assert records(sound.stdout) == [{"tensors": 1, "sound": True, "deep": True}]
    assert bad.returncode == 65
    assert "bad.safetensors: k_proj: chunk 0: a checksum that does not match" in one_line(bad.stderr)


def test_arrays_go_through_a_pipe_and_come_back(shell):
    run = shell.pipeline(
        f"cat {WEIGHTS} {WEIGHTS} | llmsys compress encode - - --bits 4 -q | tee frames "
        "| llmsys compress decode - both.npy"
    )
    with (shell.directory / "both.npy").open("rb") as stream:
        first, second = np.load(stream), np.load(stream)

    assert run.returncode == 0, run.stderr
    assert np.array_equal(first, second)
    assert (shell.directory / "frames").stat().st_size <= 2 * VALUES * 4 / 8


def test_a_reader_that_leaves_ends_decode_quietly(coded):
    shell, _ = coded
    run = shell.pipeline("llmsys compress decode w.safetensors - | head -c 10 | wc -c")

    assert (run.stdout.strip(), run.stderr) == ("10", "")


def test_a_model_of_transformers_becomes_a_directory_that_decodes_to_one(shell):
    from transformers import AutoModelForCausalLM

    write_tiny_model(shell.directory / "tiny")
    coded = shell.run("compress", "encode", "tiny", "small", "--bits", "4", "--keep", "*embed*")
    plain = shell.run("compress", "decode", "small", "plain")
    model = AutoModelForCausalLM.from_pretrained(shell.directory / "plain")

    assert (coded.returncode, plain.returncode) == (0, 0), coded.stderr + plain.stderr
    assert records(coded.stdout)[-1]["coded_values"] == 0  # every matrix of this model is under 4,096 values
    assert model.config.hidden_size == 32


@pytest.mark.parametrize("target", [["--lossless"], ["--nmse", "0.01"], ["--size", "40KB"], ["--trellis", "0"]])
def test_every_target_is_met(shell, target):
    run = shell.run("compress", "encode", str(WEIGHTS), "o.safetensors", *target)
    line, total = records(run.stdout)

    assert run.returncode == 0, run.stderr
    assert {
        "--lossless": line["codec"] == "lossless" and line["nmse"] is None and line["bits"] < 14,
        "--nmse": line["nmse"] is None or 0.0099 <= line["nmse"] <= 0.01,
        "--size": 39_800 <= total["bytes"] <= 40_000,
        "--trellis": 3.995 <= total["bits"] <= 4.0,
    }[target[0]]


def test_a_plan_is_printed_written_and_read(shell):
    dry = shell.run("compress", "encode", str(WEIGHTS), "o.safetensors", "--bits", "3", "--dry-run")
    shell.run("compress", "encode", str(WEIGHTS), "a.safetensors", "--bits", "3", "--plan-out", "plan.jsonl")
    read = shell.run("compress", "encode", str(WEIGHTS), "b.safetensors", "--plan-in", "plan.jsonl")

    assert records(dry.stdout) == [{"tensor": "k_proj", "codec": "tq", "bits": 3.0}]
    assert not (shell.directory / "o.safetensors").exists()
    assert read.returncode == 0, read.stderr
    assert (shell.directory / "a.safetensors").read_bytes() == (shell.directory / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["encode", "W", "o", "--bits", "0.01"], 2, "reachable: 0.1 to 8.0"),
        (["encode", "W", "o", "--bits", "9"], 2, "reachable: 0.1 to 8.0"),
        (["encode", "W", "o", "--bits", "3", "--lossless"], 2, "more than one target"),
        (["encode", "W", "o", "--trellis", "5"], 2, "--trellis 5; expected one of 0, 4, 8"),
        (["encode", "W", "-"], 2, "a stream goes from - to -"),
        (["encode", "W", "o", "--size", "big"], 2, "'big' is no size"),
        (["encode", "missing.npy", "o"], 1, "missing.npy"),
        (["decode", "W", "o.npy"], 65, "k_proj.npy"),
        (["inspect", "W"], 65, "k_proj.npy"),
        (["decode", "w.safetensors", "o.npy", "--tensor", "x"], 65, "no tensor 'x'; expected one of k_proj"),
        (["decode", "w.safetensors", "o.npy", "--tensor", "k_proj", "--rows", "5:900"], 2, "rows 5:900"),
        (["decode", "w.safetensors", "o.npy", "--rows", "5:9"], 2, "expected --tensor NAME"),
        (["decode", "w.safetensors", "o.xyz"], 2, "expected .npy, .safetensors or -"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(coded, one_line, args, code, message):
    shell, _ = coded
    run = shell.run("compress", *(str(WEIGHTS) if arg == "W" else arg for arg in args))

    assert run.returncode == code
    assert message in one_line(run.stderr)
    assert not any((shell.directory / name).exists() for name in ("o", "o.npy", "o.xyz"))


def test_a_full_disk_leaves_no_output(shell, one_line):
    run = shell.run("compress", "encode", str(WEIGHTS), "/dev/full")

    assert run.returncode == 1
    assert "/dev/full" in one_line(run.stderr.splitlines()[-1] + "\n")


def test_ctrl_c_ends_with_130_and_leaves_nothing(shell):
    """The signal comes once the first tensor is told, while a second one of the same file is being coded."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors = {f"t{i}": rng.standard_normal((512, 2048)).astype(np.float32) for i in range(6)}
    save_file(tensors, shell.directory / "in.safetensors")
    command = [Shell.llmsys, "compress", "encode", "in.safetensors", "out.safetensors", "--allocate", "uniform"]
    with subprocess.Popen(command, cwd=shell.directory, env=shell.env, stdout=subprocess.PIPE, text=True) as run:
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        run.stdout.read()
        code = run.wait(timeout=60)

    assert code == 130
    assert sorted(path.name for path in shell.directory.glob("*.safetensors*")) == ["in.safetensors"]
    assert list(shell.directory.glob(".out*")) == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A shell in whose directory `plain` is a small random model and `small` the same at 6 bits."""
    shell = Shell(tmp_path_factory.mktemp("model"))
    write_wide_model(shell.directory / "plain")
    run = shell.run("compress", "encode", "plain", "small", "--bits", "6")
    assert run.returncode == 0, run.stderr
    return shell


def test_eval_says_errors_of_tensors_and_divergence_of_the_model(model):
    (model.directory / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 4)
    run = model.run(
        "compress", "eval", "small", "--against", "plain", "--text", "text.txt", "--tokens", "120", "--json"
    )
    *tensors, score = records(run.stdout)

    assert run.returncode == 0, run.stderr
    assert len(tensors) == 15
    assert all(0 < line["nmse"] < 0.002 and line["cosine"] > 0.999 for line in tensors)
    assert score["tokens"] == 119
    assert 0 < score["kl"] < 0.05


def test_serve_lora_answers_from_a_compressed_directory_as_from_the_decoded_one(model):
    """The engine's loader takes the coded directory; what it answers is what the decoded weights answer."""
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (model.directory / "again").mkdir(exist_ok=True)
    decoded = model.run("compress", "decode", "small", "again/small")
    (model.directory / "ask.jsonl").write_text(json.dumps(line) + "\n")
    runs = [model.run("serve-lora", "run", "ask.jsonl", "--model", path) for path in ("small", "again/small")]
    answers = [records(run.stdout)[0]["response"]["body"]["choices"][0]["message"]["content"] for run in runs]

    assert [run.returncode for run in (decoded, *runs)] == [0, 0, 0], runs[0].stderr
    assert answers[0] == answers[1]


def test_sweep_gives_a_line_per_codec_and_rate_and_a_chart(shell):
    run = shell.run(
        *("compress", "sweep", str(WEIGHTS), "--codec", "tq,svtav1", "--bits", "2,3", "--plot", "rd.svg", "-q")
    )
    lines = records(run.stdout)

    assert run.returncode == 0, run.stderr
    assert [(line["codec"], round(line["bits"])) for line in lines] == [
        ("tq", 2), ("tq", 3), ("svtav1", 2), ("svtav1", 3)
    ]  # fmt: skip
    assert all(ours["gap_db"] < theirs["gap_db"] - 1 for ours, theirs in zip(lines[:2], lines[2:], strict=True))
    assert (shell.directory / "rd.svg").read_text().startswith("<?xml")


def test_engines_says_what_works_and_why_the_rest_does_not(shell):
    lines = {line["engine"]: line for line in records(shell.run("compress", "engines").stdout)}

    assert [lines[name]["works"] for name in ("tq", "x265", "x264", "svtav1")] == [True] * 4
    assert all(line["works"] or line["why"] for line in lines.values())
    assert lines["tq"]["decode_mb_s"] > 0


def test_bench_prints_rows_then_what_they_sum_up_to(shell):
    options = ("--model", "smollm2", "--tensor", "model.layers.5.self_attn.k_proj.weight", "--bits", "3", "--json")
    run = shell.run("compress", "bench", "--methods", "tq trellis 8,rtn g64,x264", *options)
    lines = records(run.stdout)

    assert run.returncode == 0, run.stderr
    assert [line["method"] for line in lines[:6]] == 2 * ["tq trellis 8", "rtn g64", "x264"]
    assert lines[0]["gap_db"] == lines[3]["gap_db"] < 0.5
    assert lines[6] | {"worst_db": 0} == {
        "target": "ahead of video on every matrix", "worst_db": 0, "wanted_db": 1.0, "reached": True
    }  # fmt: skip


def test_a_video_stream_is_coded_and_decoded_only_where_allowed(shell, one_line):
    coded = shell.run("compress", "encode", str(WEIGHTS), "v.safetensors", "--codec", "svtav1", "--bits", "3")
    refused = shell.run("compress", "decode", "v.safetensors", "v.npy")
    allowed = shell.run("compress", "decode", "v.safetensors", "v.npy", "--allow-video")

    assert (coded.returncode, refused.returncode, allowed.returncode) == (0, 2, 0), coded.stderr + allowed.stderr
    assert "--allow-video" in one_line(refused.stderr)
    assert 2.99 <= records(coded.stdout)[1]["bits"] <= 3.0
    assert np.load(shell.directory / "v.npy").shape == (192, 576)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (5 << 29, 5 << 29))
from llmsys.cli import main
sys.exit(main(["compress", "encode", "-", "-", "--bits", "4", "--trellis", "0", "--jobs", "1", "-q"]))
"""


@pytest.mark.slow
def test_a_stream_of_3_gb_runs_in_2_5_gib_of_address_space(shell):
    """One array of 3 GB: 768 Mi float32 in rows of 4096."""
    rows, width = 3 * (1 << 18) // 4, 4096
    block = np.random.default_rng(0).standard_normal((256, width)).astype(np.float32).tobytes()
    with (shell.directory / "frames").open("wb") as out:
        command = [sys.executable, "-c", LIMITED]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE, env=shell.env) as run:
            np.lib.format.write_array_header_1_0(
                run.stdin, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
            )
            for _ in range(rows // 256):
                run.stdin.write(block)
            run.stdin.close()
            told = run.stderr.read()
            code = run.wait()

    assert (code, told) == (0, b"")
    assert 3.9 < 8 * (shell.directory / "frames").stat().st_size / (rows * width) <= 4.0


def test_encode_rounds_to_nearest_and_auto_takes_what_is_closer(shell):
    rounded = shell.run("compress", "encode", str(WEIGHTS), "rtn.safetensors", "--codec", "rtn", "--bits", "3.6")
    best = shell.run("compress", "encode", str(WEIGHTS), "auto.safetensors", "--codec", "auto", "--bits", "3.6")
    verified = shell.run("compress", "verify", "rtn.safetensors", "--deep", "--json")
    first, chosen = records(rounded.stdout)[0], records(best.stdout)[0]

    assert (rounded.returncode, best.returncode, verified.returncode) == (0, 0, 0), rounded.stderr + best.stderr
    assert (first["codec"], chosen["codec"]) == ("rtn", "tq")
    assert chosen["nmse"] < first["nmse"] / 2


def test_a_calibrated_model_predicts_closer_to_the_original_at_the_same_rate(shell):
    write_wide_model(shell.directory / "model")
    text = "The river ran below the old mill, and the miller counted sacks until the lamp went out. " * 8
    (shell.directory / "notes.txt").write_text(text)
    (shell.directory / "held.txt").write_text(text[::-1])
    measured = shell.run("compress", "calibrate", "model", "notes.txt", "-o", "stats.safetensors", "--tokens", "600")
    rate = ("--bits", "2.5", "--keep", "*embed*", "--trellis", "0")
    plain = shell.run("compress", "encode", "model", "plain", *rate)
    ours = shell.run("compress", "encode", "model", "ours", *rate, "--calib", "stats.safetensors")
    scores = [
        records(
            shell.run("compress", "eval", name, "--against", "model", "--text", "held.txt", "--tokens", "250").stdout
        )[-1]
        for name in ("plain", "ours")
    ]

    assert (measured.returncode, plain.returncode, ours.returncode) == (0, 0, 0), measured.stderr + ours.stderr
    assert records(measured.stdout)[0]["matrices"] == 14
    assert {line["codec"] for line in records(ours.stdout)[:-1]} == {"wtq", "raw"}
    assert records(ours.stdout)[-1]["bits"] <= 2.5
    assert scores[1]["kl"] < 0.8 * scores[0]["kl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nmse", "0.1", "--calib", "t.txt"), "expected --bits or --size beside it"),
        (("--codec", "rtn", "--calib", "t.txt"), "--codec tq"),
        (("--allocate", "fisher"), "expected --calib TEXT or STATS"),
    ],
    ids=["an error", "another codec", "no calibration"],
)
def test_a_calibration_that_would_do_nothing_is_refused(shell, one_line, options, said):
    run = shell.run("compress", "encode", str(WEIGHTS), "w.safetensors", *options)

    assert run.returncode == 2
    assert said in one_line(run.stderr)


def test_a_cache_whose_tokens_are_alike_takes_fewer_bits_and_grows_page_by_page(shell):
    from tests.compress.test_token_transform import smooth_tokens

    for page in range(2):
        np.save(shell.directory / f"page{page}.npy", smooth_tokens(256, seed=page))
    sizes = []
    for kind in ("weights", "kv"):
        run = shell.pipeline(
            f"rm -f cache; for page in page0.npy page1.npy; do llmsys compress encode - - --kind {kind} --nmse 0.01 -q "
            "--trellis 0 < $page >> cache || exit 1; done; llmsys compress decode - back.npy < cache; wc -c < cache"
        )
        assert run.returncode == 0, run.stderr
        sizes.append(int(run.stdout))
    with (shell.directory / "back.npy").open("rb") as stream:
        pages = [np.load(stream) for _ in range(2)]

    assert sizes[1] < 0.8 * sizes[0]
    for page, back in enumerate(pages):
        original = np.load(shell.directory / f"page{page}.npy")
        assert ((back - original) ** 2).mean() / original.var() <= 0.01
