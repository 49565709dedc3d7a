"""What gateway and replica say to each other arrives as it was meant, and nonsense ends the connection only."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.engine.sequence import Request, SamplingParams, TokenEvent
from llmsys.errors import LlmsysError
from llmsys.serve_lora.fleet.link import Link, LinkEvents
from llmsys.serve_lora.fleet.messages import (
    AdapterRef,
    Ready,
    Said,
    Tokens,
    ToReplica,
    Work,
    read_message,
    said_of,
    work_of,
    write_message,
)
from llmsys.serve_lora.fleet.tasks import Job
from tests.serve_lora.fleet.conftest import SECRET, LocalLauncher, at_fleet, until
from tests.serve_lora.fleet.test_fleet import ask, text_of

SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 99),
    temperature=st.floats(0, 2),
    logit_bias=st.dictionaries(st.integers(0, 50_000), st.floats(-100, 100), max_size=3),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3),
    seed=st.none() | st.integers(0, (1 << 64) - 1),
    n=st.integers(1, 5),
    logprobs=st.none() | st.integers(0, 20),
    allowed_token_ids=st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=3),
)


class Pipe:
    """A stream's writer that keeps what is written."""

    def __init__(self):
        self.content = b""

    def write(self, content):
        self.content += content


def round_trip(message, kind):
    pipe = Pipe()
    write_message(pipe, message)

    async def read():
        reader = asyncio.StreamReader()
        reader.feed_data(pipe.content)
        reader.feed_eof()
        return await read_message(reader, msgspec.msgpack.Decoder(kind))

    return asyncio.run(read())


@given(
    sampling=SAMPLING,
    prompt=st.lists(st.integers(0, 50_000), min_size=1, max_size=9),
    salt=st.text(max_size=4),
    adapter=st.none() | st.builds(AdapterRef, st.just("fr"), st.text(), st.integers(1, 9), st.just("ab")),
)
def test_a_request_is_the_same_behind_the_wire(sampling, prompt, salt, adapter):
    request = Request(prompt, sampling, adapter=adapter.name if adapter else None, tenant="t", cache_salt=salt)

    arrived = round_trip(work_of(request, 7, adapter), ToReplica)

    assert isinstance(arrived, Work)
    assert arrived.adapter == adapter
    again = arrived.request(None)
    assert list(again.prompt) == prompt
    assert (again.adapter, again.tenant, again.cache_salt) == (request.adapter, "t", salt)
    for name in SamplingParams.__slots__:
        assert getattr(again.sampling, name) == getattr(sampling, name) or list(getattr(again.sampling, name)) == list(
            getattr(sampling, name)
        )


@given(
    choices=st.integers(1, 4),
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99), st.booleans()), max_size=40),
)
def test_what_is_left_of_a_piece_is_every_unfinished_choice_behind_its_tokens(choices, events):
    """Events of choices in any order; a piece's rest asks for exactly what has not come."""
    request = Request([1, 2], SamplingParams(max_tokens=99, n=choices, seed=3), request_id=0)
    job = Job(request, None, choices)
    piece = job.whole(0)
    told = {choice: [] for choice in range(choices)}
    done = set()
    for choice, token, ends in events:
        if choice >= choices or choice in done:
            continue
        event = TokenEvent(5, token, "x", finish="length" if ends else None, index=choice)
        heard = piece.hear(said_of(0, event, 1.5))
        told[choice].append(token)
        done |= {choice} if ends else set()
        assert (heard.index, heard.token_id, heard.finish) == (choice, token, event.finish)

    left = [choice for choice in range(choices) if choice not in done]
    rest = piece.rest(range(10, 10 + choices)) if left else []

    assert job.unfinished == len(left)
    if not any(told.values()):
        assert [part.choices for part in rest] == [tuple(range(choices))]
        return
    assert [part.choices for part in rest] == [(choice,) for choice in left]
    for part, choice in zip(rest, left, strict=True):
        work = part.work()
        assert (work.output, work.choice, work.sampling["n"]) == (told[choice], choice, 1)
        assert part.known_tokens == 2 + len(told[choice])


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0", b"\0\0\0\x05hello", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x01\x80"],
)
def test_what_is_no_replica_is_not_taken_for_one(tmp_path, content):
    async def check():
        async def answer(reader, writer):
            writer.write(content)
            writer.write_eof()

        async with await asyncio.start_unix_server(answer, tmp_path / "s"):
            with pytest.raises(LlmsysError, match="does not answer as a replica"):
                await Link.open(f"unix:{tmp_path / 's'}", "word")

    asyncio.run(asyncio.wait_for(check(), 30))


def test_a_replica_that_falls_silent_is_lost_though_its_connection_stands(tmp_path):
    async def check():
        lost, stands = asyncio.Event(), asyncio.Event()

        async def answer(reader, writer):
            write_message(writer, Ready(50, 64, 4096, 4, 32, {}))
            await stands.wait()

        def nothing(message):
            raise AssertionError(message)

        async with await asyncio.start_unix_server(answer, tmp_path / "s"):
            link = await Link.open(f"unix:{tmp_path / 's'}", "word", silence_s=0.1)
            link.listen(LinkEvents(said=nothing, refused=nothing, spent=nothing, lost=lost.set))
            await lost.wait()
            stands.set()

    asyncio.run(asyncio.wait_for(check(), 30))


def test_nonsense_from_a_replica_is_that_replica_lost():
    """A message that is none ends the connection; its work goes on elsewhere."""

    async def check(opened):
        answer = asyncio.create_task(opened.answer(ask(600)))
        await until(lambda: opened.fleet.members and opened.fleet.members[0].running)
        for writer in opened.launcher.handles[0].writers:
            writer.write(b"\x00\x00\x00\x03abc")
        return text_of(await answer), opened.fleet.dispatcher.losses

    text, losses = at_fleet(check, LocalLauncher(), least=1, most=1)

    assert (text, losses) == (("abcdefghijklmnopqrstuvwxyz" * 30)[:600], 1)


def test_events_of_work_that_nobody_waits_for_are_passed_over():
    async def check(opened):
        opened.fleet.dispatcher.hear(Said(99, 0, 1, "x", None, (), None, None, 0, 0, 0.0))
        return text_of(await opened.answer(ask(3)))

    assert at_fleet(check) == "abc"


def test_a_replica_says_what_it_can_hold_first():
    async def check(opened):
        handle = opened.launcher.handles[0]
        link = await Link.open(handle.address, SECRET)
        ready = link.ready
        await link.close()
        return ready

    ready = at_fleet(check)

    assert isinstance(ready, Ready)
    assert (ready.max_sequences, ready.lora_slots, ready.kv_tokens) == (4, 32, 4096 * 4)
    assert round_trip(Tokens([]), Tokens) == Tokens([])
