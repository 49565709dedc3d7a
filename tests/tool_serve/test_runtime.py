"""The runtime: gates, orders, bounds and times of calls, in virtual time."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.tool_serve.clock import run_virtual
from llmsys.tool_serve.effects import Effect, Policy, Speculate
from llmsys.tool_serve.events import Malformed
from llmsys.tool_serve.faults import ToolDeclarationError
from llmsys.tool_serve.records import CallEvent
from llmsys.tool_serve.runtime import Limits, State, ToolRuntime
from tests.tool_serve.turns import World, noting_tool, opened, sealed, unit, value

EIGHTH = 0.125  # sums of eighths are exact in binary


def turn(runtime, *timed, rest_s=0.0, finish="tool_calls"):
    """Play (delay, event) pairs into a turn, end it `rest_s` later; the outcomes and when they were there."""

    async def play():
        session = runtime.open_turn("r")
        for delay_s, event in timed:
            await asyncio.sleep(delay_s)
            session.take([event])
        await asyncio.sleep(rest_s)
        outcomes = await session.end_turn(finish)
        return outcomes, asyncio.get_running_loop().time()

    return run_virtual(play())


eighths = st.integers(0, 24).map(lambda n: n * EIGHTH)
works = st.lists(st.tuples(eighths, st.integers(1, 16).map(lambda n: n * EIGHTH)), min_size=1, max_size=6)


@given(works, eighths, eighths, st.sampled_from(list(Policy)))
def test_a_call_completes_at_the_time_of_the_closed_form(units, last_s, rest_s, policy):
    release, released = 0.0, []
    for delay_s, _ in units:
        release += delay_s
        released.append(release)
    sealed_s, work = release + last_s, [work for _, work in units]
    suffixes = [at + sum(work[number:]) for number, at in enumerate(released)]
    expected = {
        Policy.BLOCKING: sealed_s + rest_s + sum(work),
        Policy.SEAL: max(sealed_s + rest_s, sealed_s + sum(work)),
        Policy.PARTIAL: max(sealed_s + rest_s, *suffixes),
    }[policy]
    runtime = ToolRuntime([noting_tool(World(), "t", "pure")], policy=policy)
    events = [(0.0, opened(0, "t")), *((delay, unit(0, work)) for delay, work in units), (last_s, sealed(0))]

    outcomes, ended_s = turn(runtime, *events, rest_s=rest_s)

    assert outcomes[0].state is State.DONE
    assert ended_s == expected


@pytest.mark.parametrize(
    ("effect", "before_seal", "before_turn"),
    [
        ("pure", ["begin", "feed"], ["begin", "feed", "finish", "close"]),
        ("staged", ["begin", "feed"], ["begin", "feed", "finish"]),
        ("idempotent", ["begin"], ["begin", "feed", "finish", "close"]),
        ("effectful", ["begin"], ["begin"]),
    ],
)
def test_an_effect_decides_what_has_happened_at_each_gate(effect, before_seal, before_turn):
    world = World()
    runtime = ToolRuntime([noting_tool(world, "t", effect)])
    seen = []

    async def play():
        session = runtime.open_turn("r")
        session.take([opened(0, "t"), unit(0, EIGHTH)])
        await asyncio.sleep(1)
        seen.append([what for what, _, _ in world.log])
        session.take([sealed(0)])
        await asyncio.sleep(1)
        seen.append([what for what, _, _ in world.log])
        return await session.end_turn()

    outcomes = run_virtual(play())

    assert seen == [before_seal, before_turn]
    assert outcomes[0].state is State.DONE
    assert world.count("finish", "r/c0") == world.count("close", "r/c0") == 1


@pytest.mark.parametrize(
    ("speculate", "expected"),
    [
        (Speculate.OFF, {"pure": [], "staged": [], "idempotent": [], "effectful": []}),
        (Speculate.WARM, {"pure": ["begin"], "staged": [], "idempotent": ["begin"], "effectful": ["begin"]}),
        (Speculate.PURE, {"pure": ["begin", "feed"], "staged": [], "idempotent": ["begin"], "effectful": ["begin"]}),
    ],
)
def test_speculation_can_be_capped(speculate, expected):
    seen = {}
    for effect in Effect:
        world = World()
        runtime = ToolRuntime([noting_tool(world, "t", effect)], speculate=speculate)

        async def play(runtime=runtime, effect=effect, world=world):
            session = runtime.open_turn("r")
            session.take([opened(0, "t"), unit(0, EIGHTH)])
            await asyncio.sleep(1)
            seen[effect.value] = [what for what, _, _ in world.log]
            await session.retract("the test is over")

        run_virtual(play())

    assert seen == expected


def test_effectful_calls_run_in_the_order_in_which_they_were_written():
    world = World()
    runtime = ToolRuntime([noting_tool(world, "t", "effectful")])

    turn(runtime, *((0, opened(n, "t")) for n in range(3)), *((0, sealed(n, wait=3 - n)) for n in (2, 0, 1)))

    assert [call for what, call, _ in world.log if what == "finish"] == ["r/c0", "r/c1", "r/c2"]


def test_a_read_waits_for_an_earlier_write_of_the_same_resource_and_passes_one_of_another():
    world = World()
    tools = [
        noting_tool(world, "write", "effectful", resource="fs:{path}"),
        noting_tool(world, "read", "pure", resource="fs:{path}"),
    ]
    events = [
        (0, opened(0, "write")),
        (0, value(0, "path", "a")),
        (0, opened(1, "read")),
        (0, value(1, "path", "a")),
        (0, opened(2, "read")),
        (0, value(2, "path", "b")),
        (1, sealed(0, path="a")),
        (0, sealed(1, path="a")),
        (0, sealed(2, path="b")),
    ]

    turn(ToolRuntime(tools), *events, rest_s=1)

    finished = [call for what, call, _ in world.log if what == "finish"]
    assert finished == ["r/c2", "r/c0", "r/c1"]


def test_a_read_whose_resource_is_not_known_yet_waits_until_it_is():
    world = World()
    tools = [
        noting_tool(world, "write", "effectful", resource="fs:{path}"),
        noting_tool(world, "read", "pure", resource="fs:{path}"),
    ]

    async def play():
        session = ToolRuntime(tools).open_turn("r")
        session.take([opened(0, "write"), value(0, "path", "a"), opened(1, "read"), unit(1, EIGHTH)])
        await asyncio.sleep(1)
        before = world.count("begin", "r/c1")
        session.take([value(1, "path", "b")])
        await asyncio.sleep(1)
        after = world.count("feed", "r/c1")
        await session.retract("the test is over")
        return before, after

    assert run_virtual(play()) == (0, 1)


def test_an_unknown_tool_is_answered_with_the_names_of_those_there_are():
    runtime = ToolRuntime([noting_tool(World(), "alpha", "pure"), noting_tool(World(), "beta", "pure")])

    outcomes, _ = turn(runtime, (0, opened(0, "gamma")), (0, sealed(0)))

    assert outcomes[0].name == "gamma"
    assert outcomes[0].result.content == "error: there is no tool 'gamma'; the tools are: alpha, beta"


def test_a_tool_that_raises_gives_the_model_a_result_and_leaves_its_siblings_alone():
    runtime = ToolRuntime([noting_tool(World(), "t", "pure")])

    outcomes, _ = turn(runtime, (0, opened(0, "t")), (0, opened(1, "t")), (0, sealed(0, fail="oh")), (0, sealed(1)))

    assert [one.state for one in outcomes] == [State.FAILED, State.DONE]
    assert outcomes[0].result.content == "error: RuntimeError: oh"


def test_a_tool_that_hangs_is_ended_after_its_time_counted_from_the_seal():
    runtime = ToolRuntime([noting_tool(World(), "t", "pure", timeout_s=2)])

    outcomes, ended_s = turn(runtime, (0, opened(0, "t")), (5, sealed(0, wait=1e6)))

    assert outcomes[0].state is State.TIMED_OUT
    assert ended_s == 7
    assert outcomes[0].result.error == "timeout"


def test_the_wait_for_the_turn_does_not_count_as_the_tools_time():
    runtime = ToolRuntime([noting_tool(World(), "t", "effectful", timeout_s=2)])

    outcomes, _ = turn(runtime, (0, opened(0, "t")), (0, sealed(0, wait=1)), rest_s=100)

    assert outcomes[0].state is State.DONE


def test_a_call_whose_writer_falls_silent_is_ended():
    events: list[CallEvent] = []
    limits = Limits(idle_timeout_s=3)
    runtime = ToolRuntime([noting_tool(World(), "t", "pure")], limits, on_event=events.append)

    outcomes, _ = turn(runtime, (0, opened(0, "t")), (2, unit(0, EIGHTH)), rest_s=100)

    assert outcomes[0].state is State.TIMED_OUT
    assert next(one.t_s for one in events if one.event == "result") == 5


def test_a_full_queue_is_an_answer_and_not_an_error():
    limits = Limits(max_calls=1, max_waiting=1)
    runtime = ToolRuntime([noting_tool(World(), "t", "pure")], limits)

    calls = [(0, opened(n, "t")) for n in range(3)] + [(0.5, sealed(n, wait=1)) for n in range(3)]
    outcomes, _ = turn(runtime, *calls)

    assert [one.state for one in outcomes] == [State.DONE, State.DONE, State.FAILED]
    assert outcomes[2].result.error == "overloaded"


def test_tenants_take_turns_for_slots():
    world = World()
    runtime = ToolRuntime([noting_tool(world, "t", "pure")], Limits(max_calls=1))

    async def one(name, tenant):
        session = runtime.open_turn(name, tenant)
        session.take([opened(0, "t"), sealed(0, wait=1)])
        await session.end_turn()

    async def play():
        await asyncio.gather(*(one(f"a{n}", "ann") for n in range(4)), one("b0", "bob"), one("b1", "bob"))

    run_virtual(play())

    order = [call.split("/")[0] for what, call, _ in world.log if what == "begin"]
    assert order == ["a0", "a1", "b0", "a2", "b1", "a3"]


def test_the_bound_of_a_tool_holds_and_others_pass_it():
    world = World()
    runtime = ToolRuntime([noting_tool(world, "one", "pure", concurrency=1), noting_tool(world, "any", "pure")])
    calls = [opened(0, "one"), opened(1, "one"), opened(2, "any"), *(sealed(n, wait=1) for n in range(3))]

    _, ended_s = turn(runtime, *((0, event) for event in calls))

    assert ended_s == 2
    assert [call for what, call, _ in world.log if what == "begin"] == ["r/c0", "r/c2", "r/c1"]


def test_a_malformed_call_ends_decoding_and_keeps_its_text():
    runtime = ToolRuntime([noting_tool(World(), "t", "pure")])

    async def play():
        session = runtime.open_turn("r")
        session.take([opened(0, "t"), Malformed(0, "found ], expected a value", '{"a":]', 6)])
        return session.stop_reason, await session.end_turn()

    stop_reason, outcomes = run_virtual(play())

    assert stop_reason == "error: malformed call at byte 6: found ], expected a value"
    assert (outcomes[0].args, outcomes[0].raw, outcomes[0].state) == (None, '{"a":]', State.FAILED)


def test_an_output_past_the_cap_keeps_its_head_and_tail():
    from llmsys.tool_serve.tools import tool

    @tool(effect="pure")
    async def big() -> str:
        """Write a megabyte."""
        return "a" * 500_000 + "z" * 500_000

    outcomes, _ = turn(ToolRuntime([big], Limits(output_bytes=1000)), (0, opened(0, "big")), (0, sealed(0)))

    content = outcomes[0].result.content
    assert content.startswith("a" * 500)
    assert content.endswith("z" * 500)
    assert "999000 bytes left out" in content
    assert len(content) < 1100


def test_a_tool_that_holds_the_loop_is_named():
    import time

    from llmsys.tool_serve.tools import tool

    @tool(effect="pure")
    async def rude() -> str:
        """Block the loop."""
        time.sleep(0.06)
        return "done"

    events: list[CallEvent] = []
    turn(ToolRuntime([rude], on_event=events.append), (0, opened(0, "rude")), (0, sealed(0)))

    assert ["rude held the event loop" in one.reason for one in events if one.event == "held_loop"] == [True]


@pytest.mark.parametrize(("says", "state"), [(True, State.DONE), (False, State.FAILED), (None, State.FAILED)])
def test_a_tool_that_needs_approval_runs_only_with_it(says, state):
    world = World()

    async def approve(name, args):
        return says

    tools = [noting_tool(world, "t", "effectful", approval=True)]
    runtime = ToolRuntime(tools, approve=None if says is None else approve)

    outcomes, _ = turn(runtime, (0, opened(0, "t")), (0, unit(0, EIGHTH)), (0, sealed(0)))

    assert outcomes[0].state is state
    assert world.count("feed", "r/c0") == world.count("finish", "r/c0") == int(says is True)


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(ToolDeclarationError, match="two tools are named 't'"):
        ToolRuntime([noting_tool(World(), "t", "pure"), noting_tool(World(), "t", "pure")])
