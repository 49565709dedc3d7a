"""Metrics on their own: labels in bounded number, costs by label, a fleet's replicas, and bodies of any kind."""

import asyncio
import json
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from llmsys.engine.block_manager import BlockCounts
from llmsys.engine.outputs import EngineStats
from llmsys.serve_lora.fleet.facts import FleetFacts, ReplicaFacts
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.server.bodies import AnswerBody, LoadBody, read_body
from llmsys.serve_lora.server.faults import ApiFault
from llmsys.serve_lora.server.metrics import OTHER, Metrics


def backend(*, device_s=(), fleet=None):
    """What metrics look at, at one moment."""
    stats = EngineStats(3, 4, 0, BlockCounts(5, 6, 9, 20), {"fr": 2}, 7, 100, 40, 55, 1, 8)
    return SimpleNamespace(
        door=SimpleNamespace(stats=lambda: stats),
        pool=SimpleNamespace(references=lambda: 2, resident=lambda: ("de", "fr")),
        shelf=SimpleNamespace(reads=11, late_reads=0),
        meter=SimpleNamespace(device_s=dict(device_s)),
        fleet=fleet,
    )


def values(metrics):
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def watched(**given):
    metrics = Metrics("x:", tenants_max=2, prices=PriceList(device_per_hour=3600.0))
    metrics.watch(backend(**given))
    return metrics


def test_the_engines_state_is_read_when_somebody_looks():
    found = values(watched())

    assert found["x:num_requests_running",] == 3
    assert found["x:num_requests_waiting",] == 4
    assert found["x:kv_cache_usage_perc",] == 9 / 20
    assert found["x:generation_tokens_total",] == 55
    assert found["x:num_lora_requests_running", "fr"] == 2
    assert found["x:adapter_residency", "de", "resident"] == 1
    assert found["x:adapter_reads_total",] == 11


@given(tenants=st.lists(st.text(min_size=1, max_size=8), max_size=20), most=st.integers(0, 5))
def test_no_more_tenants_have_labels_than_may(tenants, most):
    metrics = Metrics("x:", tenants_max=most, prices=PriceList())

    labels = [metrics.label(tenant) for tenant in tenants]

    assert len(set(labels) - {OTHER}) <= most
    assert labels == [metrics.label(tenant) for tenant in tenants]
    for tenant, label in zip(tenants, labels, strict=True):
        assert label in (tenant, OTHER)


def test_costs_of_tenants_without_a_label_are_added_up():
    found = values(watched(device_s={"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}))

    assert found["x:tenant_cost_total", "a"] == 1.0
    assert found["x:tenant_cost_total", "b"] == 2.0
    assert found["x:tenant_cost_total", OTHER] == 12.0


def test_a_fleet_tells_of_its_replicas():
    replica = ReplicaFacts(number=1, pid=7, address="unix:s", requests=2, sequences=3, tokens=90, resident=["fr"])
    facts = FleetFacts([replica], starts=5, losses=2, moves=9, stages_s={"model": 1.5})

    found = values(watched(fleet=SimpleNamespace(facts=lambda: facts)))

    assert found["x:replicas",] == 1
    assert found["x:replica_starts_total",] == 5
    assert found["x:replica_losses_total",] == 2
    assert found["x:request_moves_total",] == 9
    assert found["x:replica_start_seconds", "model"] == 1.5


def read(content, kind, *, limit=1 << 16, pieces=1):
    """A body as it comes over a connection, in pieces."""
    step = max(len(content) // pieces, 1)
    parts = [content[at : at + step] for at in range(0, len(content), step)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": at < len(parts) - 1} for at, part in enumerate(parts)
    ]

    async def receive():
        return messages.pop(0)

    return asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), kind, limit=limit))


def attempt(content, kind, pieces):
    """A body, or its fault."""
    try:
        return read(content, kind, pieces=pieces), None
    except ApiFault as fault:
        return None, fault


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([field.name for field in msgspec.structs.fields(AnswerBody)])


@given(fields=st.dictionaries(FIELDS, JSON, max_size=8), pieces=st.integers(1, 5))
def test_any_json_is_a_body_or_a_fault_with_status_400(fields, pieces):
    content = json.dumps({"model": "m"} | fields).encode()
    body, fault = attempt(content, AnswerBody, pieces)

    if fault is not None:
        assert (fault.status, fault.code) == (400, "invalid_type")
        assert fault.param is None or fault.param.partition(".")[0].partition("[")[0] in fields
    for name, value in fields.items():
        assert fault or value is None or msgspec.to_builtins(getattr(body, name)) is not None


@given(content=st.binary(max_size=60), pieces=st.integers(1, 4))
def test_any_bytes_are_refused_in_one_way_or_taken(content, pieces):
    body, fault = attempt(content, LoadBody, pieces)

    assert fault.status == 400 if body is None else body.lora_name is not None


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_body_over_its_limit_is_refused_before_it_is_read_to_the_end(pieces):
    with pytest.raises(ApiFault) as caught:
        read(b'{"model": "' + b"x" * 500 + b'"}', AnswerBody, limit=100, pieces=pieces)

    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


def test_a_bomb_of_depth_is_a_fault_and_no_crash():
    with pytest.raises(ApiFault) as caught:
        read(b'{"model":"m","tools":' + b"[" * 20_000 + b"]" * 20_000 + b"}", AnswerBody)

    assert caught.value.status == 400
