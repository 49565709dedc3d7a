"""What a policy is told: in which order, from which thread, and that its sums are the tokens to the last one."""

import asyncio
from collections import Counter, defaultdict
from threading import get_ident

from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine import AsyncEngine, FirstComeFirstServed


class Recorder(FirstComeFirstServed):
    """First come, first served, with a note of every call about every request."""

    def __init__(self):
        self.calls = defaultdict(list)
        self.tokens = defaultdict(Counter)
        self.threads = set()

    def note(self, request, call):
        self.calls[request.request_id].append(call)
        self.threads.add(get_ident())

    def on_arrival(self, request, now_s):
        self.note(request, "arrival")

    def pick(self, waiting, admit, now_s):
        for request in super().pick(waiting, admit, now_s):
            self.note(request, "picked")
            yield request

    def on_tokens(self, request, *, input_tokens, output_tokens):
        self.note(request, "tokens")
        self.tokens[request.request_id] += Counter(input=input_tokens, output=output_tokens)

    def on_finish(self, request, finish):
        self.note(request, finish)


@settings(max_examples=50)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 16), st.integers(1, 10), st.integers(-1, 8)), min_size=1, max_size=7),
    blocks=st.integers(8, 30),
)
def test_calls_are_in_order_and_sums_are_prompts_and_outputs_exactly(parts, shapes, blocks):
    """A third number of 0 or more: the step before which the request is cancelled."""
    policy = Recorder()
    engine = parts.make_engine(blocks=blocks, policy=policy, max_batch_tokens=12)
    numbers = [engine.add(parts.greedy_request([i] * n, tokens)) for i, (n, tokens, _) in enumerate(shapes)]
    events = []
    for step in range(400):
        for number, (_, _, gone) in zip(numbers, shapes, strict=True):
            if gone == step:
                engine.cancel(number)
        events += engine.step()
        if not engine.busy and step > 8:
            break

    for number, (n, _, _) in zip(numbers, shapes, strict=True):
        calls, finish = policy.calls[number], next(e.finish for e in events if e.request_id == number and e.finish)
        picked = calls.count("picked")
        assert calls == ["arrival", *["picked"] * picked, *["tokens"] * (len(calls) - picked - 2), finish]
        assert picked == 1 or (picked, finish) == (0, "cancelled")
        assert policy.tokens[number]["input"] == n * picked
        assert policy.tokens[number]["output"] == len(parts.tokens_of(events, number))


def test_every_call_comes_from_the_engines_thread(parts):
    policy = Recorder()
    engine = parts.make_engine(policy=policy)

    async def main():
        async with AsyncEngine(engine) as door:
            async for _ in door.stream(parts.greedy_request([1, 2], 5)):
                pass
            await door.call(lambda _: policy.threads.add(get_ident()))

    asyncio.run(asyncio.wait_for(main(), 60))

    assert len(policy.threads) == 1
    assert get_ident() not in policy.threads
