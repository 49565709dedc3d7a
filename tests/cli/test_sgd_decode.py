"""`llmsys sgd-decode` as a subprocess: recorded texts in virtual time, and the embedded model."""

import json
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sgd-decode"
PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs - | level 1\nend"
SCRIPT = [
    {"match": {"contains": "Write an outline"}, "text": PLAN},
    {"match": {"contains": "Give the skeleton"}, "text": "1. Alpha\n2. Beta\n3. Gamma"},
    {"match": {"contains": "about part 1,"}, "text": "the code is 4711"},
    {"match": {"contains": "about part 2,", "anywhere": "4711"}, "text": "it was 4711"},
    {"match": {"contains": "about part"}, "tokens": 6},
    {"match": {"contains": "Continue with point"}, "tokens": 6},
    {"match": {"contains": "Why"}, "text": "Because."},
]
QUESTIONS = [
    {"id": "a", "question": "Why?"},
    {
        "custom_id": "b",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "Why not?"}]},
    },
]


@pytest.fixture
def scripted(shell):
    (shell.directory / "s.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in SCRIPT))
    (shell.directory / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in QUESTIONS))
    return shell


def answers(run):
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_both_forms_of_lines_are_answered_as_lines_of_a_batch(scripted):
    run = scripted.run("sgd-decode", "run", "q.jsonl", "--large", "script:s.jsonl", "--headings")
    first, second = answers(run)

    assert run.returncode == 0
    assert [first["custom_id"], second["custom_id"]] == ["a", "b"]
    body = first["response"]["body"]
    text = "**Alpha**\nthe code is 4711\n\n**Beta**\nit was 4711\n\n**Gamma**\nw0 w1 w2 w3 w4 w5"
    assert body["choices"][0]["message"]["content"] == text
    assert [node["needs"] for node in body["llmsys"]["plan"]["nodes"]] == [[], [1], []]
    assert body["llmsys"]["mode"] == "sgd"
    assert "question" in run.stderr


def test_events_and_timeline_tell_of_every_part(scripted):
    args = ("sgd-decode", "run", "q.jsonl", "--large", "script:s.jsonl", "--quiet")
    run = scripted.run(*args, "--events", "e.jsonl", "--chrome-trace", "t.json")
    events = [json.loads(line) for line in (scripted.directory / "e.jsonl").read_text().splitlines()]
    bars = [e for e in json.loads((scripted.directory / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]

    assert (run.returncode, run.stderr) == (0, "")
    assert [e["event"] for e in events].count("node_end") == 6
    assert [e["t_s"] for e in events] == sorted(e["t_s"] for e in events)
    assert sorted(bar["name"] for bar in bars) == sorted(["plan", "Alpha", "Beta", "Gamma"] * 2)


def test_the_same_bytes_come_for_every_width_of_the_batch(scripted):
    texts = {
        tuple(
            line["response"]["body"]["choices"][0]["message"]["content"]
            for line in answers(scripted.run("sgd-decode", "run", "q.jsonl", "--large", "script:s.jsonl", *width))
        )
        for width in (["--max-batch", "1"], ["--max-batch", "3", "--no-pipeline"], ["--concurrency", "1"])
    }

    assert len(texts) == 1


def test_a_part_that_cannot_be_written_is_marked_and_the_exit_code_tells(scripted):
    rules = [*SCRIPT[:2], {"match": {"contains": "about part 2,"}, "error": "overloaded"}, *SCRIPT[2:]]
    (scripted.directory / "s.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    run = scripted.run("sgd-decode", "run", "q.jsonl", "--large", "script:s.jsonl")

    assert run.returncode == 1
    assert "[part 2 unavailable]" in run.stdout
    assert "the code is 4711" in run.stdout


def test_modes_are_compared_on_the_same_questions_with_intervals(scripted):
    run = scripted.run("sgd-decode", "compare", "q.jsonl", "--large", "script:s.jsonl", "--repeat", "2")
    found = json.loads(run.stdout)
    modes = {row["mode"]: row for row in found["modes"]}
    rising = [modes["sgd"]["speed_up"][bound] for bound in ("low", "value", "high")]

    assert list(modes) == ["ar", "sot", "sgd-v1", "sgd"]
    assert modes["ar"]["graphs"] == 0
    assert modes["ar"]["trials"] == 4
    assert modes["ar"]["speed_up"] is None
    assert modes["sgd"]["mean_s"] < modes["sgd-v1"]["mean_s"]
    assert rising == sorted(rising)
    assert found["ran"] == ["structure"]
    assert "95 % intervals" in run.stderr


def test_answers_that_were_kept_are_judged_again_without_a_model(scripted):
    """A judge that always prefers the answer shown first prefers none: in both orders that is a tie."""
    (scripted.directory / "first.jsonl").write_text('{"text": "general: A\\nrelevance: A"}\n')
    args = ("--large", "script:s.jsonl", "--modes", "ar,sgd", "--save", "kept.jsonl", "--json")
    first = json.loads(scripted.run("sgd-decode", "compare", "q.jsonl", *args, "--judge", "none").stdout)
    again = ("sgd-decode", "compare", "kept.jsonl", "--rejudge", "--judge", "script:first.jsonl", "--json")
    both = json.loads(scripted.run(*again).stdout)
    once = json.loads(scripted.run(*again, "--order", "first", "--save", "judged.jsonl").stdout)
    kept = json.loads(scripted.run("sgd-decode", "compare", "judged.jsonl", "--rejudge", "--judge", "none").stdout)

    assert first["ran"] == []
    assert both["modes"] == first["modes"]
    assert [row["net"]["value"] for row in both["wins"]] == [0.0] * 6
    assert [row["wins"] for row in once["wins"]] == [2, 2, 0, 0, 0, 0]
    assert kept["wins"] == once["wins"]


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (("q.jsonl", "--large", "script:s.jsonl", "--judge", "embedded"), 2, "135M"),
        (("q.jsonl", "--large", "script:s.jsonl", "--judge", "script:none.jsonl"), 1, "none.jsonl"),
        (("q.jsonl", "--rejudge"), 65, "q.jsonl:1"),
        (("empty.jsonl", "--rejudge"), 65, "no answers"),
        (("q.jsonl", "--large", "script:s.jsonl", "--modes", "ar,spec"), 2, "'spec'"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(scripted, args, code, named):
    (scripted.directory / "empty.jsonl").write_text("")
    run = scripted.run("sgd-decode", "compare", *args)

    assert run.returncode == code
    assert named in run.stderr


@pytest.mark.parametrize(("form", "sign"), [("text", "| needs 1 |"), ("dot", "1 -> 2;"), ("mermaid", "p1 --> p2")])
def test_a_plan_in_any_words_is_printed_repaired(shell, form, sign):
    (shell.directory / "p.txt").write_text("1. **Causes** (easy)\n2. **Effects** - depends on 1 and 2 (hard)")
    run = shell.run("sgd-decode", "plan", "p.txt", "--from-text", "--format", form)

    assert run.returncode == 0
    assert sign in run.stdout
    assert "repair R5:2->2 itself, dropped" in run.stderr


@pytest.mark.parametrize(
    ("line", "code", "named"),
    [
        ('{"id": "a", "question": " "}', 65, "q.jsonl:1: an empty question"),
        ('{"id": "a"}', 65, "q.jsonl:1"),
        ("nonsense", 65, "q.jsonl:1"),
    ],
)
def test_a_line_that_is_no_question_is_told_with_its_place(scripted, line, code, named):
    (scripted.directory / "q.jsonl").write_text(line + "\n")
    run = scripted.run("sgd-decode", "run", "q.jsonl", "--large", "script:s.jsonl")

    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (code, "", 1)
    assert named in run.stderr


def test_bad_lines_can_be_skipped_and_are_named(scripted):
    with (scripted.directory / "q.jsonl").open("a") as file:
        file.write("nonsense\n")
    run = scripted.run("sgd-decode", "run", "q.jsonl", "--large", "script:s.jsonl", "--on-error", "skip")

    assert len(answers(run)) == 2
    assert "skipped q.jsonl:3" in run.stderr


def test_a_script_without_rules_and_a_mode_that_is_none_are_refused(scripted):
    (scripted.directory / "empty.jsonl").write_text("")

    assert scripted.run("sgd-decode", "run", "q.jsonl", "--large", "script:empty.jsonl").returncode == 65
    assert scripted.run("sgd-decode", "run", "q.jsonl", "--mode", "fast").returncode == 2
    assert scripted.run("sgd-decode", "compare", "q.jsonl", "--large", "script:s.jsonl", "--modes", "x").returncode == 2


def test_a_reader_that_leaves_ends_the_run_quietly(scripted):
    run = scripted.pipeline("llmsys sgd-decode run q.jsonl --large script:s.jsonl --quiet | head -1")

    assert (run.returncode, run.stderr, len(run.stdout.splitlines())) == (0, "", 1)


@pytest.mark.xdist_group("smollm2")
def test_the_embedded_model_plans_within_the_grammar_and_writes_every_part(shell):
    lines = (FIXTURES / "vicuna80.jsonl").read_text(encoding="utf-8").splitlines()[:1]
    (shell.directory / "q.jsonl").write_text("\n".join(lines))
    run = shell.run(
        *("sgd-decode", "run", "q.jsonl", "--max-nodes", "3", "--node-tokens", "8"),
        *("--answer-tokens", "16", "--min-gain", "0"),
        env={"OMP_NUM_THREADS": "1"},
    )
    (line,) = answers(run)
    found = line["response"]["body"]["llmsys"]

    assert run.returncode == 0
    assert found["plan"]["repairs"] == []
    assert 2 <= len(found["plan"]["nodes"]) <= 3
    assert all(node["tokens"] > 0 for node in found["plan"]["nodes"])
    assert found["tokens"]["prefill_saved"] > found["tokens"]["prefill"]
