"""Gateways that share counters through Redis: one fairness over all, and none lost while Redis is away."""

import asyncio

import pytest
from gateway_process import GatewayProcess
from hypothesis import HealthCheck, given, settings
from load import crowd
from redis_process import RedisProcess
from replica import STEPS, Replica, counts_after
from scripted_backend import ScriptedBackend

from llmsys.fair_queue.gateway import RedisStore
from llmsys.fair_queue.gateway.redis_counters import RedisCounters

LOAD = {"tokens": 20, "prompt_tokens": 10, "delay_s": 0.001}
STREAM = {"stream": True, "max_tokens": 20}


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisProcess(tmp_path_factory.mktemp("redis")) as running:
        yield running


def flush(redis):
    from redis import Redis

    with Redis(port=redis.port) as client:
        client.flushall()


@given(STEPS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_two_syncs_each_replica_counts_what_all_have_served(redis, steps):
    flush(redis)
    total, counters = asyncio.run(counts_after(steps, [RedisCounters(redis.url), RedisCounters(redis.url)]))
    assert counters == [total, total]


def test_a_lift_at_two_replicas_counts_once(redis):
    flush(redis)

    async def run():
        one, two = Replica(RedisStore(redis.url)), Replica(RedisStore(redis.url))
        for replica in (one, two):
            replica.lift("a", 100.0)
            replica.charge("a", 5.0)
        for replica in (one, two, one):
            await replica.sync()
        for replica in (one, two):
            await replica.store.close()
        return one.counters, two.counters

    assert asyncio.run(run()) == ({"a": 110.0}, {"a": 110.0})


def test_a_charge_is_not_hidden_by_a_lift_elsewhere_between_two_syncs(redis):
    flush(redis)

    async def run():
        one, two = Replica(RedisStore(redis.url)), Replica(RedisStore(redis.url))
        one.charge("a", 30.0)
        two.lift("a", 100.0)
        for replica in (one, two, one):
            await replica.sync()
        for replica in (one, two):
            await replica.store.close()
        return one.counters, two.counters

    assert asyncio.run(run()) == ({"a": 130.0}, {"a": 130.0})


def test_two_gateways_before_two_servers_share_as_one(tmp_path, redis):
    """The flood asks at the first gateway only, the light tenant at the second mostly: both get the same service."""
    flush(redis)
    second = tmp_path / "second"
    second.mkdir()
    options = ("--window", 2, "--sync-ms", 20)
    with (
        ScriptedBackend(slots=4) as backend,
        GatewayProcess(tmp_path, backend, state=redis.url, options=options) as one,
        GatewayProcess(second, backend, state=redis.url, options=options) as two,
    ):
        # a is served at both gateways at once, b at the second alone: without sharing, a would get three times b's
        task = crowd_in_thread(one.port, [("a", 6, LOAD, STREAM)], 4)
        crowd(two.port, [("a", 6, LOAD, STREAM), ("b", 6, LOAD, STREAM)], seconds=4)
        task.join()
        tokens = {name: sum(g.tenants().get(name, {}).get("output_tokens", 0) for g in (one, two)) for name in "ab"}
        at_second = {name: two.tenants()[name]["output_tokens"] for name in "ab"}

    assert tokens["b"] > 500
    # the second gateway makes up for what a got at the first: b gets nearly all of the second
    assert at_second["a"] < 0.25 * at_second["b"]
    assert 0.7 < tokens["a"] / tokens["b"] < 1.4


def crowd_in_thread(port, groups, seconds):
    import threading

    thread = threading.Thread(target=crowd, args=(port, groups), kwargs={"seconds": seconds})
    thread.start()
    return thread


def test_without_redis_a_gateway_goes_on_and_adds_what_it_served_later(tmp_path, redis):
    flush(redis)
    with (
        ScriptedBackend() as backend,
        GatewayProcess(tmp_path, backend, state=redis.url, options=("--sync-ms", 20)) as gateway,
    ):
        gateway.chat(script={"tokens": 5, "prompt_tokens": 10})
        gateway.until(lambda: shared_counter(redis, "a") == 20)
        redis.kill()
        gateway.until(lambda: "warning: redis://" in gateway.errors.read_text())
        assert gateway.chat(script={"tokens": 5, "prompt_tokens": 10})[0] == 200
        redis.start()
        gateway.until(lambda: shared_counter(redis, "a") == 40)
        gateway.until(lambda: "recovered" in gateway.errors.read_text())


def shared_counter(redis, tenant):
    from redis import Redis

    with Redis(port=redis.port) as client:
        return client.zscore("llmsys:fair:counters", tenant)


def test_a_replica_that_starts_without_redis_starts_alone(tmp_path, backend):
    pytest.importorskip("redis")
    with GatewayProcess(tmp_path, backend, state="redis://127.0.0.1:1") as gateway:
        assert gateway.chat()[0] == 200
        gateway.until(lambda: "warning: redis://127.0.0.1:1" in gateway.errors.read_text())


def test_replicas_listen_on_one_port(tmp_path, redis):
    flush(redis)
    second = tmp_path / "second"
    second.mkdir()
    with (
        ScriptedBackend() as backend,
        GatewayProcess(tmp_path, backend, state=redis.url) as one,
        GatewayProcess(second, backend, state=redis.url, listen=f"127.0.0.1:{one.port}") as two,
    ):
        assert two.port == one.port
        assert [one.chat()[0] for _ in range(8)] == [200] * 8
        assert one.stop() == 0
        assert [two.chat()[0] for _ in range(4)] == [200] * 4
