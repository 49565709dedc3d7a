"""`llmsys sgd-decode serve` as a subprocess: ready line, answers, signals, and other commands as its clients."""

import json
import signal
import socket
import subprocess
from contextlib import contextmanager

import httpx2
import pytest

pytestmark = pytest.mark.slow

PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs - | level 1\nend"
SCRIPT = [
    {"match": {"contains": "Write an outline"}, "text": PLAN},
    {"match": {"contains": "about part 1,"}, "text": "The code is 4711."},
    {"match": {"contains": "about part 2,", "anywhere": "4711"}, "text": "It was 4711."},
    {"match": {"contains": "about part"}, "text": "Third."},
    {"match": {"contains": "for ever"}, "tokens": 1_000_000},
    {"text": "Because."},
]
TEXT = "The code is 4711.\n\nIt was 4711.\n\nThird."
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Why?"}]}


@contextmanager
def serving(shell, *args, env=None):
    """A server on a free port; yields the process and its address, and ends it."""
    (shell.directory / "s.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in SCRIPT))
    command = [shell.llmsys, "sgd-decode", "serve", "--port", "0", "--large", "script:s.jsonl", *args]
    process = subprocess.Popen(
        command, cwd=shell.directory, env=shell.env | (env or {}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


def ask(url, body=None, **headers):
    return httpx2.post(f"{url}/v1/chat/completions", json=body or ASKED, headers=headers, timeout=60)


def test_questions_are_answered_until_a_signal_which_ends_it_with_success(shell):
    with serving(shell) as (process, url):
        answered = ask(url).json()
        plain = ask(url, **{"X-LLMSYS-Mode": "ar"}).json()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)

        assert answered["choices"][0]["message"]["content"] == TEXT
        assert plain["choices"][0]["message"]["content"] == "Because."
        assert (process.returncode, out, err) == (0, "", "")


def test_an_interrupt_ends_it_as_it_ends_every_command(shell):
    with serving(shell) as (process, url):
        ask(url)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

        assert process.returncode == 130
        assert "Traceback" not in err


def test_a_signal_waits_for_open_questions_only_so_long(shell):
    for_ever = {**ASKED, "messages": [{"role": "user", "content": "for ever"}], "stream": True, "max_tokens": 999_999}
    with serving(shell, "--mode", "ar", "--drain-s", "1") as (process, url):
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=for_ever, timeout=60) as stream:
            next(stream.iter_lines())
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)

        assert process.returncode == 0
        assert "Traceback" not in err


@pytest.mark.parametrize("stage", ["run", "compare"])
def test_other_verbs_ask_it_as_they_ask_any_server(shell, stage):
    """The HTTP backend against our own server: the plan, every part and the answer go over the wire."""
    (shell.directory / "q.jsonl").write_text('{"id": "a", "question": "Why?"}\n')
    more = ("--modes", "sgd", "--json") if stage == "compare" else ()
    with serving(shell, "--mode", "ar") as (_, url):
        run = shell.run("sgd-decode", stage, "q.jsonl", "--large", f"{url}/v1#script", *more)
    (line,) = run.stdout.splitlines()
    found = json.loads(line)

    assert run.returncode == 0
    if stage == "run":
        assert found["response"]["body"]["choices"][0]["message"]["content"] == TEXT
        assert found["response"]["body"]["llmsys"]["tokens"]["prefill_saved"] >= 0
    else:
        assert found["modes"][0]["graphs"] == 1


def test_a_key_in_the_environment_is_asked_of_clients(shell):
    with serving(shell, env={"LLMSYS_API_KEY": "secret"}) as (_, url):
        assert ask(url).status_code == 401
        assert ask(url, authorization="Bearer secret").status_code == 200


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (("--host", "0.0.0.0"), 2, "LLMSYS_API_KEY"),
        (("--large", "script:nothing.jsonl"), 1, "nothing.jsonl"),
        (("--port", "{taken}"), 69, "cannot listen"),
        (("--escalate",), 2, "--small"),
        (("--mode", "fast"), 2, "fast"),
    ],
)
def test_what_cannot_be_served_is_one_line(shell, one_line, args, code, named):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        run = shell.run("sgd-decode", "serve", *(arg.format(taken=taken) for arg in args))

    assert run.returncode == code
    assert named in run.stderr
    assert code == 2 or one_line(run.stderr)
