"""The built-in owner of counters: it answers as the Redis script does, and keeps what it was told."""

import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_process import RedisProcess
from replica import STEPS, Replica, counts_after

from llmsys.fair_queue.gateway import MemoryStore, OwnerSocket, OwnerStore, SqliteStore
from llmsys.fair_queue.gateway.owner import CounterTable, OwnerCounters, own
from llmsys.fair_queue.gateway.redis_counters import RedisCounters
from llmsys.fair_queue.gateway.shared import STALE_S, Told

COST = st.integers(0, 50).map(float)
ROWS = st.dictionaries(st.sampled_from("abc"), st.tuples(COST, COST | COST.map(lambda cost: -cost)), max_size=3)
SYNCS = st.lists(
    st.builds(
        lambda replica, number, least, floor, rows: Told(
            replica, number, least, floor, [(name, *row) for name, row in rows.items()]
        ),
        st.sampled_from(["one", "two"]),
        st.integers(1, 3),
        st.none() | COST,
        st.none() | COST,
        ROWS,
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisProcess(tmp_path_factory.mktemp("redis")) as running:
        yield running


@contextlib.asynccontextmanager
async def owning(store):
    """An owner on a socket; ended, and its store closed, on the way out."""
    with OwnerSocket() as socket:
        task = asyncio.create_task(own(socket.listening, store))
        try:
            yield socket.path
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 30)


@given(SYNCS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_table_answers_as_redis_does(redis, syncs):
    from redis import Redis

    with Redis(port=redis.port) as client:
        client.flushall()

    async def by_redis():
        counters = RedisCounters(redis.url)
        try:
            return [await counters.sync(told) for told in syncs]
        finally:
            await counters.close()

    table = CounterTable({}, None)
    assert [table.sync(told, now_s=0.0) for told in syncs] == asyncio.run(by_redis())


@given(STEPS)
@settings(max_examples=30)
def test_after_two_syncs_each_worker_counts_what_all_have_served(steps):
    async def run():
        async with owning(MemoryStore()) as path:
            return await counts_after(steps, [OwnerCounters(path), OwnerCounters(path)])

    total, counters = asyncio.run(run())
    assert counters == [total, total]


def test_what_waits_at_a_worker_that_has_gone_is_forgotten():
    table = CounterTable({}, None)
    table.sync(Told("gone", 1, 3.0, None, []), now_s=0.0)

    assert table.sync(Told("here", 1, 9.0, None, []), now_s=STALE_S / 2).least == 3.0
    assert table.sync(Told("here", 1, 9.0, None, []), now_s=STALE_S).least is None


def test_a_replica_whose_policy_was_replaced_goes_on_from_the_shared_counters():
    async def run():
        async with owning(MemoryStore()) as path:
            replica = Replica(OwnerStore(path))
            replica.charge("a", 10.0)
            await replica.sync()
            replica.counters = {}
            replica.batch.afresh = True
            replica.charge("a", 3.0)
            await replica.sync()
            held, _ = await OwnerCounters(path).read()
            await replica.store.close()
            return replica.counters, held

    assert asyncio.run(run()) == ({"a": 13.0}, {"a": (13.0, 0.0)})


def test_counters_outlive_the_owner_in_a_file(tmp_path):
    async def life(charged):
        async with owning(SqliteStore(tmp_path / "state")) as path:
            replica = Replica(OwnerStore(path))
            found = await replica.store.load()
            for tenant, cost in charged.items():
                replica.counters[tenant] = found.counters.get(tenant, 0.0)
                replica.charge(tenant, cost)
            await replica.sync()
            await replica.store.close()
            return found.counters

    assert asyncio.run(life({"a": 5.0, "b": 7.0})) == {}
    assert asyncio.run(life({"a": 2.0})) == {"a": 5.0, "b": 7.0}
    assert asyncio.run(life({})) == {"a": 7.0, "b": 7.0}


def test_a_worker_without_its_owner_goes_on_and_adds_what_it_served_later():
    async def run():
        with OwnerSocket() as socket:
            replica = Replica(OwnerStore(socket.path))
            task = asyncio.create_task(own(socket.listening.dup(), MemoryStore()))
            replica.charge("a", 4.0)
            await replica.sync()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            replica.charge("a", 6.0)
            await replica.sync()
            fault = replica.store.fault
            task = asyncio.create_task(own(socket.listening.dup(), MemoryStore()))
            await replica.sync()
            answer = await OwnerStore(socket.path).load()
            task.cancel()
            return fault, replica.store.fault, answer.counters

    fault, later, counters = asyncio.run(run())
    assert fault.startswith("the owner of the counters does not answer")
    assert later is None
    assert counters == {"a": 6.0}
