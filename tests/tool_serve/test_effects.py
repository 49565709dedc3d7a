"""Effects under random calls and retractions: none without its gate, each committed or rolled back, once."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.tool_serve.clock import run_virtual
from llmsys.tool_serve.effects import Effect, Gate, Policy, Speculate, plan_gates
from llmsys.tool_serve.runtime import Limits, State, ToolRuntime
from tests.tool_serve.turns import World, noting_tool, opened, sealed, unit

STEP_S = 0.125


@given(st.sampled_from(list(Effect)), st.sampled_from(list(Policy)), st.sampled_from(list(Speculate)))
def test_no_policy_moves_a_gate_forward(effect, policy, speculate):
    declared = plan_gates(effect, Policy.PARTIAL)
    plan = plan_gates(effect, policy, speculate)

    assert plan.begin >= declared.begin
    assert plan.feed >= declared.feed
    assert plan.finish >= declared.finish >= Gate.SEALED
    assert plan.commit == declared.commit


calls = st.lists(
    st.fixed_dictionaries(
        {
            "effect": st.sampled_from([effect.value for effect in Effect]),
            "resource": st.sampled_from([None, "x", "y"]),
            "units": st.lists(st.integers(0, 3), max_size=3),
            "wait": st.integers(0, 3),
            "fail": st.booleans(),
            "sealed": st.booleans(),
        }
    ),
    min_size=1,
    max_size=5,
)


def events_of(plan):
    """The events of calls that are written one after the other, and the arguments of those that are sealed."""
    events, args = [], {}
    for number, call in enumerate(plan):
        events.append(opened(number, f"t{number}"))
        events += [unit(number, n * STEP_S) for n in call["units"]]
        if call["sealed"]:
            args[number] = {"wait": call["wait"] * STEP_S} | ({"fail": "oh"} if call["fail"] else {})
            events.append(sealed(number, **args[number]))
    return events, args


def played(world, plan, *, policy, cut, after_end, limits=None):
    """Play the calls' events `STEP_S` apart; retract after `cut` events, or `after_end` steps after the end."""
    tools = [noting_tool(world, f"t{n}", call["effect"], resource=call["resource"]) for n, call in enumerate(plan)]
    runtime = ToolRuntime(tools, limits, policy=policy, on_invalid="finish")
    events, _ = events_of(plan)

    async def play():
        session = runtime.open_turn("r")
        for number, event in enumerate(events):
            if number == cut:
                return await session.retract("cut")
            session.take([event])
            await asyncio.sleep(STEP_S)
        if after_end is None:
            return await session.end_turn()
        ending = asyncio.create_task(session.end_turn())
        await asyncio.sleep(after_end * STEP_S)
        await session.retract("late")
        return await ending

    return run_virtual(asyncio.wait_for(play(), 10_000))


@settings(max_examples=300)
@given(
    calls,
    st.sampled_from(list(Policy)),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 12),
    st.sampled_from([1, 2, 64]),
)
def test_effects_equal_committed_calls_and_rollbacks_are_exact(plan, policy, cut, after_end, max_calls):
    world = World()
    outcomes = played(world, plan, policy=policy, cut=cut, after_end=after_end, limits=Limits(max_calls=max_calls))
    cut_short = cut is not None and cut < len(events_of(plan)[0])

    for outcome in outcomes:
        call, effect = f"r/{outcome.id}", plan[outcome.index]["effect"]
        begun, committed, rolled_back = (world.count(what, call) for what in ("begin", "commit", "rollback"))
        finished = world.count("finish", call)
        assert world.count("close", call) == begun <= 1
        assert finished <= 1
        if effect == "staged":
            assert committed + rolled_back == begun
            assert committed == (outcome.state is State.DONE)
        else:
            assert committed == rolled_back == 0
        if effect == "effectful" and cut_short:
            assert finished == 0
        if effect == "effectful" and outcome.state is State.DONE:
            assert finished == 1
        if not plan[outcome.index]["sealed"]:
            assert finished == 0
            assert outcome.state is not State.DONE


@settings(max_examples=100)
@given(calls, st.sampled_from([1, 3, 64]))
def test_results_are_those_of_a_blocking_run(plan, max_calls):
    def results(policy):
        outcomes = played(World(), plan, policy=policy, cut=None, after_end=None, limits=Limits(max_calls=max_calls))
        return [(one.name, one.args, one.result) for one in outcomes]

    blocking = results(Policy.BLOCKING)

    assert results(Policy.SEAL) == blocking
    assert results(Policy.PARTIAL) == blocking


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", "error"])
def test_a_message_that_did_not_end_normally_has_no_effects(finish_reason):
    world = World()
    runtime = ToolRuntime([noting_tool(world, "e", "effectful"), noting_tool(world, "s", "staged")])

    async def play():
        session = runtime.open_turn("r")
        session.take([opened(0, "e"), opened(1, "s"), sealed(0), sealed(1)])
        await asyncio.sleep(1)
        return await session.end_turn(finish_reason)

    outcomes = run_virtual(play())

    assert [one.state for one in outcomes] == [State.CANCELLED, State.CANCELLED]
    assert world.count("finish", "r/c0") == 0
    assert world.count("rollback", "r/c1") == 1
    assert finish_reason in outcomes[0].result.content


def test_a_staged_tool_that_reports_an_error_is_rolled_back():
    from llmsys.tool_serve.results import ToolResult
    from llmsys.tool_serve.tools import PartialTool, tool

    log = []

    @tool(effect="staged", parameters={"type": "object"})
    class Refusing(PartialTool):
        async def finish(self, args):
            return ToolResult("no", "refused")

        async def commit(self):
            log.append("commit")

        async def rollback(self, reason):
            log.append("rollback")

    async def play():
        session = ToolRuntime([Refusing]).open_turn("r")
        session.take([opened(0, "Refusing"), sealed(0)])
        return await session.end_turn()

    assert run_virtual(play())[0].state is State.FAILED
    assert log == ["rollback"]


def test_ending_the_runtime_rolls_back_what_is_staged():
    world = World()
    runtime = ToolRuntime([noting_tool(world, "s", "staged")])

    async def play():
        runtime.open_turn("r").take([opened(0, "s"), unit(0, 1.0)])
        await asyncio.sleep(STEP_S)
        await runtime.close()

    run_virtual(play())

    assert [what for what, _, _ in world.log] == ["begin", "rollback", "close"]


def test_a_task_that_is_cancelled_with_its_request_rolls_back():
    world = World()
    runtime = ToolRuntime([noting_tool(world, "s", "staged")])

    async def request():
        session = runtime.open_turn("r")
        try:
            session.take([opened(0, "s"), sealed(0, wait=100)])
            await session.end_turn()
        finally:
            await session.retract("the client left")

    async def play():
        task = asyncio.create_task(request())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])

    run_virtual(play())

    assert world.count("rollback", "r/c0") == 1
    assert world.log[-2][2] == "cancelled: the client left"
