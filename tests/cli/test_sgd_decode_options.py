"""Every option of `llmsys sgd-decode run` and `plan` that changes what is written: shown on recorded texts."""

import json

import pytest

LONG = "It starts here. " + " ".join(f"Number {count} follows." for count in range(40)) + " It ends there."
PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 4\n3. Gamma | needs - | level 1\nend"
CHAIN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs 2 | level 1\nend"


def rule(contains, text="", **fields):
    return {"match": {"contains": contains}, "text": text, **fields}


SCRIPT = [
    rule("Answer with one letter", "C"),
    rule("Write an outline", PLAN),
    rule("about part 1,", LONG),
    {"match": {"contains": "about part 2,", "anywhere": "Number 20 follows"}, "text": "Beta saw all of it."},
    {"match": {"contains": "about part 2,", "anywhere": "It starts here"}, "text": "Beta saw the ends."},
    rule("about part 2,", "Beta saw nothing."),
    rule("about part 3,", "Gamma."),
    rule("along these parts", "In one piece along the plan."),
    rule("Why", "In one piece."),
]


@pytest.fixture
def asked(shell):
    """Runs `run` on one question with a script, and returns the process, the answer's body and its llmsys part."""
    write(shell, "q.jsonl", [{"id": "a", "question": "Why?"}])

    def ask(*args, script=SCRIPT, **settings):
        write(shell, "s.jsonl", script)
        run = shell.run("sgd-decode", "run", "q.jsonl", "--large", "script:s.jsonl", *args, **settings)
        body = json.loads(run.stdout)["response"]["body"] if run.returncode == 0 else None
        return run, body, body and body["llmsys"]

    return ask


def write(shell, name, records):
    (shell.directory / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def text_of(body):
    return body["choices"][0]["message"]["content"]


def events_of(shell, *names):
    lines = (shell.directory / "e.jsonl").read_text().splitlines()
    return [(event["event"], event["node"]) for event in map(json.loads, lines) if event["event"] in names]


@pytest.mark.parametrize(
    ("how", "saw"), [("full", "saw all of it"), ("summary:8", "saw the ends"), ("none", "saw nothing")]
)
def test_forward_says_how_much_of_a_parent_a_part_sees(asked, how, saw):
    _, body, _ = asked("--forward", how, "--node-tokens", "300")

    assert saw in text_of(body)


@pytest.mark.parametrize(("threshold", "models"), [("0", "LLL"), ("2", "SLS"), ("5", "SSS")])
def test_threshold_sends_easy_parts_to_the_small_model(asked, shell, threshold, models):
    write(shell, "small.jsonl", [{**one, "text": one["text"].replace("Gamma", "small Gamma")} for one in SCRIPT])
    _, body, found = asked("--small", "script:small.jsonl", "--threshold", threshold, "--node-tokens", "300")

    assert "".join(node["model"][0].upper() for node in found["plan"]["nodes"]) == models
    assert ("small Gamma" in text_of(body)) == (models[2] == "S")


def test_planner_small_lets_the_small_model_plan(asked, shell):
    write(shell, "small.jsonl", [rule("Write an outline", CHAIN), *SCRIPT[2:]])
    _, _, found = asked("--small", "script:small.jsonl", "--planner", "small", "--min-gain", "0")

    assert [node["needs"] for node in found["plan"]["nodes"]] == [[], [1], [2]]


def test_escalate_has_unsure_parts_written_by_the_large_model(asked, shell):
    write(shell, "small.jsonl", [rule("about part 3,", "Hm.", logprob=-4.0), rule("about part", "Ha.", logprob=-0.1)])
    args = ("--small", "script:small.jsonl", "--escalate", "--escalate-below", "-2", "--events", "e.jsonl")
    _, body, found = asked(*args)

    assert text_of(body) == "Ha.\n\nBeta saw nothing.\n\nGamma."
    assert [node["model"] for node in found["plan"]["nodes"]] == ["small", "large", "large"]
    assert events_of(shell, "escalate") == [("escalate", 3)]


@pytest.mark.parametrize(("flag", "early"), [("--pipeline", True), ("--no-pipeline", False)])
def test_pipeline_starts_parts_before_the_plan_ends(asked, flag, early):
    _, _, found = asked(flag, "--full-plan", "never", "--min-gain", "0")

    assert (found["plan"]["nodes"][0]["start_s"] < found["t_plan_s"]) == early


@pytest.mark.parametrize(("how", "early"), [("never", True), ("always", False)])
def test_full_plan_lets_parts_wait_for_the_plan(asked, how, early):
    _, _, found = asked("--full-plan", how)

    assert (found["plan"]["nodes"][0]["start_s"] < found["t_plan_s"]) == early


@pytest.mark.parametrize(
    ("args", "mode", "text"),
    [
        (("--min-gain", "0"), "sgd", "Gamma."),
        (("--min-gain", "1.1"), "ar", "In one piece along the plan."),
        (("--min-gain", "1.1", "--on-flat", "drop"), "ar", "In one piece."),
    ],
)
def test_min_gain_and_on_flat_decide_about_a_chain(asked, args, mode, text):
    _, body, found = asked(*args, script=[rule("Write an outline", CHAIN), *SCRIPT[2:]])

    assert found["mode"] == mode
    assert text_of(body).endswith(text)


@pytest.mark.parametrize(("router", "mode"), [("plan", "sgd"), ("model", "ar")])
def test_router_decides_in_mode_auto(asked, router, mode):
    long = [*SCRIPT[:-1], rule("Why", tokens=400)]
    _, _, found = asked("--mode", "auto", "--router", router, "--node-tokens", "300", script=long)

    assert found["mode"] == mode


def test_router_learns_from_labels(asked, shell):
    labels = [
        {"question": f"{word} {thing}?", "parallel_suitable": int(word == "List")}
        for word in ("Why", "List")
        for thing in ("tea", "rain", "bread", "sleep")
    ]
    write(shell, "labels.jsonl", labels)
    _, _, found = asked("--mode", "auto", "--router", "labels.jsonl")

    assert found["mode"] == "ar"


@pytest.mark.parametrize("mode", ["ar", "sot", "sgd", "sgd-v1"])
def test_mode_is_the_one_that_is_named(asked, mode):
    script = [rule("Give the skeleton", "1. Alpha\n2. Beta"), rule("Continue with point", "A point."), *SCRIPT]
    _, _, found = asked("--mode", mode, "--min-gain", "0", script=script)

    assert found["mode"] == mode


def test_node_tokens_answer_tokens_and_max_nodes_are_limits(asked):
    _, _, found = asked("--node-tokens", "5", "--max-nodes", "2", "--min-gain", "0")
    _, body, _ = asked("--mode", "ar", "--answer-tokens", "2")

    assert [node["tokens"] for node in found["plan"]["nodes"]] == [5, 5]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 2


def test_prompts_are_taken_from_a_file(asked, shell):
    source = (shell.directory / "p.toml").open("w", encoding="utf-8")
    names = ("plan", "reminder", "part", "forwarded", "parent", "skeleton", "point", "unavailable", "whole", "router")
    with source:
        source.writelines(f'{name} = "about part {{id}}, {name}"\n' for name in (*names, "judge"))
    _, body, _ = asked("--prompts", "p.toml", script=[rule("about part {id}, plan", PLAN), rule("", "Mine.")])

    assert text_of(body) == "Mine.\n\nMine.\n\nMine."


def test_a_script_in_real_time_takes_its_time_and_writes_the_same(asked):
    _, virtual, _ = asked("--quiet")
    _, real, found = asked("--quiet", "--clock", "real")

    assert text_of(real) == text_of(virtual)
    assert found["t_total_s"] > 0.5  # 40 steps of 20 ms and more


@pytest.mark.parametrize(("ending", "starts"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<")])
def test_plot_draws_every_part(asked, shell, ending, starts):
    run, _, _ = asked("--quiet", "--plot", f"g.{ending}")
    drawn = (shell.directory / f"g.{ending}").read_bytes()

    assert (run.returncode, run.stderr) == (0, "")
    assert drawn.startswith(starts)
    if ending == "html":
        assert all(title.encode() in drawn for title in ("Alpha", "Beta", "Gamma"))


def test_events_say_when_parts_are_ready_start_and_end(asked, shell):
    asked("--quiet", "--events", "e.jsonl", "--full-plan", "never")
    order = events_of(shell, "node_ready", "node_start", "node_end")

    for number in (1, 2, 3):
        steps = [name for name, node in order if node == number]
        assert steps == ["node_ready", "node_start", "node_end"]
    assert order.index(("node_ready", 2)) > order.index(("node_end", 1))
    assert {name for name, _ in events_of(shell, "plan_start", "plan_end", "fork", "prefill", "done")} == {
        *("plan_start", "plan_end", "fork", "prefill", "done")
    }


def test_the_table_names_what_the_specification_asks_for(asked):
    run, _, found = asked()

    for word in ("question", "parts", "depth", "width", "plan s", "total s", "AR s", "speed-up", "bound"):
        assert word in run.stderr
    assert {"mode", "plan", "t_plan_s", "t_total_s", "tokens", "t_ar_est_s", "lower_bound_s"} <= set(found)
    assert found["critical_path_tokens"] > 0


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--forward", "some"), "summary:N"),
        (("--plot", "g.gif"), ".svg"),
        (("--planner", "small"), "--small"),
        (("--max-batch", "0"), "max-batch"),
        (("--temperature", "3"), "temperature"),
        (("--clock", "sun"), "virtual"),
        (("--full-plan", "maybe"), "always"),
        (("--on-flat", "keep"), "hint"),
    ],
)
def test_a_value_that_is_none_is_wrong_usage(asked, args, named):
    run, _, _ = asked(*args)

    assert run.returncode == 2
    assert named in run.stderr


def test_a_plan_is_asked_of_a_model_or_read_in_json(shell):
    write(shell, "q.jsonl", [{"id": "a", "question": "Why?"}])
    write(shell, "s.jsonl", [rule("Write an outline", "Sure!\n" + PLAN)])
    run = shell.run("sgd-decode", "plan", "q.jsonl", "--large", "script:s.jsonl", "--format", "json")
    found = json.loads(run.stdout)

    assert [node["needs"] for node in found["nodes"]] == [[], [1], []]
    assert found["repairs"] == ["R1:1 lines that are no part, ignored"]
    assert "repair R1" in run.stderr
