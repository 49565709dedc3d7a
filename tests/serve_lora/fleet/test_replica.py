"""One replica and its connection: work, cancellation, refusals, pins, reports, and what an end of it leaves."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.fleet.adapter_book import AdapterBook
from llmsys.serve_lora.fleet.link import Link, LinkEvents
from llmsys.serve_lora.fleet.messages import AdapterRef, Cancel, Pins, Work, work_of
from tests.serve_lora.fleet.conftest import SECRET, LocalLauncher, until
from tests.serve_lora.server.conftest import SHAPE, Endless, write_adapter
from tests.serve_lora.stand_ins import Speller


class Heard:
    """What comes over a connection."""

    def __init__(self):
        self.said, self.refused, self.spent, self.lost = [], [], [], 0
        self.events = LinkEvents(
            said=self.said.append, refused=self.refused.append, spent=self.spent.append, lost=self._lose
        )

    def _lose(self):
        self.lost += 1

    def text(self, number):
        return "".join(said.text for said in self.said if said.number == number)

    def ended(self, number):
        return any(said.finish for said in self.said if said.number == number)


@asynccontextmanager
async def connected(make_runner=Endless, **engine):
    launcher = LocalLauncher(make_runner, **engine)
    handle = await launcher.launch(0)
    link, heard = await Link.open(handle.address, SECRET), Heard()
    link.listen(heard.events)
    try:
        yield handle, link, heard
    finally:
        await link.close()
        await handle.stop()
        await launcher.close()


def at_replica(check, make_runner=Endless, **engine):
    async def main():
        async with connected(make_runner, **engine) as (handle, link, heard):
            return await check(handle, link, heard)

    return asyncio.run(asyncio.wait_for(main(), 60))


def work(number, tokens=5, *, prompt=b"xyz", adapter=None, **sampling):
    params = SamplingParams(**{"max_tokens": tokens, "temperature": 0.0} | sampling)
    return work_of(Request(list(prompt), params), number, adapter)


def ref(path, generation=1, name="fr"):
    reader = checked_reader(SHAPE, rank_max=64)
    return AdapterRef(name, str(path), generation, reader(path).digest.hex())


def test_pieces_of_work_run_side_by_side_and_end_with_their_costs():
    async def check(_handle, link, heard):
        for number in range(5):
            link.send(work(number, 3 + number))
        await until(lambda: all(heard.ended(number) for number in range(5)))
        return [heard.text(number) for number in range(5)], [said for said in heard.said if said.finish]

    texts, ends = at_replica(check)

    assert texts == ["abc", "abcd", "abcde", "abcdef", "abcdefg"]
    assert {said.finish for said in ends} == {"length"}
    assert [said.prompt_tokens for said in ends] == [3] * 5


def test_cancelled_work_says_no_more_and_holds_nothing():
    async def check(handle, link, heard):
        link.send(work(1, 5000))
        await until(lambda: len(heard.said) > 3)
        link.send(Cancel(1))
        link.send(Cancel(77))
        link.send(work(2, 4))
        await until(lambda: heard.ended(2) and handle.leaks() == (0, 0))
        return heard.ended(1), heard.text(2)

    assert at_replica(check) == (False, "abcd")


def test_a_connection_that_ends_takes_its_work_with_it():
    async def check(handle, link, heard):
        for number in range(4):
            link.send(work(number, 50_000))
        await until(lambda: len({said.number for said in heard.said}) == 4)
        await link.close()
        await until(lambda: not handle.loaded.engine.busy)
        return handle.leaks(), heard.lost

    assert at_replica(check) == ((0, 0), 0)


@pytest.mark.parametrize(
    ("wrong", "kind", "told"),
    [
        ({"prompt": b""}, "request", "empty"),
        ({"prompt": bytes(300)}, "request", "300"),
        ({"adapter": AdapterRef("fr", "/nowhere", 1, "00")}, "adapter", "/nowhere"),
    ],
)
def test_work_that_cannot_run_is_refused_and_the_rest_goes_on(wrong, kind, told):
    async def check(_handle, link, heard):
        link.send(work(1, 3, **wrong))
        link.send(work(2, 3))
        await until(lambda: heard.refused and heard.ended(2))
        return heard.refused[0], heard.text(2)

    refused, text = at_replica(check, Speller)

    assert (refused.number, refused.kind) == (1, kind)
    assert told in refused.message
    assert text == "xyz"


def test_a_parameter_from_another_version_is_a_refusal_and_no_end():
    async def check(_handle, link, heard):
        strange = work(1, 3)
        link.send(Work(1, strange.prompt, strange.sampling | {"magic": 1}, "t"))
        link.send(work(2, 3))
        await until(lambda: heard.refused and heard.ended(2))
        return heard.refused[0].kind, "magic" in heard.refused[0].message

    assert at_replica(check) == ("request", True)


def test_work_that_is_taken_back_says_what_it_was_charged():
    async def check(_handle, link, heard):
        link.send(work(0, 10_000))
        await until(lambda: len(heard.text(0)) > 20)
        link.send(Cancel(0))
        link.send(Cancel(7))
        await until(lambda: len(heard.spent) == 2)
        return {spent.number: spent.device_s for spent in heard.spent}

    charged = at_replica(check)

    assert charged[0] > 0
    assert charged[7] == 0


def test_reports_say_what_work_was_charged_so_far():
    async def check(_handle, link, heard):
        link.send(work(3, 100_000))
        await until(lambda: link.report is not None and link.report.work_s.get(3, 0.0) > 0)
        return heard.ended(3)

    assert not at_replica(check)


def test_a_report_says_what_was_served_once_all_is_done():
    async def check(_handle, link, heard):
        link.send(work(1, 6))
        link.send(work(2, 7))
        await until(lambda: link.report is not None and link.report.finished == 2)
        return link.report

    report = at_replica(check)

    assert (report.output_tokens, report.running, report.blocks_referenced) == (13, 0, 0)
    assert report.steps >= 7


def test_pins_hold_slots_until_they_are_told_otherwise(tmp_path):
    paths = [write_adapter(tmp_path / name, seed=at) for at, name in enumerate("ab")]

    async def check(handle, link, _heard):
        pool = handle.loaded.pool
        refs = [ref(path, name=path.name) for path in paths]
        link.send(Pins(refs))
        await until(lambda: pool.references() == 2)
        link.send(Pins(refs[:1]))
        await until(lambda: pool.references() == 1)
        held = pool.resident()
        link.send(Pins([], forgotten=["a", "b", "c"]))
        await until(lambda: pool.references() == 0)
        return held, pool.names()

    held, names = at_replica(check)

    assert held == ("a",)
    assert all(name.startswith("gone") for name in names)


def test_an_engine_that_breaks_refuses_what_it_has_and_what_comes():
    class Broken(Speller):
        def execute(self, plan):
            raise ZeroDivisionError("no more")

    async def check(_handle, link, heard):
        link.send(work(1))
        await until(lambda: heard.refused)
        link.send(work(2))
        await until(lambda: len(heard.refused) == 2)
        return [(refused.number, refused.kind, "no more" in refused.message) for refused in heard.refused]

    assert at_replica(check, Broken) == [(1, "engine", True), (2, "engine", True)]


class Pool:
    """Slots that note what is done to them."""

    def __init__(self, slots=2):
        self.log, self._slots, self._held = [], slots, []

    def register(self, name, path):
        self.log.append(("register", name))

    def unregister(self, name):
        self.log.append(("unregister", name))

    def acquire(self, name):
        if len(self._held) >= self._slots:
            raise AdapterBusy("full")
        self._held.append(name)
        return len(self._held)

    def release(self, slot):
        self.log.append(("release", slot))


class Door:
    """Calls at once what would wait for the engine's thread."""

    async def call(self, action):
        return action(None)


@pytest.fixture
def shelf():
    shelf = AdapterShelf(checked_reader(SHAPE, rank_max=64), limit_bytes=1 << 20)
    yield shelf
    shelf.close()


def test_a_generation_is_registered_once_and_an_older_one_only_goes_on_where_nothing_is_out(tmp_path, shelf):
    write_adapter(tmp_path / "fr")
    pool, ranks = Pool(), {}
    book = AdapterBook(Door(), pool, shelf, ranks)
    first = ref(tmp_path / "fr")

    async def act():
        await book.prepare(first, resumed=False)
        await book.prepare(first, resumed=True)
        write_adapter(tmp_path / "fr", seed=5, rank=3)
        second = ref(tmp_path / "fr", 2)
        await book.prepare(second, resumed=False)
        await book.prepare(first, resumed=False)
        with pytest.raises(AdapterError, match="replaced while its answer moved"):
            await book.prepare(first, resumed=True)

    asyncio.run(act())

    assert pool.log == [("register", "fr")] * 2
    assert ranks == {"fr": 3}


def test_content_that_the_gateway_did_not_see_is_refused(tmp_path, shelf):
    write_adapter(tmp_path / "fr")
    told = ref(tmp_path / "fr")
    write_adapter(tmp_path / "fr", seed=9)
    pool = Pool()

    with pytest.raises(AdapterError, match="ask again"):
        asyncio.run(AdapterBook(Door(), pool, shelf, {}).prepare(told, resumed=False))
    assert pool.log == []


def test_pins_beyond_the_slots_are_left_and_a_new_generation_is_pinned_anew(tmp_path, shelf):
    paths = [write_adapter(tmp_path / name, seed=at) for at, name in enumerate("abc")]
    pool = Pool(slots=2)
    book = AdapterBook(Door(), pool, shelf, {})
    refs = [ref(path, name=path.name) for path in paths]

    async def act():
        await book.hold(refs, [])
        before = list(pool.log)
        write_adapter(paths[0], seed=7)
        pool._slots = 3
        await book.hold([ref(paths[0], 2, name="a"), refs[1]], ["c"])
        return before

    before = asyncio.run(act())

    assert [entry for entry in before if entry[0] == "release"] == []
    assert sum(entry[0] == "release" for entry in pool.log) >= 1
    assert ("unregister", "c") in pool.log
