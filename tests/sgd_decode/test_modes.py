"""Skeleton-of-Thought, one piece and auto, step by step on recorded texts; what settings and backends refuse."""

import json

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.errors import BadInput, Unavailable, UsageFault
from llmsys.sgd_decode import (
    MODES,
    VIEWS,
    ByModel,
    Decoder,
    DecodeSettings,
    Forwarding,
    Match,
    PacedBackend,
    PairBackend,
    Prompts,
    Routing,
    Rule,
    ScriptBackend,
    StepTime,
    Stuck,
    answer_all,
    open_backend,
    parse_plan,
    plan_texts,
    view,
    with_step_time,
    writer_for,
)
from tests.sgd_decode.stand_ins import question
from tests.sgd_decode.test_plan_stream import plans

LAW = StepTime(1.0, 0.1)
WIDE = "\n".join(f"{number}. Part {number} | needs - | level 2" for number in range(1, 6)) + "\nend"
CHAIN = "\n".join(f"{number}. Part {number} | needs {number - 1 or '-'} | level 2" for number in range(1, 6)) + "\nend"


def answer(rules, *, events=None, slots=8, count=1, router=None, **fields):
    backend = ScriptBackend(rules, step_time=LAW, slots=slots)
    make = writer_for(DecodeSettings(**fields), listen=(events if events is not None else []).append, router=router)
    return list(answer_all([question(number) for number in range(count)], backend, make)), backend


def skeleton(outline, *more):
    return [Rule(Match("Give the skeleton"), outline), *more, Rule(Match("Continue with point"), tokens=6)]


def test_points_of_a_skeleton_are_written_all_at_once_after_it():
    events = []
    (done,), _ = answer(skeleton("1. One thing\n2. Another\n3. Third"), mode="sot", events=events)

    assert done.mode == "sot"
    assert [part.title for part in done.parts] == ["One thing", "Another", "Third"]
    assert {part.start_s for part in done.parts} == {done.plan_s}
    assert [event.event for event in events].count("node_end") == 3


def test_points_wait_for_free_slots_and_come_in_order():
    (done,), backend = answer(skeleton("1. A1\n2. B2\n3. C3\n4. D4"), mode="sot", slots=2)
    starts = [part.start_s for part in done.parts]

    assert starts == sorted(starts)
    assert starts[2] > starts[0]
    assert [job.id for job in backend.jobs] == ["0/plan", "0/1", "0/2", "0/3", "0/4"]


@pytest.mark.parametrize("outline", ["", "I would rather not.", "1. Only one", "single"])
def test_a_skeleton_without_two_points_is_an_answer_in_one_piece(outline):
    """Their implementation crashes on it; here it is an answer."""
    (done,), _ = answer(skeleton(outline or "\n", Rule(Match("Why?"), "Because.")), mode="sot")

    assert (done.text, done.mode) == ("Because.", "ar")
    assert done.tokens.plan > 0


def test_a_point_that_fails_is_marked_and_the_others_stay():
    failing = skeleton("1. A1\n2. B2", Rule(Match("point 1 of"), error="down"), Rule(Match("point 2 of"), "Two."))
    (done,), _ = answer(failing, mode="sot")

    assert done.text == "[part 1 unavailable]\n\nTwo."
    assert done.missing == [1]


def test_a_skeleton_that_fails_is_an_answer_in_one_piece():
    (done,), _ = answer([Rule(Match("Give the skeleton"), error="down"), Rule(Match("Why?"), "Because.")], mode="sot")

    assert done.text == "Because."


def test_points_see_the_skeleton_and_no_other_point():
    _, backend = answer(skeleton("1. A1\n2. B2", Rule(Match("point 1 of"), "the secret is out")), mode="sot")

    assert all("1. A1" in job.messages[2]["content"] for job in backend.jobs[1:])
    assert not any("secret" in message["content"] for job in backend.jobs for message in job.messages)


@pytest.mark.parametrize("mode", ["ar", "sot", "sgd", "sgd-v1", "auto"])
def test_a_text_that_loops_is_ended_in_every_mode(mode):
    loop = "one two three four five six seven eight nine ten eleven twelve " * 40
    rules = [Rule(Match("Write an outline"), WIDE), Rule(Match("Give the skeleton"), "1. A1\n2. B2"), Rule(text=loop)]
    (done,), backend = answer(rules, mode=mode, node_tokens=400)

    assert done.tokens.answer < 200 * max(1, len(done.parts))
    assert backend.wait() == []


def test_an_answer_in_one_piece_has_the_questions_limit_and_ends_where_it_says():
    (done,), _ = answer([Rule(tokens=50)], mode="ar", answer_tokens=7)

    assert done.finish == "length"
    assert done.tokens.answer == 7
    assert done.plan.single
    assert done.total_s == pytest.approx(7 * LAW.of(1))


def test_auto_gives_the_graph_where_the_plan_is_wide_and_one_piece_where_it_is_a_chain():
    def auto(plan):
        rules = [Rule(Match("Write an outline"), plan), Rule(Match("about part"), tokens=80), Rule(tokens=400)]
        (done,), backend = answer(rules, mode="auto", step_time=LAW)
        return done, [job.id for job in backend.jobs]

    wide, wide_jobs = auto(WIDE)
    chain, chain_jobs = auto(CHAIN)

    assert (wide.mode, chain.mode) == ("sgd", "ar")
    assert wide_jobs[:2] == ["0/plan", "0/answer"]
    assert chain_jobs == ["0/plan", "0/answer"]
    assert wide.tokens.dropped > 0
    assert chain.tokens.dropped > 0


def test_auto_with_one_slot_still_answers():
    rules = [Rule(Match("Write an outline"), WIDE), Rule(Match("about part"), tokens=80), Rule(tokens=400)]
    (done,), _ = answer(rules, mode="auto", step_time=LAW, slots=1)

    assert done.text
    assert done.finish in ("stop", "length")


@given(st.lists(st.sampled_from([WIDE, CHAIN, "single", "", "prose"]), min_size=1, max_size=4), st.integers(1, 5))
@settings(max_examples=25)
def test_auto_answers_every_question_whatever_its_plan_and_the_width(given_plans, slots):
    rules = [Rule(Match("Write an outline"), plan or "\n", times=1) for plan in given_plans]
    rules += [Rule(Match("about part"), tokens=30), Rule(tokens=100)]
    answers, backend = answer(rules, mode="auto", step_time=LAW, slots=slots, count=len(given_plans))

    assert len(answers) == len(given_plans)
    assert all(done.text and not done.failed for done in answers)
    assert backend.wait() == []


def test_a_router_that_cannot_be_asked_sends_to_one_piece():
    rules = [Rule(Match("Answer with one letter"), error="down"), Rule(Match("Why?"), "Because.")]
    (done,), _ = answer(rules, mode="auto", router=ByModel(Prompts.load()))

    assert (done.text, done.mode) == ("Because.", "ar")


def test_questions_that_can_never_go_on_are_a_fault_and_no_endless_loop():
    class Refusing(ScriptBackend):
        """Has no slot to give."""

    with pytest.raises(Stuck):
        list(answer_all([question(0)], Refusing([], slots=0), writer_for(DecodeSettings())))
    assert Decoder(ScriptBackend([])).unfinished == 0


@pytest.mark.parametrize("field", [{"mode": "fast"}, {"mode": "spec"}, {"full_plan": "maybe"}, {"on_flat": "keep"}])
def test_settings_that_are_none_are_refused(field):
    with pytest.raises(UsageFault, match="expected one of"):
        DecodeSettings(**field)


def test_the_first_sgd_neither_pipelines_nor_shares_nor_goes_on():
    first = DecodeSettings(mode="sgd-v1")

    assert (first.pipeline, first.continue_parent, first.share_prefix) == (False, False, False)
    assert DecodeSettings().pipeline
    assert MODES == ("auto", "ar", "sot", "sgd", "sgd-v1")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"text": "x"}) + "\n")
    return f"script:{path}"


def test_a_backend_is_opened_by_its_name(script):
    def opened(**fields):
        return open_backend(script, slots=3, grammar=False, **fields)

    assert isinstance(opened(), ScriptBackend)
    assert isinstance(opened(clock="real"), PacedBackend)
    assert isinstance(opened(small=script), PairBackend)
    assert opened(small=script).slots == 3


def test_a_backend_that_is_not_there_is_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadInput, match="no rules"):
        open_backend(f"script:{tmp_path / 'empty.jsonl'}", slots=1, grammar=False)
    with pytest.raises(Unavailable, match="lists no models"):
        open_backend("http://127.0.0.1:9/v1", slots=1, grammar=False)


def test_step_times_are_asked_for_only_where_a_plan_is_judged_by_them(script):
    backend = open_backend(script, slots=1, grammar=False)

    assert with_step_time(DecodeSettings(mode="sgd"), backend).step_time == backend.step_time()
    assert with_step_time(DecodeSettings(mode="ar"), backend).step_time is None
    assert with_step_time(DecodeSettings(mode="sgd", min_gain=0.0), backend).step_time is None


def test_plans_alone_are_written_one_by_one_and_a_fault_names_the_question():
    rules = [Rule(Match("Write an outline"), WIDE, times=1), Rule(Match("Write an outline"), error="down")]
    (first,) = plan_texts([question(0)], ScriptBackend(rules), DecodeSettings())

    assert len(first.nodes) == 5
    with pytest.raises(Exception, match="question q1: down"):
        plan_texts([question(0), question(1)], ScriptBackend(rules), DecodeSettings())


@given(plans())
def test_a_plan_looked_at_as_json_is_all_of_it(plan):
    shown = json.loads(view(plan, "json"))

    assert [(n["id"], n["title"], tuple(n["needs"]), n["level"]) for n in shown["nodes"]] == [
        (node.id, node.title, node.needs, node.level) for node in plan.nodes
    ]


@given(plans())
def test_graphs_are_drawn_without_edges_that_follow_from_others(plan):
    """Against networkx's transitive reduction."""
    graph = nx.DiGraph((need, node.id) for node in plan.nodes for need in node.needs)
    graph.add_nodes_from(node.id for node in plan.nodes)
    edges = {f"  {a} -> {b};" for a, b in nx.transitive_reduction(graph).edges}
    arrows = {f"  p{a} --> p{b}" for a, b in nx.transitive_reduction(graph).edges}

    assert {line for line in view(plan, "dot").splitlines() if "->" in line and "label" not in line} == edges
    assert {line for line in view(plan, "mermaid").splitlines() if "-->" in line and "[" not in line} == arrows


@given(plans())
def test_depth_and_width_are_those_of_the_graph(plan):
    graph = nx.DiGraph((need, node.id) for node in plan.nodes for need in node.needs)
    graph.add_nodes_from(node.id for node in plan.nodes)
    layers = list(nx.topological_generations(graph))

    assert plan.depth == nx.dag_longest_path_length(graph) + 1 == len(layers)
    assert plan.width == max(map(len, layers))


def test_quotes_in_titles_do_not_break_out_of_a_drawing():
    plan = parse_plan('1. A "quoted" title | needs - | level 1\n2. B\\ack | needs 1 | level 1')

    assert '1 [label="1. A \\"quoted\\" title"];' in view(plan, "dot")
    assert "&quot;quoted&quot;" in view(plan, "mermaid")
    assert set(VIEWS) == {"text", "json", "dot", "mermaid"}
    with pytest.raises(UsageFault, match="text, json, dot, mermaid"):
        view(plan, "png")


def test_routing_and_forwarding_stand_for_one_model_and_all_text_by_default():
    assert Routing() == Routing(pair=False, threshold=2, planner="large", escalate=False, escalate_below=None)
    assert DecodeSettings().forward == Forwarding("full")
