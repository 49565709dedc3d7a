"""The dispatcher against a model, on random histories: arrivals, tokens, ends, departures, losses, moves."""

import asyncio
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmsys.engine.errors import CapacityError, EngineError
from llmsys.engine.policy import FirstComeFirstServed
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.serve_lora.cluster.routing import make_router
from llmsys.serve_lora.fleet.dispatch import LOSSES_MAX, Dispatcher
from llmsys.serve_lora.fleet.member import all_fit
from llmsys.serve_lora.fleet.messages import Cancel, Refused, Said, Spent, Work
from llmsys.serve_lora.fleet.tasks import Job
from tests.serve_lora.fleet.test_settings import member

QUEUE = 12


class Watched(FirstComeFirstServed):
    """First come, first served, which counts what it is told."""

    def __init__(self):
        self.arrived, self.finished = Counter(), Counter()
        self.input, self.output = Counter(), Counter()

    def on_arrival(self, request, now_s):
        self.arrived[request.request_id] += 1

    def on_tokens(self, request, *, input_tokens, output_tokens):
        self.input[request.request_id] += input_tokens
        self.output[request.request_id] += output_tokens

    def on_finish(self, request, finish):
        self.finished[request.request_id] += 1


def job_of(number, *, prompt=5, n=1, adapter=None):
    sampling = SamplingParams(n=n, max_tokens=1000, seed=1)
    return Job(Request([1] * prompt, sampling, adapter=adapter, request_id=number), None, n)


def said(number, index, token, finish=None):
    return Said(number, index, token, "x", None, (), finish, None, 0, 0, 0.0)


class DispatcherMachine(RuleBasedStateMachine):
    """Three kinds of truth: what clients have got, what replicas were told, what the policy was charged."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.policy = Watched()
        self.dispatcher = Dispatcher(self.policy, make_router("punica"), max_queue=QUEUE, on_change=lambda: None)
        self.members = 0
        self.numbers = 0
        self.open = {}
        self.got = {}
        self.heard = 0

    def teardown(self):
        self.loop.close()

    def run(self, action, *given, **named):
        """Do something where there is a running loop, which tells the time."""

        async def act():
            return action(*given, **named)

        return self.loop.run_until_complete(act())

    @rule()
    @precondition(lambda self: len(self.dispatcher.members) < 3)
    def a_replica_comes(self):
        self.dispatcher.members.append(member(self.members, sequences=3, tokens=90, slots=2))
        self.members += 1
        self.run(self.dispatcher.dispatch)

    @rule(prompt=st.integers(1, 60), n=st.integers(1, 3), adapter=st.sampled_from([None, "a", "b", "c"]))
    def a_request_comes(self, prompt, n, adapter):
        job = job_of(self.numbers, prompt=prompt, n=n, adapter=adapter)
        if len(self.dispatcher.waiting) >= QUEUE:
            with pytest.raises(CapacityError):
                self.run(self.dispatcher.submit, job)
            return
        self.numbers += 1
        self.open[job.request.request_id] = job
        self.got[job.request.request_id] = {choice: [] for choice in range(n)}
        self.run(self.dispatcher.submit, job)

    @rule(data=st.data(), ends=st.booleans())
    @precondition(lambda self: any(m.running for m in self.dispatcher.members))
    def a_token_comes(self, data, ends):
        piece = data.draw(st.sampled_from([p for m in self.dispatcher.members for p in m.running]))
        index = data.draw(st.sampled_from([i for i, c in enumerate(piece.choices) if c not in piece.done]))
        number, choice = piece.job.request.request_id, piece.choices[index]
        self.heard += 1
        self.got[number][choice].append(self.heard)
        self.run(self.dispatcher.hear, said(piece.number, index, self.heard, "stop" if ends else None))
        if not piece.job.unfinished:
            self.ended(number)

    @rule(data=st.data())
    @precondition(lambda self: self.open)
    def a_client_leaves(self, data):
        number = data.draw(st.sampled_from(sorted(self.open)))
        self.run(self.dispatcher.leave, self.open[number])
        self.ended(number)

    @rule(data=st.data())
    @precondition(lambda self: self.dispatcher.members)
    def a_replica_is_lost(self, data):
        lost = data.draw(st.sampled_from(self.dispatcher.members))
        jobs = {id(piece.job): piece.job for piece in lost.running}.values()
        self.run(self.dispatcher.lose, lost)
        for job in jobs:
            if job.losses >= LOSSES_MAX:
                assert isinstance(drained(job)[-1], EngineError)
                self.ended(job.request.request_id)

    @rule(data=st.data())
    @precondition(
        lambda self: not self.dispatcher.queued() and sum(bool(m.running) for m in self.dispatcher.members) > 1
    )
    def a_light_replica_is_emptied(self, data):
        light = data.draw(st.sampled_from([m for m in self.dispatcher.members if m.running]))
        others = [m for m in self.dispatcher.members if m is not light and m.running]
        if all_fit(others, light.running):
            self.run(self.dispatcher.move_all, light)

    @rule(data=st.data())
    @precondition(lambda self: any(m.running for m in self.dispatcher.members))
    def a_replica_refuses(self, data):
        piece = data.draw(st.sampled_from([p for m in self.dispatcher.members for p in m.running]))
        self.run(self.dispatcher.refuse, Refused(piece.number, "request", "no"))
        assert str(drained(piece.job)[-1]) == "no"
        self.ended(piece.job.request.request_id)

    def ended(self, number):
        job = self.open.pop(number)
        told = [event for event in drained(job) if not isinstance(event, EngineError)]
        assert not told or {event.request_id for event in told} == {number}

    @invariant()
    def no_request_is_lost_or_worked_on_twice(self):
        pieces = [
            *self.dispatcher.waiting.values(),
            *self.dispatcher.returning,
            *(piece for m in self.dispatcher.members for piece in m.running),
        ]
        held = Counter((p.job.request.request_id, c) for p in pieces for c in p.choices if c not in p.done)
        wanted = Counter(
            (number, choice)
            for number, job in self.open.items()
            for choice in range(job.request.sampling.n)
            if choice not in self.finished_choices(job)
        )
        assert held == wanted

    def finished_choices(self, job):
        ended = {e.index for e in list(job.inbox._queue) if not isinstance(e, EngineError) and e.finish is not None}
        return ended

    @invariant()
    def tokens_are_those_that_came_in_their_order(self):
        for number, job in self.open.items():
            assert {c: ids for c, ids in self.got[number].items() if ids} == job.outputs

    @invariant()
    def replicas_are_told_what_is_out_already(self):
        for m in self.dispatcher.members:
            works = {message.number: message for message in m.link.sent if isinstance(message, Work)}
            cancelled = {message.number for message in m.link.sent if isinstance(message, Cancel)}
            for piece in m.running:
                assert piece.number in works
                assert piece.number not in cancelled
                output = piece.job.outputs.get(piece.choices[0], [])
                assert works[piece.number].output == output[: len(works[piece.number].output)]

    @invariant()
    def nobody_waits_while_the_first_in_line_has_room(self):
        head = self.dispatcher.returning[:1] or list(self.dispatcher.waiting.values())[:1]
        for piece in head:
            assert not any(m.fits(piece) for m in self.dispatcher.members)

    @invariant()
    def the_policy_is_told_everything_once(self):
        assert set(self.policy.arrived.values()) <= {1}
        assert set(self.policy.finished.values()) <= {1}
        assert set(self.policy.finished) == set(self.policy.arrived) - set(self.open)
        assert self.policy.output.total() == self.heard


def drained(job):
    items = []
    while not job.inbox.empty():
        items.append(job.inbox.get_nowait())
    return items


TestDispatcher = DispatcherMachine.TestCase
TestDispatcher.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_moved_piece_counts_its_moves_and_a_lost_one_its_losses():
    async def act():
        dispatcher = Dispatcher(Watched(), make_router("punica"), max_queue=9, on_change=lambda: None)
        first, second = member(0), member(1)
        dispatcher.members += [first]
        jobs = [job_of(at) for at in range(2)]
        for job in jobs:
            dispatcher.submit(job)
        dispatcher.members += [second]
        dispatcher.move_all(first)
        moved = [(piece.moves, piece.job.losses) for piece in second.running]
        dispatcher.lose(second)
        return moved, [(piece.moves, piece.job.losses) for piece in first.running], dispatcher.moves, dispatcher.losses

    moved, back, moves, losses = asyncio.run(act())

    assert moved == [(1, 0), (1, 0)]
    assert back == [(1, 1), (1, 1)]
    assert (moves, losses) == (2, 1)


def test_a_moved_and_then_lost_request_is_charged_what_each_replica_said_of_it():
    async def act():
        dispatcher = Dispatcher(Watched(), make_router("punica"), max_queue=9, on_change=lambda: None)
        first, second = member(0), member(1)
        dispatcher.members += [first]
        job = job_of(0)
        dispatcher.submit(job)
        number = first.running[0].number
        dispatcher.members += [second]
        dispatcher.move_all(first)
        owed = [job.owed]
        second.link.report.work_s[second.running[0].number] = 0.25
        dispatcher.lose(second)
        owed.append(job.owed)
        dispatcher.settle(Spent(number, 2.0))
        dispatcher.settle(Spent(number, 2.0))
        return owed, job.owed, job.settled.is_set(), job.device_s

    assert asyncio.run(act()) == ([1, 1], 0, True, 2.25)


def test_everyone_hears_when_there_is_nobody_to_work():
    async def act():
        dispatcher = Dispatcher(Watched(), make_router("punica"), max_queue=9, on_change=lambda: None)
        jobs = [job_of(at) for at in range(3)]
        for job in jobs:
            dispatcher.submit(job)
        dispatcher.fail_all("closed")
        return [str(drained(job)[-1]) for job in jobs], dispatcher.queued()

    assert asyncio.run(act()) == (["closed"] * 3, 0)
