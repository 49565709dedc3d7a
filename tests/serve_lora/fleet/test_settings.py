"""A fleet as it is written, what its replicas are told, and where one request more has room."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.engine.sequence import Request, SamplingParams
from llmsys.errors import Unavailable, UsageFault
from llmsys.serve_lora.cluster.routing import make_router
from llmsys.serve_lora.fleet.backend import launcher_of
from llmsys.serve_lora.fleet.member import Member, all_fit
from llmsys.serve_lora.fleet.messages import Ready, Report
from llmsys.serve_lora.fleet.settings import FleetSettings, fleet_settings
from llmsys.serve_lora.fleet.spec import ReplicaSpec
from llmsys.serve_lora.fleet.tasks import Job
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.server.settings import EngineSettings, Recording, ServerSettings

REST = {"consolidate_s": 10.0, "max_moves": 3, "standby": 0, "places": 64, "threads": 0}


class NoLink:
    """A connection that keeps what is sent."""

    def __init__(self, *, sequences=4, tokens=100, slots=2, resident=()):
        self.ready = Ready(259, 256, tokens, sequences, slots, {})
        self.report = Report(0, 0, 0, 0, 0, 1, {}, list(resident), 0, 0, 0, 0, 0, 0, 0, {}, {}, 0, 0)
        self.sent = []

    def send(self, message):
        self.sent.append(message)


def member(number=0, **link):
    return Member(number, None, NoLink(**link))


def piece(number=0, *, prompt=10, n=1, adapter=None):
    request = Request([1] * prompt, SamplingParams(n=n), adapter=adapter, request_id=number)
    return Job(request, None, n).whole(number)


@pytest.mark.parametrize(
    ("replicas", "keep_alive", "least", "most", "keep_alive_s"),
    [("3", "inf", 3, 3, math.inf), ("0:4", "2.5", 0, 4, 2.5), (None, "ski-rental", 1, 1, None)],
)
def test_a_fleet_is_read_as_it_is_written(replicas, keep_alive, least, most, keep_alive_s):
    fleet = fleet_settings(replicas, "ray", "affinity", keep_alive, **REST)

    assert (fleet.least, fleet.most, fleet.keep_alive_s, fleet.placement) == (least, most, keep_alive_s, "affinity")


def test_without_replicas_and_cluster_there_is_no_fleet():
    assert fleet_settings(None, "local", "punica", "inf", **REST) is None


@pytest.mark.parametrize("keep_alive", ["", "-1", "nan", "soon"])
def test_a_keep_alive_that_is_none_is_refused(keep_alive):
    with pytest.raises(UsageFault, match="--keep-alive"):
        fleet_settings("1", "local", "punica", keep_alive, **REST)


@pytest.mark.parametrize("replicas", ["0", "257", "5:4", "-1", "a:b", ":"])
def test_a_number_of_replicas_that_cannot_be_is_refused(replicas):
    with pytest.raises(UsageFault, match="--replicas"):
        fleet_settings(replicas, "local", "punica", "inf", **REST)


def test_each_replica_keeps_a_ledger_of_its_own_and_leaves_the_queue_to_its_gateway():
    engine = EngineSettings(dtype="float32", max_sequences=7, lora_slots=3, max_queue=5)
    records = Recording(ledger=Path("d/day.jsonl"), prices=PriceList(currency="EUR", device_per_hour=2.0))
    spec = ReplicaSpec.of(ServerSettings("tiny", engine=engine, records=records), threads=1, secret="s")

    settings = [spec.numbered(number, address="unix:x").settings() for number in (0, 12)]

    assert [str(one.records.ledger) for one in settings] == ["d/day.0000.jsonl", "d/day.0012.jsonl"]
    assert settings[0].records.prices == records.prices
    config = settings[0].engine.config()
    assert (config.dtype, config.max_sequences, config.lora_slots) == ("float32", 7, 3)
    assert config.max_waiting > 1 << 20


def test_ray_is_asked_for_by_name(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    spec = ReplicaSpec.of(ServerSettings("tiny"), threads=0, secret="s")

    with pytest.raises(Unavailable, match="ray"):
        launcher_of(FleetSettings(cluster="ray"), spec)


def test_a_replica_has_room_for_places_tokens_and_adapters():
    one = member()
    assert one.fits(piece(prompt=5000, n=9))  # an empty one takes what no other could
    one.begin(piece(0, prompt=60, adapter="a"))
    one.begin(piece(1, prompt=10, adapter="b"))

    assert one.fits(piece(2, prompt=20, adapter="b"))
    assert not one.fits(piece(2, prompt=20, adapter="c"))
    assert not one.fits(piece(2, prompt=28))
    assert not one.fits(piece(2, prompt=1, n=3))
    assert one.resident == {"a", "b"}


def test_work_that_is_taken_off_is_cancelled_there_and_makes_room():
    one = member(sequences=1)
    first = piece(5)
    one.begin(first)
    assert not one.fits(piece(6))
    one.end(first, cancel=True)

    assert one.fits(piece(6))
    assert [type(message).__name__ for message in one.link.sent] == ["Work", "Cancel"]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3)), min_size=1, max_size=6),
    rooms=st.lists(st.tuples(st.integers(10, 100), st.integers(1, 5)), min_size=1, max_size=3),
)
def test_what_all_fits_can_be_placed_one_by_one(sizes, rooms):
    """`all_fit` is no promise that cannot be kept: largest first, each piece finds its replica."""
    others = [member(at, tokens=tokens, sequences=places) for at, (tokens, places) in enumerate(rooms)]
    for at, other in enumerate(others):
        other.begin(piece(100 + at, prompt=1))
    pieces = [piece(at, prompt=prompt, n=n) for at, (prompt, n) in enumerate(sizes)]

    if all_fit(others, pieces):
        for one in sorted(pieces, key=lambda piece: -piece.known_tokens):
            fitting = [other for other in others if other.fits(one)]
            assert fitting
            min(fitting, key=lambda other: other._tokens()).begin(one)


def test_affinity_prefers_the_replica_that_holds_the_adapter():
    holding, fuller = member(0, resident=["fr"]), member(1)
    fuller.begin(piece(1))

    assert make_router("affinity").route(piece(2, adapter="fr"), [holding, fuller]) is holding
    assert make_router("punica").route(piece(2, adapter="fr"), [holding, fuller]) is fuller
    assert make_router("affinity").route(piece(2, adapter="de"), [holding, fuller]) is fuller
