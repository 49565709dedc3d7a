"""Placement rules on their own, what Punica's saves on a load that rises and falls, and runs as timelines."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.artifacts import TraceRecord
from llmsys.errors import UsageFault
from llmsys.serve_lora.cluster import (
    POLICIES,
    ClusterSettings,
    ReplicaProfile,
    assign_adapters,
    make_router,
    plan_cluster,
    simulate,
    timeline,
)
from llmsys.serve_lora.prices import PriceList


@dataclass
class Place:
    """A replica with so much room."""

    number: int
    room: int = 4
    running: list = field(default_factory=list)
    resident: set = field(default_factory=set)

    def fits(self, job):
        return len(self.running) < self.room


@dataclass(frozen=True)
class Asked:
    adapter: str


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    rooms=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    adapters=st.lists(st.sampled_from("abcdef"), max_size=30),
)
def test_a_rule_places_where_there_is_room_and_nowhere_else(policy, rooms, adapters):
    """Every policy: a request is placed exactly if some replica has room, and then on one that has."""
    router, places = make_router(policy), [Place(at, room) for at, room in enumerate(rooms)]
    for adapter in adapters:
        chosen = router.route(Asked(adapter), places)
        assert (chosen is None) == all(len(place.running) >= place.room for place in places)
        if chosen is not None:
            chosen.running.append(adapter)
            assert len(chosen.running) <= chosen.room


def placed(places, adapters):
    router = make_router("bounded")
    for adapter in adapters:
        router.route(Asked(adapter), places).running.append(adapter)
    return {adapter: {place.number for place in places if adapter in place.running} for adapter in set(adapters)}


def test_bounded_keeps_adapters_together_and_floods_no_replica():
    """64 requests of 16 adapters: most adapters are on one or two of four replicas, and no load is over its bound."""
    rng = np.random.default_rng(0)
    adapters = [f"a{number}" for number in rng.integers(0, 16, 64)]
    places = [Place(at, room=64) for at in range(4)]
    where = placed(places, adapters)

    assert max(len(place.running) for place in places) <= 1.25 * (64 / 4) + 1
    assert sum(len(numbers) for numbers in where.values()) / len(where) < 2.2


def test_one_popular_adapter_spreads_over_all_replicas_under_bounded():
    places = [Place(at, room=64) for at in range(4)]
    placed(places, ["hot"] * 40)

    assert max(len(place.running) for place in places) <= 14


def test_a_replica_that_goes_moves_only_its_own_adapters():
    adapters = [f"a{number}" for number in range(40)]

    def first_choice(numbers):
        return {a: make_router("bounded").route(Asked(a), [Place(at) for at in numbers]).number for a in adapters}

    before, after = first_choice([0, 1, 2, 3]), first_choice([0, 1, 3])

    assert {a: at for a, at in before.items() if at != 2} == {a: at for a, at in after.items() if before[a] != 2}
    assert min(Counter(before.values()).values()) >= 3


def ramp(peak, seconds=1800.0, seed=0):
    """Requests whose rate rises to `peak` a second and falls again; prompts as Punica draws them."""
    rng, at_s, found = np.random.default_rng(seed), 0.0, []
    while at_s < seconds:
        at_s += rng.exponential(1 / peak)
        if rng.random() < 1 - abs(2 * at_s / seconds - 1):
            prompt, output = int(np.clip(18 * rng.lognormal(0, 0.8) - 1, 1, 500)), int(rng.integers(16, 256))
            name = str(len(found))
            found.append(TraceRecord(id=name, tenant="t", arrival_s=at_s, prompt_tokens=prompt, output_tokens=output))
    return assign_adapters(found, "geometric:1.5", seed=seed)


def test_punicas_rule_needs_a_fifth_less_machine_time_when_load_rises_and_falls():
    """Three loads of up to 8 requests a second: 16, 27 and 29 % less than least-loaded; few wait for over a second."""
    saved = []
    for seed in range(3):
        (punica, spread), _ = plan_cluster(
            ramp(8, seed=seed),
            ReplicaProfile(),
            ClusterSettings(8, 30.0, 10.0, 3),
            policies=["punica", "least-loaded"],
            gpus=[8],
            slo_ttft_s=1.0,
            idle="owner",
            prices=PriceList(),
        )
        saved.append(1 - punica.machine_s / spread.machine_s)
        assert punica.machine_s >= punica.least_machine_s
        assert punica.ttft_p99_s <= 1.1
        assert punica.moves > 0

    assert sum(saved) / len(saved) >= 0.2


def test_a_timeline_has_two_bars_per_request_and_rows_without_overlaps():
    outcome = simulate(ramp(4, seconds=60.0), ReplicaProfile(), make_router("punica"), ClusterSettings())
    spans = list(timeline(outcome))
    rows = {}
    for span in spans:
        rows.setdefault(span.track, []).append(span)

    assert len(spans) == 2 * len(outcome.jobs)
    assert sum(span.name == "wait" for span in spans) == len(outcome.jobs)
    for row in rows.values():
        for before, after in pairwise(row):
            assert after.start_s >= before.start_s + before.duration_s - 1e-9


def test_tenants_can_have_several_adapters_each():
    trace = [
        TraceRecord(id=str(at), tenant="ab"[at % 2], arrival_s=at, prompt_tokens=1, output_tokens=1) for at in range(99)
    ]

    found = assign_adapters(trace, "trace", seed=1, per_tenant=3)

    assert {record.adapter for record in found} == {f"{tenant}-{at}" for tenant in "ab" for at in range(3)}
    assert all(record.adapter.startswith(record.tenant) for record in found)
    with pytest.raises(UsageFault, match="--adapters-per-tenant 3 with --popularity distinct"):
        assign_adapters(trace, "distinct", seed=1, per_tenant=3)
