"""Any text is a plan: what comes out is a graph in line order, and reading it again changes nothing."""

import json
import sys
import tracemalloc
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.sgd_decode.plan import Node, Plan, clean_title, render
from llmsys.sgd_decode.plan_items import Item
from llmsys.sgd_decode.repair import parse_plan, repair

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sgd-decode"
BAD = [json.loads(line) for line in (FIXTURES / "bad_plans.jsonl").read_text(encoding="utf-8").splitlines()]
GOOD = [json.loads(line) for line in (FIXTURES / "plans.jsonl").read_text(encoding="utf-8").splitlines()]

ids = st.integers(-3, 14) | st.just(10**17)
items = st.lists(
    st.builds(
        Item,
        id=st.none() | ids,
        title=st.text(max_size=8),
        needs=st.lists(ids, max_size=6).map(tuple),
        level=st.none() | st.integers(-2, 12) | st.sampled_from(["hard", "7/10", "0/0", "★★★", "soon"]),
    ),
    max_size=16,
)


def plan_of(record):
    return Plan(tuple(Node(n["id"], n["title"], tuple(n["needs"]), n["level"]) for n in record["nodes"]))


def check_graph(plan):
    assert [node.id for node in plan.nodes] == list(range(1, len(plan.nodes) + 1))
    for node in plan.nodes:
        assert node.title
        assert 1 <= node.level <= 5
        assert list(node.needs) == sorted(set(node.needs))
        assert all(1 <= need < node.id for need in node.needs)


@given(st.text())
def test_any_text_gives_a_graph_and_reading_it_again_changes_nothing(text):
    plan = parse_plan(text)

    check_graph(plan)
    assert parse_plan(render(plan)).nodes == plan.nodes


@given(items, st.integers(1, 12))
def test_any_items_give_a_graph_of_at_most_so_many_parts(given_items, max_nodes):
    plan = repair(given_items, max_nodes=max_nodes)

    check_graph(plan)
    assert len(plan.nodes) <= max_nodes
    assert parse_plan(render(plan), max_nodes=max_nodes) == plan


@given(st.data())
def test_a_real_plan_with_lines_cut_moved_and_mangled_still_gives_a_graph(data):
    lines = render(plan_of(data.draw(st.sampled_from(GOOD)))).splitlines()
    text = "\n".join(data.draw(st.permutations(lines)))
    at = data.draw(st.integers(0, len(text)))
    check_graph(parse_plan(text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 9)) :]))


@pytest.mark.parametrize("record", GOOD, ids=lambda record: record["id"])
def test_a_well_formed_plan_is_never_altered(record):
    plan = plan_of(record)

    assert parse_plan(render(plan)) == plan
    assert parse_plan(render(plan)).repairs == ()


@pytest.mark.parametrize("record", BAD, ids=lambda record: record["why"][:40])
def test_recorded_bad_plans_give_a_graph(record):
    check_graph(parse_plan(record["text"]))


def test_a_cut_json_array_of_parts_that_all_need_each_other_becomes_a_chain():
    plan = parse_plan(BAD[0]["text"])

    assert [(node.title, node.needs, node.level) for node in plan.nodes] == [
        ("Identify and prioritize tasks", (), 1),
        ("Create a schedule", (1,), 2),
        ("Set reminders", (1, 2), 3),
    ]
    assert "R6:1->2 closes a cycle, dropped" in plan.repairs


def test_markdown_with_words_for_levels_is_read():
    plan = parse_plan(
        "Sure!\n1. **Causes** (independent; easy)\n2. **Effects** - depends on 1 (difficulty: hard)\nBye!"
    )

    assert [(node.title, node.needs, node.level) for node in plan.nodes] == [("Causes", (), 2), ("Effects", (1,), 4)]


@pytest.mark.parametrize("text", ["", "single", "Time is money. Write things down.", "[]", "{}", "\x00", "[" * 10_000])
def test_prose_and_nothing_are_an_answer_in_one_piece(text):
    assert parse_plan(text).single
    assert render(parse_plan(text)) == "single"


def test_a_forward_need_moves_the_part_behind_it_and_keeps_the_order_of_the_others():
    plan = parse_plan(
        "1. A | needs 3 | level 1\n2. B | needs - | level 1\n3. C | needs - | level 1\n4. D | needs 1 | level 1"
    )

    assert [node.title for node in plan.nodes] == ["B", "C", "A", "D"]
    assert plan.nodes[2].needs == (2,)
    assert plan.nodes[3].needs == (3,)


def test_a_part_without_a_title_hands_its_needs_to_its_children():
    plan = repair([Item(1, "A", (), 1), Item(2, "  ", (1,), 1), Item(3, "C", (2,), 1)])

    assert [(node.title, node.needs) for node in plan.nodes] == [("A", ()), ("C", (1,))]


def test_a_duplicate_with_the_same_title_is_dropped_and_with_another_is_kept():
    plan = repair([Item(1, "A", (), 1), Item(1, "A", (), 1), Item(1, "B", (), 1), Item(2, "C", (1,), 1)])

    assert [(node.title, node.needs) for node in plan.nodes] == [("A", ()), ("B", ()), ("C", (1,))]


@given(items)
def test_reduction_keeps_what_must_be_done_before_what(given_items):
    plan = repair(given_items)
    full, reduced = (nx.DiGraph() for _ in range(2))
    for graph, nodes in ((full, plan.nodes), (reduced, plan.reduced().nodes)):
        graph.add_nodes_from(node.id for node in nodes)
        graph.add_edges_from((need, node.id) for node in nodes for need in node.needs)

    assert set(reduced.edges) == set(nx.transitive_reduction(full).edges)
    if plan.nodes:
        assert plan.depth == nx.dag_longest_path_length(full) + 1
        assert plan.width == max(len(level) for level in nx.topological_generations(full))


@given(st.text(max_size=600))
def test_cleaning_a_title_twice_is_cleaning_it_once(text):
    assert clean_title(clean_title(text)) == clean_title(text)
    assert len(clean_title(text)) <= 120


@pytest.mark.parametrize(
    "piece", ["1. x | needs 2,3 | level 9\n", "[{", "(((", "1. " * 3, "- ", "needs 1 and ", " " * 50]
)
@pytest.mark.timeout(60)
def test_megabytes_of_hostile_text_are_read(piece):
    """Quadratic reading of four million characters would take hours."""
    check_graph(parse_plan(piece * (4_000_000 // len(piece))))


@pytest.mark.parametrize(
    ("text", "loose"),
    [
        ("1. A | needs - | level 1\n2. B | needs 1 | level 2\nend", 0),
        ("Sure!\n1. A | needs - | level 1\n2. B | needs 1 | level 2\nend\nThat is it.", 2),
        ("```\n1. A | needs - | level 1\n2. B | needs 1 | level 2\nend\n```", 0),
        ('Here:\n```json\n[{"title": "A"}, {"title": "B"}]\n```\nLet me know!', 2),
        ('{"title": "A"}\n{"title": "B"}\nbye', 1),
        ("My list\n\n- A\n- B", 1),
        ("1. A (easy)\n   which is fun\n2. B (hard)", 1),
    ],
)
def test_lines_that_are_no_part_are_counted_as_rule_one(text, loose):
    plan = parse_plan(text)
    told = [repair for repair in plan.repairs if repair.startswith("R1:")]

    assert len(plan.nodes) == 2
    assert told == ([f"R1:{loose} lines that are no part, ignored"] if loose else [])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1. A | needs - | level 1\n1. B | needs - | level 1\n2. C | needs 1 | level 5", "R2:1 again, renumbered"),
        ("7. A | needs - | level 1\n9. B | needs 7 | level 1", "R3:renumbered"),
        ("1. A | needs 9 | level 1\n2. B | needs 1 | level 1", "R4:1->9 unknown, dropped"),
        ("1. A | needs 1 | level 1\n2. B | needs 1 | level 1", "R5:1->1 itself, dropped"),
        ("1. A | needs 2 | level 1\n2. B | needs - | level 1", "R6:1 moved to 2, behind what it needs"),
        ("1. A | needs 2 | level 1\n2. B | needs 1 | level 1", "R6:1->2 closes a cycle, dropped"),
        ("1. A | needs - | level 9/10\n2. B | needs 1 | level 1", "R8:1 level '9/10' read as 5"),
        (
            "1. ** | needs - | level 1\n2. B | needs 1 | level 1\n3. C | needs - | level 1",
            "R10:1 without a title, dropped",
        ),
    ],
)
def test_every_rule_that_is_applied_is_told(text, rule):
    assert rule in parse_plan(text).repairs


def test_parts_beyond_the_most_are_merged_and_that_is_told():
    text = "\n".join(f"{number}. Part {number} | needs {number - 1 or '-'} | level 2" for number in range(1, 13))
    plan = parse_plan(text, max_nodes=4)

    assert [node.needs for node in plan.nodes] == [(), (1,), (2,), (3,)]
    assert plan.nodes[-1].title.startswith("Part 4; Part 5")
    assert "R9:8 beyond 4 merged into the last" in plan.repairs


def test_a_million_rules_are_not_a_million_lines():
    plan = parse_plan("\n".join(f"1. Title {number} | needs 77 | level x" for number in range(20_000)))

    assert len(plan.repairs) <= 40


def hostile_chain(count):
    """Empty parts, each of which hands on what the one before it needs, and one part more."""
    lines = (
        f"{2 * at + 1}. Title {at} | needs - | level 1\n{2 * at + 2}. * | needs {2 * at},{2 * at + 1} | level 1"
        for at in range(count)
    )
    return "\n".join(lines)


@pytest.mark.parametrize(
    "make",
    [
        hostile_chain,
        lambda count: "1. A | needs 1\n" * count,
        lambda count: "[" + ",".join(f'{{"id": {at}, "title": "t", "needs": [{at + 1}]}}' for at in range(count)),
        lambda count: "1. A | needs " + ",".join(map(str, range(count))) + "\n2. B | needs 1 | level 1",
        lambda count: "- x\n" * count,
    ],
    ids=["chain of empties", "duplicates", "forward needs", "long needs", "bullets"],
)
def test_twice_the_hostile_text_takes_twice_the_work_and_not_four_times(make):
    """Work is counted in calls of Python functions and the most memory held: neither depends on the clock."""
    small, large = cost_of(make(1500)), cost_of(make(3000))

    assert large[0] <= 2.5 * small[0] + 1000
    assert large[1] <= 2.5 * small[1] + 100_000


def cost_of(text):
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        parse_plan(text)
    finally:
        sys.setprofile(None)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return calls, most


@given(st.lists(st.sampled_from(["* ", "Title", "", "|"]), min_size=1, max_size=14), st.data())
def test_dropping_parts_without_a_title_keeps_who_comes_before_whom(titles, data):
    """Against networkx: among parts with a title, a path through dropped ones stays a path."""
    count = len(titles)
    needs = [data.draw(st.sets(st.integers(1, max(1, at)), max_size=3)) if at else set() for at in range(count)]
    given_items = [Item(at + 1, title, tuple(sorted(needs[at])), 1) for at, title in enumerate(titles)]
    plan = repair(given_items, max_nodes=count)
    whole = nx.DiGraph((need - 1, at) for at in range(count) for need in needs[at] if need - 1 < at)
    whole.add_nodes_from(range(count))
    kept = [at for at, title in enumerate(titles) if clean_title(title)]
    found = nx.DiGraph((need, node.id) for node in plan.nodes for need in node.needs)
    found.add_nodes_from(node.id for node in plan.nodes)

    assert len(plan.nodes) == len(kept)
    for first, one in enumerate(kept):
        for second, other in enumerate(kept):
            assert nx.has_path(found, first + 1, second + 1) == nx.has_path(whole, one, other)
