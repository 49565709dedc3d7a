"""Video engines by trial: what works here works, and a codec that raises, crashes, hangs or lies is a verdict."""

import pytest

from llmsys.gpu import ENGINES, Engine, Verdict, probe_engine, probe_engines

X264 = Engine("libx264", "encode", "h264")
HOSTILE = {
    "raises": ("raise RuntimeError('no more sessions')", "the trial ended with code 1: RuntimeError: no more sessions"),
    "aborts": ("import os; os.abort()", "the codec crashed with SIGABRT"),
    "segfaults": ("import ctypes; ctypes.string_at(0)", "the codec crashed with SIGSEGV"),
    "exits": ("import sys; sys.exit(3)", "the trial ended with code 3: it said nothing"),
    "mute": ("", "the trial ended without a verdict"),
    "chatty": ("print('{broken')", "the trial ended without a verdict"),
    "listing": ("print([1, 2])", "the trial ended without a verdict"),
    "partial": ("print('{\"works\": true}')", "the trial ended without a verdict"),
    "binary": ("import sys; sys.stdout.buffer.write(bytes(range(256)))", "the trial ended without a verdict"),
}


@pytest.fixture
def trial(tmp_path):
    """A function that writes a trial program of the given text."""

    def write(text: str):
        program = tmp_path / "trial.py"
        program.write_text(text)
        return program

    return write


@pytest.mark.parametrize("engine", [e for e in ENGINES if not e.hardware], ids=lambda engine: engine.name)
def test_software_engines_of_the_wheel_work(engine):
    assert probe_engine(engine) == Verdict(engine, works=True, why="")


@pytest.mark.parametrize("engine", [e for e in ENGINES if e.hardware], ids=lambda engine: engine.name)
def test_a_hardware_engine_works_or_says_why_not(engine):
    found = probe_engine(engine)

    assert found.works == (found.why == "")


def test_verdicts_come_in_the_order_asked():
    asked = [ENGINES[1], ENGINES[3], ENGINES[7]]

    assert [verdict.engine for verdict in probe_engines(asked)] == asked


@pytest.mark.parametrize(
    ("engine", "word"),
    [
        (Engine("no_such_codec", "encode", "av1"), "no_such_codec"),
        (Engine("no_such_codec", "decode", "h264"), "no_such_codec"),
        (Engine("aac", "encode", "h264"), ""),
        (Engine("libx264", "encode", "hevc"), ""),
        (Engine("hevc", "decode", "h264"), ""),
    ],
    ids=["unknown encoder", "unknown decoder", "audio codec", "wrong stream written", "wrong stream read"],
)
def test_an_engine_that_cannot_do_its_role_is_told_apart(engine, word):
    found = probe_engine(engine)

    assert not found.works
    assert found.why != ""
    assert word in found.why


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_hostile_codec_is_a_verdict_and_not_the_end(trial, kind):
    text, why = HOSTILE[kind]

    assert probe_engine(X264, trial=trial(text)) == Verdict(X264, works=False, why=why)


def test_a_codec_that_hangs_is_ended_and_told(trial):
    found = probe_engine(X264, timeout_s=0.5, trial=trial("import threading; threading.Event().wait()"))

    assert found == Verdict(X264, works=False, why="no answer within 0.5 s")


def test_what_a_codec_writes_before_the_verdict_is_ignored(trial):
    found = probe_engine(X264, trial=trial('print(\'x264 [info]: hello\'); print(\'{"works": true, "why": ""}\')'))

    assert found == Verdict(X264, works=True, why="")


def test_a_claim_that_is_not_plainly_true_does_not_count(trial):
    found = probe_engine(X264, trial=trial('print(\'{"works": "maybe", "why": "perhaps"}\')'))

    assert found == Verdict(X264, works=False, why="perhaps")


def test_a_reason_is_kept_short(trial):
    found = probe_engine(X264, trial=trial("import sys; sys.exit('x' * 10_000)"))

    assert len(found.why) <= 200


def test_a_missing_pyav_is_a_reason_and_not_a_crash(trial, pytestconfig):
    hidden = trial(
        "import runpy, sys\n"
        "sys.modules['av'] = None\n"
        f"runpy.run_path({str(pytestconfig.rootpath / 'gpu' / '_video_trial.py')!r})['main'](*sys.argv[1:])\n"
    )

    found = probe_engine(X264, trial=hidden)

    assert not found.works
    assert "av" in found.why
