"""`llmsys tool-serve` as a user runs it: text parsed, tools called, requests answered by scripts and the real model."""

import json
import signal
import subprocess
import time

import jsonschema
import pytest

from tests.cli.conftest import LLMSYS
from tests.tool_serve.test_formats import ROWS, schemas_of
from tests.tool_serve.written import hermes

CODE = "import time\ntime.sleep(0.2)\nprint('one')\ntime.sleep(0.2)\nprint('two')\n3 * 7"
STAGED = """
import os, time
from pathlib import Path
from llmsys.tool_serve.tools import CallContext, PartialTool, tool

@tool(name="put", effect="staged")
class Put(PartialTool):
    "Put a note in its place when the message ends."
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

    def begin(self, ctx: CallContext) -> None:
        self.beside = Path("note.tmp").absolute()
        ctx.remember(beside=str(self.beside))
        self.beside.write_text("")

    def finish(self, args):
        self.beside.write_text(args["text"])
        return "staged"

    def commit(self):
        os.replace(self.beside, "note.txt")

    def rollback(self, reason):
        self.beside.unlink(missing_ok=True)

    def recover(self, ctx):
        Path(ctx.memory["beside"]).unlink(missing_ok=True)

@tool(effect="effectful")
def send(to: str) -> str:
    "Send a letter."
    with open("sent.txt", "a") as sent:
        sent.write(to + "\\n")
    return "sent"
"""


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def request(name, content="go", **body):
    body = {"model": "embedded", "messages": [{"role": "user", "content": content}], **body}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def turn(name, text, rate=0.0, size=6, **more):
    pieces = [{"text": text[at : at + size]} for at in range(0, len(text), size)]
    return {"match": {"custom_id": name}, "deltas": pieces, "tok_per_s": rate, **more}


def answer_of(run, name="a"):
    (line,) = [one for one in records(run.stdout) if one["custom_id"] == name]
    return line["response"]["body"]


def prepared(shell, requests, turns):
    (shell.directory / "requests.jsonl").write_text(lines(requests))
    (shell.directory / "script.jsonl").write_text(lines(turns))
    return "tool-serve", "run", "requests.jsonl", "--backend", "script:script.jsonl"


def test_real_calls_are_parsed_from_a_pipe_and_held_to_their_schemas(shell):
    row = next(one for one in ROWS if len(one["calls"]) > 1)
    (shell.directory / "tools.json").write_text(json.dumps(row["tools"]))
    run = shell.run("tool-serve", "parse", "--schema", "tools.json", input=hermes(row["calls"], schemas_of(row)))

    sealed = [one for one in records(run.stdout) if one["event"] == "sealed"]
    assert [{"name": one["name"], "arguments": one["args"]} for one in sealed] == row["calls"]


def test_documents_that_interleave_in_chunks_are_told_apart(shell):
    texts = {row["id"]: hermes(row["calls"], {}) for row in ROWS[:5]}
    chunks = []
    for at in range(0, max(map(len, texts.values())), 7):
        chunks += [{"doc": doc, "text": text[at : at + 7]} for doc, text in texts.items() if text[at : at + 7]]
    chunks += [{"doc": doc, "end": True} for doc in texts]
    run = shell.run("tool-serve", "parse", "--chunked", "--format", "hermes", input=lines(chunks))

    sealed = [one for one in records(run.stdout) if one["event"] == "sealed"]
    for row in ROWS[:5]:
        own = [{"name": one["name"], "arguments": one["args"]} for one in sealed if one["doc"] == row["id"]]
        assert own == row["calls"]


def test_a_call_is_told_before_the_text_goes_on(shell):
    with subprocess.Popen(
        [LLMSYS, "tool-serve", "parse"],
        cwd=shell.directory,
        env=shell.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdin.write('<tool_call>{"name":"f","arguments":{"a":"ü"'.encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["event"] == "call_open"
        process.stdin.close()
        assert process.wait(60) == 0
        assert b'"event":"invalid"' in process.stdout.read()


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        ((), b"caf\xc3", "stdin: byte 4: half a character at the end; expected UTF-8"),
        ((), b"caf\xff\xff", "stdin: byte 3: invalid start byte; expected UTF-8"),
        (("--format", "openai"), b"not json\n", "'not json'"),
        (("--schema", "bad.json"), b"", "bad.json"),
        (("--chunked",), b'{"text":"x"}\n', "stdin:1: "),
    ],
)
def test_input_that_does_not_fit_is_refused_in_one_line(shell, args, given, message):
    (shell.directory / "bad.json").write_text('{"a": 1}')
    run = subprocess.run(
        [LLMSYS, "tool-serve", "parse", *args],
        cwd=shell.directory,
        env=shell.env,
        input=given,
        capture_output=True,
        check=False,
    )

    assert run.returncode == 65
    assert message in run.stderr.decode()
    assert run.stderr.count(b"\n") == 1


def test_tools_are_listed_and_called_one_by_one(shell):
    (shell.directory / "mine.py").write_text(STAGED)
    listed = shell.run("tool-serve", "tools", "list", "--tools", "mine.py", "--tools", "builtin:calculator", "--json")
    called = shell.run(
        "tool-serve", "tools", "call", "calculator", '{"expression":"6*7"}', "--tools", "builtin:calculator"
    )
    wrong = shell.run("tool-serve", "tools", "call", "calculator", '{"expr":"6*7"}', "--tools", "builtin:calculator")

    effects = {one["name"]: one["effect"] for one in json.loads(listed.stdout)["tools"]}
    assert effects == {"put": "staged", "send": "effectful", "calculator": "pure"}
    assert records(called.stdout)[0]["content"] == "42"
    assert wrong.returncode == 1
    assert "$.expr is no argument; expected expression" in records(wrong.stdout)[0]["content"]


def test_arguments_are_fed_as_stdin_brings_them(shell):
    text = json.dumps({"code": CODE})
    command = [LLMSYS, "tool-serve", "tools", "call", "python", "--stream", "--tools", "builtin:python"]
    with subprocess.Popen(
        command, cwd=shell.directory, env=shell.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for at in range(0, len(text), 20):
            process.stdin.write(text[at : at + 20])
            process.stdin.flush()
        process.stdin.close()
        found = json.loads(process.stdout.read())
        assert process.wait(60) == 0

    assert found["content"] == "one\ntwo\n21\n"
    assert found["facts"]["sandbox"] == "bubblewrap"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:pyton", "--tools builtin:pyton; expected some of python, shell"),
        ("builtin:sqlite", "--tools builtin:sqlite; expected some of"),
        ("nothing.py", "--tools nothing.py: no such Python file"),
        ("no.such:thing", "--tools no.such:thing: No module named 'no'"),
        ("what", "--tools 'what'; expected builtin:NAME"),
    ],
)
def test_tools_that_are_none_are_refused_by_name(shell, spec, message):
    run = shell.run("tool-serve", "tools", "list", "--tools", spec)

    assert run.returncode == 2
    assert message in run.stderr


def python_call(code=CODE):
    return f"I compute.\n{hermes([{'name': 'python', 'arguments': {'code': code}}], {})}"


def test_a_program_runs_while_it_is_written_and_the_transcript_is_that_of_waiting(shell):
    turns = [turn("a", python_call(), rate=40.0), turn("a", "It is 21.")]
    command = prepared(shell, [request("a")], turns)
    runs = {
        policy: answer_of(shell.run(*command, "--tools", "builtin:python", "--policy", policy))
        for policy in ("partial", "seal", "blocking")
    }

    said = [json.dumps(one["llmsys"]["messages"]) for one in runs.values()]
    assert said[0] == said[1] == said[2]
    assert [one["role"] for one in runs["partial"]["llmsys"]["messages"]] == ["assistant", "tool", "assistant"]
    assert runs["partial"]["llmsys"]["messages"][1]["content"] == "one\ntwo\n21\n"
    assert runs["partial"]["choices"][0]["message"]["content"] == "It is 21."
    assert runs["partial"]["llmsys"]["t_overlap_s"] > 0
    assert runs["blocking"]["llmsys"]["t_overlap_s"] == 0


def test_several_requests_and_calls_overlap_and_results_keep_the_order_of_calls(shell):
    calls = [{"name": "sleep", "arguments": {"seconds": s}} for s in (0.6, 0.1, 0.3)]
    names = [f"r{number}" for number in range(4)]
    turns = [one for name in names for one in (turn(name, hermes(calls, {})), turn(name, "Rested."))]
    run = shell.run(*prepared(shell, [request(name) for name in names], turns), "--tools", "builtin:sleep")

    answers = [one["response"]["body"]["llmsys"] for one in records(run.stdout)]
    assert sorted(one["custom_id"] for one in records(run.stdout)) == names
    for one in answers:
        results = [message["content"] for message in one["messages"] if message["role"] == "tool"]
        assert results == ["slept 0.6 s", "slept 0.1 s", "slept 0.3 s"]
        assert one["calls"][1]["over_s"] < one["calls"][0]["over_s"]


def test_structured_calls_of_a_server_are_taken_like_written_ones(shell):
    deltas = [
        {"tool_call": {"index": 0, "id": "c9", "function": {"name": "calculator", "arguments": '{"expr'}}},
        {"tool_call": {"index": 0, "function": {"arguments": 'ession": "2+2"}'}}},
    ]
    turns = [{"match": {"contains": "sum"}, "deltas": deltas, "finish": "tool_calls"}, turn("a", "Four.")]
    body = answer_of(shell.run(*prepared(shell, [request("a", "a sum")], turns), "--tools", "builtin:calculator"))

    assert body["llmsys"]["calls"][0]["id"] == "c9"
    assert body["llmsys"]["messages"][1] == {"role": "tool", "tool_call_id": "c9", "content": "4"}


def test_tools_of_the_request_are_announced_and_left_to_the_client(shell):
    declared = {"type": "function", "function": {"name": "ask", "parameters": {"type": "object"}}}
    turns = [turn("a", hermes([{"name": "ask", "arguments": {"q": "?"}}], {}))]
    body = answer_of(shell.run(*prepared(shell, [request("a", tools=[declared])], turns)))

    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert body["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "ask", "arguments": '{"q":"?"}'}


def test_faults_of_calls_are_results_for_the_model_and_faults_of_the_model_end_its_request_alone(shell):
    calls = [{"name": "calculator", "arguments": {"expression": "1/0"}}, {"name": "nobody", "arguments": {}}]
    turns = [
        turn("a", hermes(calls, {})),
        turn("a", "Sorry."),
        turn("c", '<tool_call>{"name": "calculator", "arg: '),
        turn("c", "Oh."),
    ]
    requests = [request("a"), request("b"), request("c")]
    run = shell.run(*prepared(shell, requests, turns), "--tools", "builtin:calculator")

    told = [one["content"] for one in answer_of(run)["llmsys"]["messages"] if one["role"] == "tool"]
    (failed,) = [one for one in records(run.stdout) if one["error"] is not None]
    broken = [one["content"] for one in answer_of(run, "c")["llmsys"]["messages"] if one["role"] == "tool"]
    assert run.returncode == 1
    assert "division by zero" in told[0]
    assert told[1] == "error: there is no tool 'nobody'; the tools are: calculator"
    assert failed["custom_id"] == "b"
    assert "the script has 0 turns for it" in failed["error"]["message"]
    assert "malformed call at byte" in broken[0]


def test_an_effect_happens_once_when_the_message_has_ended_and_never_when_it_is_cut_off(shell):
    (shell.directory / "mine.py").write_text(STAGED)
    call = hermes([{"name": "send", "arguments": {"to": "ann"}}, {"name": "put", "arguments": {"text": "hi"}}], {})
    ends = [turn("a", call), turn("a", "Sent."), turn("b", call, finish="length")]
    run = shell.run(*prepared(shell, [request("a"), request("b")], ends), "--tools", "mine.py")

    assert (shell.directory / "sent.txt").read_text() == "ann\n"
    assert (shell.directory / "note.txt").read_text() == "hi"
    assert not (shell.directory / "note.tmp").exists()
    assert [one["state"] for one in answer_of(run, "b")["llmsys"]["calls"]] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_staged_is_undone_after_a_kill_and_by_ctrl_c(shell, how):
    (shell.directory / "mine.py").write_text(STAGED)
    call = hermes([{"name": "put", "arguments": {"text": "never"}}], {})
    command = prepared(
        shell, [request("a")], [turn("a", call + "and then some more text that takes its time", rate=10.0)]
    )
    command = [LLMSYS, *command, "--tools", "mine.py", "--journal", "journal"]
    with subprocess.Popen(command, cwd=shell.directory, env=shell.env, stderr=subprocess.PIPE) as process:
        beside = shell.directory / "note.tmp"
        while not (beside.exists() and beside.read_text() == "never"):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(how)
        code = process.wait(60)
    left = beside.exists()
    again = shell.run(
        *prepared(shell, [request("a")], [turn("a", "Nothing.")]), "--tools", "mine.py", "--journal", "journal"
    )

    assert (code, left) == ((-9, True) if how is signal.SIGKILL else (130, False))
    assert again.returncode == 0, again.stderr
    assert not beside.exists()
    assert not (shell.directory / "note.txt").exists()
    assert ("rolled back 1 calls" in again.stderr) == (how is signal.SIGKILL)


def test_events_and_timeline_tell_what_happened_when(shell):
    command = prepared(
        shell, [request("a")], [turn("a", python_call("print(1)\nprint(2)\n"), rate=200.0), turn("a", "2")]
    )
    shell.run(*command, "--tools", "builtin:python", "--events", "e.jsonl", "--chrome-trace", "t.json")
    events = records((shell.directory / "e.jsonl").read_text())
    spans = json.loads((shell.directory / "t.json").read_text())["traceEvents"]

    kinds = [one["event"] for one in events]
    assert kinds[0] == "call_open"
    assert kinds[-3:] == ["result", "decoding", "decoding"]
    assert kinds.count("unit") == kinds.count("sealed") == 1
    assert {"turn 0", "turn 1"} <= {one.get("name") for one in spans}


def test_a_recorded_run_is_replayed_under_every_policy_and_drawn(shell):
    command = prepared(shell, [request("a")], [turn("a", python_call(), rate=40.0), turn("a", "It is 21.")])
    times = answer_of(shell.run(*command, "--tools", "builtin:python", "--events", "events.jsonl"))["llmsys"]

    found = shell.run("tool-serve", "replay", "events.jsonl", "--policy", "blocking,partial", "--plot", "saved.svg")
    first, second = records(found.stdout)

    assert found.returncode == 0, found.stderr
    assert (first["calls"], second["calls"]) == (1, 0)
    assert "seal_s" not in first
    assert first["work_s"] == pytest.approx(times["t_tool_busy_s"], abs=0.01)
    assert first["blocking_s"] + second["blocking_s"] == pytest.approx(times["t_blocking_est_s"], abs=0.01)
    assert first["partial_s"] < first["blocking_s"] - 0.1
    assert (shell.directory / "saved.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_every_constrained_call_of_the_embedded_model_is_valid(shell):
    """Its choice of tool may be weak; its calls parse and keep to the real schemas, all of them."""
    rows = [one for one in ROWS if len(one["tools"]) == 1][:3]
    requests = [request(one["id"], one["messages"][0]["content"], tools=one["tools"], max_tokens=160) for one in rows]
    (shell.directory / "requests.jsonl").write_text(lines(requests))
    run = shell.run("tool-serve", "run", "requests.jsonl", "--constrain", "call", "--max-turns", "1")

    assert run.returncode == 0, run.stderr
    for row in rows:
        calls = answer_of(run, row["id"])["llmsys"]["calls"]
        assert [one["state"] for one in calls] == ["done"]
        jsonschema.validate(calls[0]["args"], schemas_of(row)[calls[0]["name"]])


@pytest.mark.slow
def test_the_embedded_model_gets_its_tools_result_and_answers(shell):
    (shell.directory / "requests.jsonl").write_text(lines([request("a", "What is 12 times 7?", max_tokens=40)]))
    run = shell.run("tool-serve", "run", "requests.jsonl", "--tools", "builtin:calculator", "--max-turns", "2")
    said = answer_of(run)["llmsys"]["messages"]

    assert [one["role"] for one in said] == ["assistant", "tool", "assistant"]
    assert said[0]["tool_calls"][0]["function"]["name"] == "calculator"
    assert said[2]["content"]


def test_bench_sets_policies_side_by_side_and_their_transcripts_are_equal(shell):
    options = ("--only", "calculator,database", "--repeat", "1", "--rate", "400", "--json")
    found = json.loads(shell.run("tool-serve", "bench", *options).stdout)

    assert [row["workload"] for row in found["rows"]] == ["calculator", "database"]
    assert all(row["same_transcripts"] for row in found["rows"])
    assert all(row["partial_s"] >= row["bound_s"] > 0 for row in found["rows"])


def test_bench_refuses_a_workload_that_it_does_not_know(shell):
    run = shell.run("tool-serve", "bench", "--only", "weather")

    assert run.returncode == 2
    assert "--only 'weather'; expected all, or some of code, search" in run.stderr
