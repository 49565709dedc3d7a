"""Any order of add, step, cancel, fork, park, resume and extend, with too little memory: §6's invariants hold."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from llmsys.engine.errors import RequestError
from llmsys.engine.policy import FirstComeFirstServed

ADAPTERS = (None, "fr", "de")


def machine(parts, *, shared, block_bytes):
    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.engine = parts.make_engine(
                blocks=14,
                block_tokens=4,
                max_sequences=4,
                spare_rows=3,
                max_batch_tokens=9,
                slots=2,
                shared=shared,
                block_bytes=block_bytes,
                max_len=32 if block_bytes else 512,
            )
            self.expected = {}
            self.got = {}
            self.over = {}
            self.parked = set()
            self.cancelled = set()

        def take(self, events):
            for event in events:
                rid = event.request_id
                assert rid not in self.over, "an event after the end"
                if event.token_id >= 0:
                    self.got[rid].append(event.token_id)
                if event.finish:
                    self.over[rid] = event.finish
                assert event.finish in (None, "length", "cancelled")

        def expect(self, rid, prompt, adapter, tokens):
            digest = self.engine.slots.digest(adapter) if adapter else b""
            room = self.engine.max_len - len(prompt)
            self.expected[rid] = (list(prompt), adapter, parts.expected_greedy(prompt, min(tokens, room), digest))
            self.got[rid] = []

        def pick(self, data, choices):
            return data.draw(st.sampled_from(sorted(choices)))

        def live(self):
            return set(self.expected) - set(self.over)

        @rule(
            prompt=st.lists(st.integers(0, 2), min_size=1, max_size=30),
            adapter=st.sampled_from(ADAPTERS),
            tokens=st.integers(1, 14),
        )
        def add(self, prompt, adapter, tokens):
            rid = self.engine.add(parts.greedy_request(prompt, tokens, adapter=adapter))
            self.expect(rid, prompt, adapter, tokens)

        @rule(times=st.integers(1, 6))
        def step(self, times):
            for _ in range(times):
                self.take(self.engine.step())
                assert not self.cancelled - set(self.over), "a cancelled request lived on"

        @precondition(lambda self: self.live())
        @rule(data=st.data())
        def cancel(self, data):
            rid = self.pick(data, self.live())
            self.engine.cancel(rid)
            self.cancelled.add(rid)
            self.parked.discard(rid)

        @precondition(lambda self: self.live() - self.parked - self.cancelled)
        @rule(data=st.data())
        def park(self, data):
            rid = self.pick(data, self.live() - self.parked - self.cancelled)
            self.engine.park(rid)
            self.parked.add(rid)

        @precondition(lambda self: self.parked)
        @rule(data=st.data())
        def resume(self, data):
            rid = self.pick(data, self.parked)
            self.engine.resume(rid)
            self.parked.discard(rid)

        @precondition(lambda self: self.expected)
        @rule(data=st.data(), suffix=st.lists(st.integers(0, 2), max_size=5))
        def fork(self, data, suffix):
            rid = self.pick(data, self.expected)
            prompt, adapter, _ = self.expected[rid]
            prompt = [*prompt, *self.got[rid], *suffix]
            tokens = self.engine._records[rid].request.sampling.max_tokens
            if len(prompt) >= self.engine.max_len:
                with pytest.raises(RequestError, match="expected at most"):
                    self.engine.fork(rid, suffixes=[suffix])
            else:
                (child,) = self.engine.fork(rid, suffixes=[suffix])
                self.expect(child, prompt, adapter, tokens)

        @precondition(lambda self: self.parked or self.over)
        @rule(data=st.data(), added=st.lists(st.integers(0, 2), min_size=1, max_size=5))
        def extend(self, data, added):
            rid = self.pick(data, self.parked | set(self.over))
            prompt, adapter, _ = self.expected[rid]
            prompt = [*prompt, *self.got[rid], *added]
            if len(prompt) >= self.engine.max_len:
                with pytest.raises(RequestError, match="expected at most"):
                    self.engine.extend(rid, added)
                return
            self.engine.extend(rid, added)
            self.expect(rid, prompt, adapter, self.engine._records[rid].request.sampling.max_tokens)
            self.parked.discard(rid)
            self.over.pop(rid, None)
            self.cancelled.discard(rid)

        @invariant()
        def memory_is_exact(self):
            parts.check_blocks(self.engine._blocks)
            tables = {number for number, _, _ in self.engine._blocks.tables()}
            assert set(self.engine.runner.rows) <= tables
            slots = self.engine.slots
            assert self.engine.stats().blocks.lent == (2 * len(slots.content) if block_bytes else 0)

        @invariant()
        def tokens_so_far_are_right(self):
            for rid, (_, _, expected) in self.expected.items():
                assert tuple(self.got[rid]) == expected[: len(self.got[rid])]

        @invariant()
        def preemptions_are_bounded(self):
            for record in self.engine._records.values():
                bound = self.engine.config.max_preemptions
                assert all(stream.sequence.preemptions <= bound for stream in record.streams)

        def teardown(self):
            for rid in self.parked:
                self.engine.resume(rid)
            bound = sum(len(e) + 1 for _, _, e in self.expected.values()) * 8 + 50
            for _ in range(bound):
                if not self.engine.busy:
                    break
                self.take(self.engine.step())
            assert set(self.expected) == set(self.over), "a request was lost"
            for rid, (_, _, expected) in self.expected.items():
                if self.over[rid] == "length":
                    assert tuple(self.got[rid]) == expected
            assert self.engine.stats().blocks.referenced == 0
            assert not +self.engine.slots.holds

    return Machine


@pytest.mark.parametrize(("shared", "block_bytes"), [(False, 0), (True, 0), (False, 5), (True, 5)])
def test_no_order_of_calls_loses_a_request_a_token_or_a_block(parts, shared, block_bytes):
    """block_bytes: adapters of two blocks each share one budget with keys and values."""
    run_state_machine_as_test(
        machine(parts, shared=shared, block_bytes=block_bytes),
        settings=settings(max_examples=40, stateful_step_count=30, deadline=None),
    )


def test_steps_are_bounded_by_tokens_and_preemptions(parts):
    """Progress: every step of a crowded engine computes something, and nobody is preempted past the bound."""
    engine = parts.make_engine(blocks=12, max_preemptions=2, max_batch_tokens=16)
    requests = [parts.greedy_request(list(range(n, n + 9)), 20) for n in range(12)]

    done = engine.generate(requests)

    stats = engine.stats()
    assert stats.preemptions > 0
    assert all(plan for plan in engine.runner.plans)
    assert max(r.streams[0].sequence.preemptions for r in engine._records.values()) <= 2
    assert stats.steps <= sum(9 + 20 for _ in done) + stats.preemptions * 29
    assert [c.token_ids for c in done] == [parts.expected_greedy(r.prompt, 20) for r in requests]


class AnyOrder(FirstComeFirstServed):
    """Picks and preempts whomever its dice say: the least that is asked of a policy."""

    def __init__(self, seed):
        self.dice = Random(seed)

    def pick(self, waiting, admit, now_s):
        return super().pick(self.dice.sample(waiting, len(waiting)), admit, now_s)

    def victim(self, running):
        return self.dice.choice(running)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 30),
    shapes=st.lists(st.tuples(st.integers(1, 19), st.integers(1, 12), st.sampled_from(ADAPTERS)), max_size=9),
    block_bytes=st.sampled_from([0, 5]),
)
def test_under_any_policy_each_request_ends_within_its_tokens_and_preemptions(parts, seed, shapes, block_bytes):
    engine = parts.make_engine(
        blocks=10, policy=AnyOrder(seed), max_preemptions=2, max_batch_tokens=12, block_bytes=block_bytes, max_len=32
    )
    requests = [parts.greedy_request([seed % 7, *range(n)], tokens, adapter=name) for n, tokens, name in shapes]

    done = engine.generate(requests)

    # alone in the batch, each computes its prompt in chunks and a token per step, anew after each preemption
    bound = sum(-(-(n + 1 + tokens) // 12) + tokens + 1 for n, tokens, _ in shapes) * (1 + 2)
    digests = [engine.slots.digest(name) if name else b"" for _, _, name in shapes]
    assert engine.stats().steps <= bound
    assert [answer.token_ids for answer in done] == [
        parts.expected_greedy(request.prompt, request.sampling.max_tokens, digest)
        for request, digest in zip(requests, digests, strict=True)
    ]


def test_a_running_stream_gets_a_token_in_every_step_while_prompts_come_in(parts):
    engine = parts.make_engine(max_batch_tokens=8)
    first = engine.add(parts.greedy_request([1], 30))
    engine.step()
    for start in range(3):
        engine.add(parts.greedy_request(list(range(start, start + 40))))
    per_step = [[e.request_id for e in engine.step()] for _ in range(25)]

    assert all(first in tokens for tokens in per_step)
    assert all(sum(count for _, _, count, _ in plan) <= 8 for plan in engine.runner.plans)
    starts = [start for plan in engine.runner.plans for number, start, _, _ in plan if number == first]
    assert all(later == earlier + 1 for earlier, later in pairwise(starts))
