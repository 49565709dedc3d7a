import asyncio
from contextlib import aclosing

import pytest

from llmsys.engine import AsyncEngine, EngineError, RequestError, SamplingParams

# room for an answer of seconds, so that its consumer always leaves before its end
ENDLESS = 200_000
ROOM = {"blocks": 1 << 16, "max_len": 1 << 18}


def run(parts, consume, **settings):
    """Open an AsyncEngine over the stand-ins, await `consume(async_engine)`; return its result and the engine."""
    engine = parts.make_engine(**settings)

    async def main():
        async with AsyncEngine(engine) as door:
            return await consume(door)

    return asyncio.run(main()), engine


async def tokens_of(door, request):
    """The tokens of a stream that is read to its end."""
    return tuple([event.token_id async for event in door.stream(request)])


def nothing_is_held(engine):
    counts = engine.stats().blocks
    return counts.referenced == 0 and not +engine.slots.holds and not engine.busy


def test_streams_read_at_once_give_what_each_request_gives_alone(parts):
    async def consume(door):
        requests = [parts.greedy_request([1, 2, 3 + i], adapter=name) for i, name in enumerate((None, "fr", "de"))]
        return await asyncio.gather(*(tokens_of(door, request) for request in requests))

    found, engine = run(parts, consume)

    adapters = (b"", b"fr@/adapters/fr", b"de@/adapters/de")
    assert found == [parts.expected_greedy([1, 2, 3 + i], 12, adapter) for i, adapter in enumerate(adapters)]
    assert max(len(plan) for plan in engine.runner.plans) > 1
    assert nothing_is_held(engine)


def test_leaving_the_loop_cancels_the_request_and_no_other(parts):
    async def consume(door):
        async def leave():
            async with aclosing(door.stream(parts.greedy_request([9, 9], tokens=ENDLESS, adapter="fr"))) as events:
                async for _ in events:
                    break

        async def stay():
            return await tokens_of(door, parts.greedy_request([1, 2, 3]))

        _, kept = await asyncio.gather(leave(), stay())
        await tokens_of(door, parts.greedy_request([5]))
        return kept

    kept, engine = run(parts, consume, **ROOM)

    assert kept == parts.expected_greedy([1, 2, 3], 12)
    assert sum(len(plan) for plan in engine.runner.plans) < ENDLESS
    assert nothing_is_held(engine)


def test_a_cancelled_task_cancels_its_request(parts):
    async def consume(door):
        started = asyncio.Event()

        async def endless():
            async for _ in door.stream(parts.greedy_request([9, 9], tokens=ENDLESS)):
                started.set()

        task = asyncio.create_task(endless())
        await started.wait()
        task.cancel()
        return await asyncio.gather(task, return_exceptions=True)

    (result,), engine = run(parts, consume, **ROOM)

    assert isinstance(result, asyncio.CancelledError)
    assert nothing_is_held(engine)


def test_a_consumer_that_leaves_before_its_request_is_added_leaves_nothing_behind(parts):
    async def consume(door):
        tasks = [asyncio.create_task(tokens_of(door, parts.greedy_request([i], tokens=ENDLESS))) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await tokens_of(door, parts.greedy_request([1, 2]))

    found, engine = run(parts, consume, **ROOM)

    assert found == parts.expected_greedy([1, 2], 12)
    assert nothing_is_held(engine)


def test_a_request_that_cannot_run_raises_in_its_own_stream(parts):
    async def consume(door):
        bad = tokens_of(door, parts.greedy_request([1] * 600))
        return await asyncio.gather(bad, tokens_of(door, parts.greedy_request([1, 2])), return_exceptions=True)

    (error, good), _ = run(parts, consume)

    assert isinstance(error, RequestError)
    assert good == parts.expected_greedy([1, 2], 12)


def test_all_choices_of_a_request_come_through_one_stream(parts):
    request = parts.greedy_request([1, 2])
    request = type(request)([1, 2], SamplingParams(max_tokens=5, n=3, temperature=1.0, ignore_eos=True))

    async def consume(door):
        return [event async for event in door.stream(request)]

    events, engine = run(parts, consume)

    assert sorted(event.index for event in events if event.finish) == [0, 1, 2]
    assert len(events) == 15
    assert nothing_is_held(engine)


def test_a_step_that_fails_ends_every_stream_and_refuses_the_next(parts):
    async def consume(door):
        door._engine.runner.faults.append(RuntimeError("the device is gone"))
        ends = await asyncio.gather(
            *(tokens_of(door, parts.greedy_request([i])) for i in range(3)), return_exceptions=True
        )
        with pytest.raises(EngineError, match="the device is gone"):
            await tokens_of(door, parts.greedy_request([7]))
        return ends, door.failure

    (ends, failure), engine = run(parts, consume)

    assert {str(end) for end in ends} == {"the engine stopped: RuntimeError: the device is gone"} == {failure}
    assert nothing_is_held(engine)


def test_closing_ends_the_streams_that_are_open(parts):
    engine = parts.make_engine(**ROOM)

    async def main():
        async with AsyncEngine(engine) as door:
            events = door.stream(parts.greedy_request([1], tokens=ENDLESS))
            await anext(events)
        with pytest.raises(EngineError, match="closed"):
            async for _ in events:
                pass

    asyncio.run(main())

    assert nothing_is_held(engine)


def test_an_engine_that_is_not_open_takes_nothing(parts):
    door = AsyncEngine(parts.make_engine())

    with pytest.raises(EngineError, match="async with"):
        asyncio.run(tokens_of(door, parts.greedy_request([1])))
    assert door.stats().running == 0


def test_a_call_runs_between_steps_and_gives_its_result_or_its_error_back(parts):
    async def consume(door):
        stream = asyncio.create_task(tokens_of(door, parts.greedy_request([1, 2, 3])))
        steps = await door.call(lambda engine: engine.stats().steps)
        with pytest.raises(KeyError):
            await door.call(lambda engine: {}["nothing"])
        return steps, await stream

    (steps, tokens), _ = run(parts, consume)

    assert steps >= 0
    assert tokens == parts.expected_greedy([1, 2, 3], 12)


def test_a_call_to_a_closed_engine_is_refused(parts):
    async def consume(door):
        return door

    door, _ = run(parts, consume)

    with pytest.raises(EngineError, match="closed"):
        asyncio.run(door.call(lambda engine: None))
