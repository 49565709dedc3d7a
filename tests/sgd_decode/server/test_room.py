"""A decoder in its thread: questions come, are heard, and go; what they held is given back."""

import asyncio
from contextlib import aclosing

import pytest

from llmsys.engine import Engine, EngineConfig
from llmsys.errors import LlmsysError
from llmsys.sgd_decode import Answer, DecodeSettings, EngineBackend, Match, Rule, ScriptBackend, Stuck, writer_for
from llmsys.sgd_decode.glimpses import InOrder, News
from llmsys.sgd_decode.server import Room
from llmsys.sgd_decode.server.room import RoomClosed
from tests.sgd_decode.stand_ins import Cranked, question, until

PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs - | level 1\n3. Gamma | needs - | level 1\nend"
RULES = [Rule(Match("Write an outline"), PLAN), Rule(Match("about part"), "One. Two. Three. Four."), Rule(text="Yes.")]


def graphs():
    return writer_for(DecodeSettings())


async def heard(room, make=None, view=None):
    """All that is said of one question."""
    return [update async for update in room.answer(question, make or graphs(), view)]


def test_a_question_is_heard_in_order_and_its_answer_comes_last():
    with Room(ScriptBackend(RULES)) as room:
        *news, done = asyncio.run(heard(room, view=InOrder()))

        assert all(isinstance(piece, News) for piece in news)
        assert "".join(piece.text for piece in news) == done.text
        assert (room.tally.answers, room.tally.parts, room.tally.left) == ({"sgd": 1}, 3, 0)


def test_many_questions_at_once_get_the_answers_that_each_gets_alone():
    async def many(room, count):
        return [updates[-1].text for updates in await asyncio.gather(*(heard(room) for _ in range(count)))]

    with Room(ScriptBackend(RULES, slots=4)) as room:
        (alone,) = asyncio.run(many(room, 1))

        assert asyncio.run(many(room, 20)) == [alone] * 20
        assert room.open == 0


def test_a_client_that_leaves_in_the_middle_ends_every_part_of_its_question():
    backend = Cranked(RULES)

    async def leave(room):
        async with aclosing(room.answer(question, graphs(), InOrder())) as updates:
            backend.crank(len(PLAN.split()) + 2)  # into the middle of the parts
            first = await anext(updates)
            assert isinstance(first, News)
            assert backend.running
        await until(lambda: room.tally.left == 1)

    with Room(backend) as room:
        asyncio.run(leave(room))

        assert backend.running == []
        assert room.open == 0


def test_one_client_that_leaves_takes_nothing_from_another():
    backend = Cranked(RULES)

    async def two(room):
        staying = asyncio.create_task(heard(room))
        async with aclosing(room.answer(question, graphs(), InOrder())) as leaving:
            backend.crank(200)
            await anext(leaving)
        return (await staying)[-1]

    with Room(backend) as room:
        done = asyncio.run(two(room))

    assert done.text == "\n\n".join(["One. Two. Three. Four."] * 3)


def test_a_fault_of_the_decoder_reaches_everyone_and_the_next_question_is_answered():
    class Hopeless:
        """A writer that wants nothing and is never done."""

        done = False
        cancelled = ()

        def __init__(self, asked):
            self.question = asked

        def jobs(self, free, now_s):
            return []

        def glimpses(self):
            return iter(())

    with Room(ScriptBackend(RULES)) as room:
        with pytest.raises(Stuck):
            asyncio.run(heard(room, make=Hopeless))
        (done,) = asyncio.run(heard(room))

        assert isinstance(done, Answer)


def test_who_waits_when_the_room_closes_is_told():
    backend = Cranked(RULES)

    async def wait(room):
        asking = asyncio.create_task(heard(room))
        await until(lambda: room.open == 1)
        closing = asyncio.create_task(asyncio.to_thread(room.__exit__))
        with pytest.raises(RoomClosed):
            await asking
        await closing
        with pytest.raises(RoomClosed):
            await heard(room)

    asyncio.run(wait(Room(backend).__enter__()))


def test_a_question_that_cannot_be_begun_says_why_and_the_next_is_answered():
    def broken(asked):
        raise LlmsysError("no writer today")

    with Room(ScriptBackend(RULES)) as room:
        with pytest.raises(LlmsysError):
            asyncio.run(heard(room, make=broken))
        assert asyncio.run(heard(room))


@pytest.mark.xdist_group("smollm2")
def test_pages_are_back_at_zero_after_a_client_left_the_real_engine():
    config = EngineConfig(device="cpu", max_sequences=4, max_batch_tokens=256, max_len=1024, spare_rows=16)
    backend = EngineBackend(Engine.load("smollm2", config=config), slots=4)
    make = writer_for(DecodeSettings(max_nodes=2, node_tokens=64, answer_tokens=64))

    async def leave(room):
        answering = asyncio.create_task(heard(room, make=make, view=InOrder()))
        await until(lambda: backend.engine.stats().running >= 2)  # parts beside the plan, or beside each other
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await until(lambda: room.tally.left == 1)

    with Room(backend) as room:
        asyncio.run(leave(room))
        stats = backend.engine.stats()

        assert stats.blocks.referenced == 0
        assert stats.running == stats.waiting == 0
