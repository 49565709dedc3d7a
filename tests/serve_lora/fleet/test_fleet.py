"""Replicas that are lost, emptied, released and missing: no request is lost, no token told twice, nothing leaks."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.errors import AdapterError, CapacityError, EngineError, RequestError
from llmsys.engine.sequence import Request, SamplingParams
from tests.serve_lora.fleet.conftest import LocalLauncher, at_fleet, until
from tests.serve_lora.server.conftest import Dice, Endless, write_adapter
from tests.serve_lora.stand_ins import Speller

pytestmark = pytest.mark.slow

ALPHABET = "abcdefghijklmnopqrstuvwxyz" * 20


def ask(tokens, *, prompt=b"xyz", **more):
    sampling = {name: more.pop(name) for name in list(more) if name in SamplingParams.__slots__}
    return Request(list(prompt), SamplingParams(**{"max_tokens": tokens, "temperature": 0.0} | sampling), **more)


def text_of(events, choice=0):
    return "".join(event.text for event in events if event.index == choice)


def test_requests_of_two_replicas_are_answered_and_nothing_is_left():
    async def check(opened):
        answers = await asyncio.gather(*(opened.answer(ask(20 + at)) for at in range(12)))
        await opened.idle()
        return answers, opened.launcher.leaks()

    answers, leaks = at_fleet(check)

    assert [text_of(events) for events in answers] == [ALPHABET[: 20 + at] for at in range(12)]
    assert [events[-1].finish for events in answers] == ["length"] * 12
    assert leaks == [(0, 0), (0, 0)]


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=12)
def test_replicas_lost_at_random_moments_lose_and_repeat_no_token(seed):
    """Drawn answers of several choices, replicas cut off meanwhile: each choice is what an undisturbed run draws."""
    rng = random.Random(seed)
    asked = [
        ask(rng.randrange(5, 60), n=rng.randrange(1, 4), seed=at, temperature=1.0, stop="zz", logprobs=1)
        for at in range(10)
    ]

    async def undisturbed(opened):
        return await asyncio.gather(*(opened.answer(request) for request in asked))

    async def check(opened):
        answering = asyncio.gather(*(opened.answer(request) for request in asked))
        for _ in range(2):
            await until(lambda: opened.fleet.members or answering.done())
            for _ in range(rng.randrange(60)):
                await asyncio.sleep(0)
            opened.launcher.handles[-1].kill()
        answers = await answering
        await opened.idle()
        return answers, opened.launcher.leaks(), opened.fleet.dispatcher.losses

    expected = at_fleet(undisturbed, LocalLauncher(Dice, max_sequences=32), least=1, most=1)
    found, leaks, losses = at_fleet(check, LocalLauncher(Dice))

    assert losses <= 2
    for before, after, request in zip(expected, found, asked, strict=True):
        for choice in range(request.sampling.n):
            want, have = ([event for event in events if event.index == choice] for events in (before, after))
            assert [(e.token_id, e.text, e.logprob, e.finish) for e in have] == [
                (e.token_id, e.text, e.logprob, e.finish) for e in want
            ]
    assert set(leaks) == {(0, 0)}


def test_a_light_replica_is_emptied_and_its_answers_go_on_elsewhere():
    async def check(opened):
        long = [asyncio.create_task(opened.answer(ask(400, seed=at))) for at in range(4)]
        await until(lambda: sum(len(member.running) for member in opened.fleet.members) == 4)
        short = asyncio.create_task(opened.answer(ask(300)))
        await until(lambda: sum(len(member.running) > 0 for member in opened.fleet.members) == 2)
        for task in long[1:]:
            task.cancel()
        await asyncio.gather(*long[1:], return_exceptions=True)
        moved = opened.fleet.consolidate()
        busy = sum(len(member.running) > 0 for member in opened.fleet.members)
        again = opened.fleet.consolidate()
        answers = [await long[0], await short]
        await opened.idle()
        return moved, busy, again, answers, opened.fleet.dispatcher.moves, opened.launcher.leaks()

    moved, busy, again, answers, moves, leaks = at_fleet(check)

    assert (moved, busy, again, moves) == (True, 1, False, 1)
    assert [text_of(events) for events in answers] == [ALPHABET[:400], ALPHABET[:300]]
    assert leaks == [(0, 0), (0, 0)]


def test_a_request_is_moved_at_most_so_often():
    async def check(opened):
        answers = [asyncio.create_task(opened.answer(ask(400))) for _ in range(5)]
        await until(lambda: sum(len(member.running) > 0 for member in opened.fleet.members) == 2)
        for task in answers[:3]:
            task.cancel()
        await asyncio.gather(*answers[:3], return_exceptions=True)
        done = opened.fleet.consolidate()
        for task in answers:
            task.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
        return done

    assert at_fleet(check, max_moves=0) is False


def test_the_fullest_replica_is_filled_first_and_the_rule_can_be_another():
    async def check(opened):
        await until(lambda: len(opened.fleet.members) == 2)
        answers = [asyncio.create_task(opened.answer(ask(400))) for _ in range(4)]
        await until(lambda: sum(len(member.running) for member in opened.fleet.members) == 4)
        spread = sorted(len(member.running) for member in opened.fleet.members)
        for task in answers:
            task.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
        return spread

    assert at_fleet(check) == [0, 4]
    assert at_fleet(check, placement="least-loaded") == [2, 2]


def test_a_fleet_goes_to_zero_and_comes_back_for_the_next_request():
    async def check(opened):
        first = await opened.answer(ask(3))
        await until(lambda: not opened.fleet.members)
        second = await opened.answer(ask(5))
        return text_of(first), text_of(second), opened.launcher.attempts, opened.door.stats().output_tokens

    first, second, attempts, output_tokens = at_fleet(check, least=0, most=2, keep_alive_s=0.01)

    assert (first, second, attempts) == ("abc", "abcde", 2)
    assert output_tokens >= 3  # of the replica that is gone; the other may not have reported yet


def test_idle_replicas_stay_as_long_as_their_starts_took_unless_told_otherwise():
    async def check(opened):
        return opened.fleet.keep_alive_s, opened.fleet.starts_s

    keep_alive_s, starts_s = at_fleet(check, keep_alive_s=None, least=1, most=1)

    assert keep_alive_s == pytest.approx(sum(starts_s) / len(starts_s))


def test_as_many_replicas_are_started_as_requests_wait_for():
    async def check(opened):
        answers = [asyncio.create_task(opened.answer(ask(300))) for _ in range(11)]
        await until(lambda: len(opened.fleet.members) == 3)
        texts = [text_of(events) for events in await asyncio.gather(*answers)]
        return texts, opened.launcher.attempts

    texts, attempts = at_fleet(check, least=1, most=5)

    assert texts == [ALPHABET[:300]] * 11
    assert attempts == 3


def test_a_start_that_fails_is_tried_again_and_too_many_end_the_waiting():
    async def recovers(opened):
        opened.launcher.faults = 1
        opened.launcher.handles[0].kill()
        return text_of(await opened.answer(ask(4))), opened.fleet.failure

    async def gives_up(opened):
        opened.launcher.faults = 99
        opened.launcher.handles[0].kill()
        await until(lambda: not opened.fleet.members)
        with pytest.raises(EngineError, match="3 replicas in a row did not start: no luck"):
            await opened.answer(ask(4))
        with pytest.raises(EngineError, match="did not start"):
            await opened.answer(ask(4))
        return opened.door.failure

    assert at_fleet(recovers, least=1, most=1) == ("abcd", None)
    assert "no luck" in at_fleet(gives_up, least=1, most=1)


def test_a_request_that_loses_every_replica_ends_with_an_error_and_the_others_go_on():
    class Dying(Endless):
        def execute(self, plan):
            if any(chunk.sequence.token_ids[0] == 1 for chunk in plan.chunks):
                launcher.loop.call_soon_threadsafe(launcher.handles[-1].kill)
            return super().execute(plan)

    launcher = LocalLauncher(Dying)

    async def check(opened):
        launcher.loop = asyncio.get_running_loop()
        poison = asyncio.create_task(opened.answer(ask(5000, prompt=bytes([1]))))
        with pytest.raises(EngineError, match="3 replicas were lost"):
            await poison
        return text_of(await opened.answer(ask(9)))

    assert at_fleet(check, launcher, least=1, most=1) == ALPHABET[:9]


def test_clients_that_leave_free_their_places_at_once():
    async def check(opened):
        streams = [opened.door.stream(ask(10_000, seed=at)) for at in range(8)]
        for stream in streams:
            await anext(stream)
        waiting = asyncio.create_task(opened.answer(ask(7)))
        for stream in streams[:5]:
            await stream.aclose()
        text = text_of(await waiting)
        for stream in streams[5:]:
            await stream.aclose()
        await opened.idle()
        return text, [len(member.running) for member in opened.fleet.members], opened.launcher.leaks()

    text, running, leaks = at_fleet(check)

    assert text == ALPHABET[:7]
    assert running == [0, 0]
    assert leaks == [(0, 0), (0, 0)]


def test_a_full_queue_and_a_prompt_that_cannot_fit_are_refused():
    async def check(opened):
        held = [asyncio.create_task(opened.answer(ask(4000))) for _ in range(6)]
        await until(lambda: opened.fleet.dispatcher.queued() == 2)
        with pytest.raises(CapacityError, match="2 requests are waiting"):
            await opened.answer(ask(1))
        with pytest.raises(RequestError, match="expected at most"):
            await opened.answer(ask(1, prompt=bytes(1 << 17)))
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    at_fleet(check, least=1, most=1, max_queue=2)


def test_a_tenant_with_one_request_does_not_wait_behind_another_with_many():
    """The fleet's queue is in the policy's order: with one place, turns go to the tenant that was served least."""

    async def check(opened):
        order = []

        async def one(tenant):
            await opened.answer(ask(5, tenant=tenant))
            order.append(tenant)

        flood = [asyncio.create_task(one("many")) for _ in range(12)]
        await until(lambda: opened.fleet.dispatcher.queued() == 11)
        await asyncio.gather(*flood, one("few"))
        return order.index("few")

    assert at_fleet(check, LocalLauncher(max_sequences=1), policy="vtc", least=1, most=1, places=1) <= 2
    assert at_fleet(check, LocalLauncher(max_sequences=1), policy="fcfs", least=1, most=1, places=1) == 12


def test_adapters_reach_every_replica_and_an_answer_never_goes_on_with_another_adapter(tmp_path):
    write_adapter(tmp_path / "fr")

    async def prepare(opened, name):
        opened.shelf.bring(tmp_path / name).result()
        opened.slots.register(name, tmp_path / name)

    async def check(opened):
        await prepare(opened, "fr")
        answers = await asyncio.gather(*(opened.answer(ask(30, adapter="fr")) for _ in range(8)))
        stream = opened.door.stream(ask(5000, adapter="fr"))
        await anext(stream)
        await until(lambda: opened.slots.resident() == ("fr",))
        write_adapter(tmp_path / "fr", seed=9)
        await prepare(opened, "fr")
        for handle in opened.launcher.handles:
            handle.kill()
        with pytest.raises(AdapterError, match="was replaced"):
            async for _ in stream:
                pass
        fresh = text_of(await opened.answer(ask(5, adapter="fr")))
        with pytest.raises(AdapterError, match="no such adapter"):
            await opened.answer(ask(5, adapter="de"))
        return [text_of(events) for events in answers], fresh

    texts, fresh = at_fleet(check)

    assert texts == [ALPHABET[:30]] * 8
    assert fresh == "abcde"


def test_pins_are_held_by_every_replica_and_by_those_that_come_later(tmp_path):
    write_adapter(tmp_path / "fr")

    async def check(opened):
        opened.shelf.bring(tmp_path / "fr").result()
        opened.slots.register("fr", tmp_path / "fr")
        pin = opened.slots.acquire("fr")
        await until(lambda: opened.slots.references() == 2)
        opened.launcher.handles[0].kill()
        await until(lambda: opened.launcher.attempts == 3)
        await until(lambda: opened.slots.references() == 2)
        opened.slots.release(pin)
        await until(lambda: opened.slots.references() == 0)
        opened.slots.unregister("fr")
        return opened.slots.resident()

    assert at_fleet(check) == ()


def test_what_was_served_and_spent_is_counted_over_replicas_that_are_gone():
    async def check(opened):
        await asyncio.gather(*(opened.answer(ask(30, tenant=f"t{at % 3}")) for at in range(9)))
        await until(lambda: opened.door.stats().output_tokens == 270)
        opened.launcher.handles[0].kill()
        await until(lambda: opened.launcher.attempts == 3 and len(opened.fleet.members) == 2)
        return opened.door.stats().output_tokens, set(opened.meter.device_s)

    assert at_fleet(check) == (270, {"t0", "t1", "t2"})


def test_an_engine_that_fails_is_another_replica_lost():
    class Failing(Speller):
        max_len = 1 << 16

        def execute(self, plan):
            raise ZeroDivisionError("broken")

    async def check(opened):
        with pytest.raises(EngineError):
            await opened.answer(ask(5))

    at_fleet(check, LocalLauncher(Failing), least=1, most=1)


def test_a_hundred_and_fifty_streams_of_which_a_third_leave_while_replicas_die():
    """The whole of it at once: departures, losses and moves; whoever stays gets every token once."""

    async def check(opened):
        async def one(at):
            stream = opened.door.stream(ask(30 + at % 50, seed=at, prompt=bytes([97 + at % 26])))
            pieces = []
            async for event in stream:
                pieces.append(event.text)
                if at % 3 == 0 and len(pieces) > at % 11:
                    await stream.aclose()
                    return None
            return "".join(pieces)

        answering = asyncio.gather(*(one(at) for at in range(150)))
        for turn in range(2):
            await until(lambda: len(opened.fleet.members) > 1 or answering.done())
            for _ in range(100):
                await asyncio.sleep(0)
            opened.launcher.handles[turn].kill()
            opened.fleet.consolidate()
        texts = await answering
        await opened.idle()
        return texts, set(opened.launcher.leaks()), opened.fleet.dispatcher.queued()

    texts, leaks, queued = at_fleet(check, LocalLauncher(max_sequences=16), least=3, most=3, places=16)

    assert [text for at, text in enumerate(texts) if at % 3] == [
        ALPHABET[: 30 + at % 50] for at in range(150) if at % 3
    ]
    assert leaks == {(0, 0)}
    assert queued == 0


@pytest.mark.parametrize("placement", ["punica", "affinity", "bounded", "least-loaded", "round-robin"])
def test_every_placement_answers_everyone(placement):
    async def check(opened):
        answers = await asyncio.gather(*(opened.answer(ask(10 + at)) for at in range(20)))
        return [text_of(events) for events in answers]

    assert at_fleet(check, placement=placement) == [ALPHABET[: 10 + at] for at in range(20)]
