"""The policy seam: which calls come in which order, and that their sums are exact."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.errors import EngineError
from llmsys.engine.policy import FirstComeFirstServed
from llmsys.engine.sequence import Request, SamplingParams


class Recorder(FirstComeFirstServed):
    """First come, first served, writing down every call."""

    def __init__(self):
        self.calls = []

    def on_arrival(self, request, now_s):
        self.calls.append(("arrival", request.request_id))

    def pick(self, waiting, admit, now_s):
        self.calls.append(("pick", tuple(r.request_id for r in waiting)))
        yield from super().pick(waiting, admit, now_s)

    def on_tokens(self, request, *, input_tokens, output_tokens):
        self.calls.append(("tokens", request.request_id, input_tokens, output_tokens))

    def on_finish(self, request, finish):
        self.calls.append(("finish", request.request_id, finish))

    def victim(self, running):
        chosen = super().victim(running)
        self.calls.append(("victim", chosen.request_id))
        return chosen


def test_the_calls_of_two_requests_come_in_this_order(parts):
    policy = Recorder()
    engine = parts.make_engine(policy=policy, max_sequences=1)
    engine.generate([parts.greedy_request([1, 2, 3], 2), parts.greedy_request([4], 1)])

    assert policy.calls == [
        ("arrival", 0),
        ("arrival", 1),
        ("pick", (0, 1)),
        ("tokens", 0, 3, 1),
        ("tokens", 0, 0, 1),
        ("finish", 0, "length"),
        ("pick", (1,)),
        ("tokens", 1, 1, 1),
        ("finish", 1, "length"),
    ]


@settings(max_examples=25, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 15), st.integers(1, 3)), min_size=1, max_size=8),
    cancelled=st.sets(st.integers(0, 7), max_size=3),
    blocks=st.sampled_from([13, 60]),
)
def test_charges_sum_to_the_prompts_and_the_tokens_emitted(parts, jobs, cancelled, blocks):
    policy = Recorder()
    engine = parts.make_engine(policy=policy, blocks=blocks)
    prompts = {}
    for length, tokens, n in jobs:
        params = SamplingParams(max_tokens=tokens, n=n, ignore_eos=True)
        prompts[engine.add(Request(list(range(length)), params))] = length
    emitted, admitted = Counter(), set()
    for turn in range(400):
        if turn == 3:
            for rid in cancelled:
                engine.cancel(rid)
        emitted.update(e.request_id for e in engine.step() if e.token_id >= 0)
    inputs, outputs = Counter(), Counter()
    for call in policy.calls:
        if call[0] == "tokens":
            inputs[call[1]] += call[2]
            outputs[call[1]] += call[3]
            admitted.add(call[1])

    assert not engine.busy
    assert outputs == emitted
    assert inputs == {rid: prompts[rid] for rid in admitted}
    finishes = Counter(call[1] for call in policy.calls if call[0] == "finish")
    assert finishes == dict.fromkeys(prompts, 1)
    last = {call[1]: at for at, call in enumerate(policy.calls) if call[0] == "tokens"}
    ends = {call[1]: at for at, call in enumerate(policy.calls) if call[0] == "finish"}
    assert all(at < ends[rid] for rid, at in last.items())


def test_life_events_tell_the_whole_story_in_order_of_time(parts):
    events = []
    engine = parts.make_engine(blocks=12, on_event=events.append)
    engine.generate([parts.greedy_request(list(range(n, n + 16)), 20, tenant="a", id=f"r{n}") for n in range(3)])
    kinds = Counter(e.kind for e in events)

    assert (kinds["arrive"], kinds["admit"], kinds["finish"]) == (3, 3, 3)
    assert sum(e.n for e in events if e.kind == "token") == 60
    assert kinds["preempt"] == engine.stats().preemptions > 0
    assert [e.t_s for e in events] == sorted(e.t_s for e in events)
    assert {e.tenant for e in events} == {"a"}
    assert {e.id for e in events} == {"r0", "r1", "r2"}


def test_a_cancelled_request_ends_as_cancelled(parts):
    events = []
    engine = parts.make_engine(on_event=events.append)
    engine.cancel(engine.add(parts.greedy_request([1])))
    engine.step()

    assert [(e.kind, e.reason) for e in events] == [("arrive", ""), ("cancel", "cancelled")]


class Strange(FirstComeFirstServed):
    def __init__(self, **overrides):
        self.__dict__.update(overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pick": lambda waiting, admit, now_s: iter(waiting)}, "yielded a request that admit"),
        ({"victim": lambda running: Request([1], request_id=99)}, "victim, request 99, is not among those"),
    ],
    ids=["pick", "victim"],
)
def test_a_policy_that_breaks_the_contract_is_named(parts, overrides, message):
    engine = parts.make_engine(policy=Strange(**overrides), blocks=12)

    with pytest.raises(EngineError, match=message):
        engine.generate([parts.greedy_request(list(range(n, n + 16)), 20) for n in range(3)])


def test_the_newest_arrival_gives_way():
    running = [Request([1], request_id=n, arrival_s=t) for n, t in ((0, 5.0), (1, 9.0), (2, 9.0), (3, 1.0))]

    assert FirstComeFirstServed().victim(running).request_id == 2
