"""Faults at every moment of a request's life: it ends, the others' tokens do not change, and nothing stays held."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine import EngineError, FirstComeFirstServed, Request, SamplingParams

BLOCKS = 14


def ends(events):
    return {(event.request_id, event.index): event.finish for event in events if event.finish}


def assert_nothing_held(parts, engine):
    stats = engine.stats()
    parts.check_blocks(engine._blocks)
    assert (stats.running, stats.waiting, stats.parked, stats.blocks.referenced) == (0, 0, 0, 0)
    assert not +engine.slots.holds
    assert not engine.busy


def waiting(parts, engine):
    """Behind a request that has every row."""
    return engine.add(parts.greedy_request(range(9), adapter="fr"))


def in_a_prompt(parts, engine):
    number = engine.add(parts.greedy_request(range(24), adapter="fr"))
    engine.step()
    assert engine._records[number].streams[0].sequence.pending_tokens > 1
    return number


def decoding(parts, engine):
    number = engine.add(parts.greedy_request([7, 8], 20, adapter="fr"))
    for _ in range(3):
        engine.step()
    assert engine.stats().output_tokens >= 2
    return number


def parked(parts, engine):
    number = decoding(parts, engine)
    engine.park(number)
    return number


def parked_before_it_ran(parts, engine):
    number = waiting(parts, engine)
    engine.park(number)
    return number


def preempted(parts, engine):
    number = decoding(parts, engine)
    scheduler = engine._scheduler
    scheduler._preempt_victim(turn := scheduler.plan(0.0))
    assert [sequence.request.request_id for sequence in turn.preempted] == [number]
    return number


def with_choices_held_back(parts, engine):
    return engine.add(Request(tuple(range(24)), SamplingParams(max_tokens=9, n=3, ignore_eos=True), adapter="fr"))


def with_choices_running(parts, engine):
    number = with_choices_held_back(parts, engine)
    for _ in range(6):
        engine.step()
    return number


def forked(parts, engine):
    (child,) = engine.fork(decoding(parts, engine), suffixes=[[3]])
    return child


def extended(parts, engine):
    number = parked(parts, engine)
    engine.extend(number, [5, 6])
    return number


PHASES = (
    waiting,
    in_a_prompt,
    decoding,
    parked,
    parked_before_it_ran,
    preempted,
    with_choices_held_back,
    with_choices_running,
    forked,
    extended,
)


@pytest.mark.parametrize("block_bytes", [0, 5])
@pytest.mark.parametrize("phase", PHASES)
def test_a_request_cancelled_in_any_phase_gives_everything_back_within_a_step(parts, phase, block_bytes):
    engine = parts.make_engine(blocks=64, block_bytes=block_bytes, max_len=80, max_batch_tokens=8)
    events = []
    step = engine.step
    engine.step = lambda: events.extend(found := step()) or found
    other = engine.add(parts.greedy_request([1, 2, 3], 25))
    number = phase(parts, engine)

    engine.cancel(number)
    after = engine.step()

    assert {finish for (rid, _), finish in ends(after).items() if rid == number} == {"cancelled"}
    assert not engine.unfinished(number)
    held = {sequence for sequence, _, retained in engine._blocks.tables() if not retained}
    assert number not in held
    for rest in [rid for rid in engine._records if rid != number]:
        engine.resume(rest)
    parts.drain(engine)
    assert parts.tokens_of(events, other) == parts.expected_greedy([1, 2, 3], 25)
    assert_nothing_held(parts, engine)


@pytest.mark.parametrize("when", range(8))
def test_a_cancellation_while_a_step_computes_counts_from_the_next(parts, when):
    """From another thread, in effect: the call arrives while the runner is at work."""
    engine = parts.make_engine(max_batch_tokens=8)
    goes = engine.add(parts.greedy_request(range(20), 6, adapter="fr"))
    stays = engine.add(parts.greedy_request([4, 5], 12))
    execute, events = engine.runner.execute, []

    def interrupted(plan):
        if len(engine.runner.plans) == when:
            engine.cancel(goes)
        return execute(plan)

    engine.runner.execute = interrupted
    parts.drain(engine, events)

    assert ends(events)[goes, 0] in ("cancelled", "length")
    assert (
        parts.tokens_of(events, goes)
        == parts.expected_greedy(range(20), 6, engine.slots.digest("fr"))[: len(parts.tokens_of(events, goes))]
    )
    assert parts.tokens_of(events, stays) == parts.expected_greedy([4, 5], 12)
    assert_nothing_held(parts, engine)


@settings(max_examples=40)
@given(data=st.data(), shared=st.booleans(), block_bytes=st.sampled_from([0, 5]))
def test_out_of_memory_nan_and_bad_adapters_in_any_step_cost_only_those_they_hit(parts, data, shared, block_bytes):
    engine = parts.make_engine(
        blocks=BLOCKS, slots=2, shared=shared, block_bytes=block_bytes, max_len=32, max_sequences=4, max_batch_tokens=9
    )
    shapes = data.draw(
        st.lists(
            st.tuples(st.integers(1, 12), st.integers(1, 8), st.sampled_from([None, "fr", "de", "bad"])),
            min_size=1,
            max_size=6,
        )
    )
    requests = [parts.greedy_request([i + 1] * n, tokens, adapter=a) for i, (n, tokens, a) in enumerate(shapes)]
    numbers = [engine.add(request) for request in requests]
    hits = data.draw(st.lists(st.booleans(), max_size=20))
    engine.runner.faults = [MemoryError() if hit else None for hit in hits]
    engine.runner.poisoned = set(data.draw(st.lists(st.sampled_from(numbers), max_size=2)))
    events = parts.drain(engine)

    for number, request in zip(numbers, requests, strict=True):
        finish, tokens = ends(events)[number, 0], parts.tokens_of(events, number)
        digest = engine.slots.digest(request.adapter) if request.adapter else b""
        expected = parts.expected_greedy(request.prompt, request.sampling.max_tokens, digest)
        if request.adapter == "bad" or number in engine.runner.poisoned:
            assert (finish, tokens) == ("error", ())
        else:
            assert tokens == expected[: len(tokens)]
            assert (finish == "length" and tokens == expected) or (finish == "error" and any(hits))
    assert_nothing_held(parts, engine)


class Wrong(FirstComeFirstServed):
    """A policy whose victim is none of those that it was given."""

    def __init__(self, fault):
        self.fault = fault

    def victim(self, running):
        if isinstance(self.fault, Exception):
            raise self.fault
        return Request((1,), request_id=self.fault)


@pytest.mark.parametrize("fault", [RuntimeError("no books"), 999])
def test_a_policy_that_fails_to_name_a_victim_stops_the_step_and_all_can_be_given_back(parts, fault):
    engine = parts.make_engine(blocks=6, policy=Wrong(fault))
    numbers = [engine.add(parts.greedy_request([n] * 8, 12)) for n in range(2)]
    with pytest.raises((RuntimeError, EngineError), match=r"no books|victim, request 999, is not among those"):
        parts.drain(engine)

    for number in numbers:
        engine.cancel(number)
    engine.take_cancellations()
    assert_nothing_held(parts, engine)
