"""Adapters read beside the steps: nobody waits in `is_ready`, errors arrive where the adapter is wanted."""

from threading import Event
from types import SimpleNamespace

import pytest

from llmsys.engine.adapter_loader import AHEAD, AdapterLoader
from llmsys.engine.errors import AdapterError

WAIT_S = 60


class Shelf:
    """A reader that waits until it is let go, and counts."""

    def __init__(self):
        self.open, self.begun = Event(), Event()
        self.read = []

    def __call__(self, path):
        self.begun.set()
        assert self.open.wait(WAIT_S)
        self.read.append(path)
        if "bad" in str(path):
            raise AdapterError(f"{path}: no adapter")
        return SimpleNamespace(path=path)


def test_asking_begins_to_read_and_does_not_wait():
    shelf = Shelf()
    loader = AdapterLoader(shelf)

    assert not loader.is_ready(1, "a")
    assert shelf.begun.wait(WAIT_S)
    assert not loader.is_ready(1, "a")
    shelf.open.set()
    assert loader.take(1, "a").path == "a"
    assert shelf.read == ["a"]


def test_what_was_not_asked_for_is_read_when_it_is_taken():
    shelf = Shelf()
    shelf.open.set()

    assert AdapterLoader(shelf).take(1, "a").path == "a"


def test_an_error_is_raised_where_the_adapter_is_taken_and_the_next_try_reads_anew():
    shelf = Shelf()
    shelf.open.set()
    loader = AdapterLoader(shelf)
    loader.is_ready(1, "bad")

    for _ in range(2):
        with pytest.raises(AdapterError, match="bad: no adapter"):
            loader.take(1, "bad")
    assert shelf.read == ["bad", "bad"]


def test_what_nobody_takes_is_forgotten_and_read_again_when_it_is_wanted():
    shelf = Shelf()
    loader = AdapterLoader(shelf)
    for number in range(AHEAD + 2):
        loader.is_ready(number, str(number))
    shelf.open.set()
    taken = [loader.take(number, str(number)).path for number in reversed(range(AHEAD + 2))]

    assert taken == [str(number) for number in reversed(range(AHEAD + 2))]
    assert len(loader._coming) == 0


def stalled_engine(parts):
    """An engine whose adapters are not ready while `ready` is not set."""
    engine = parts.make_engine()
    ready = Event()
    engine.slots.is_ready = lambda name: ready.is_set()
    return engine, ready


def test_streams_run_on_while_an_adapter_is_read_and_it_joins_them_when_it_is_there(parts):
    engine, ready = stalled_engine(parts)
    runs = engine.add(parts.greedy_request([1, 2], 30))
    engine.step()
    late = engine.add(parts.greedy_request([3], 5, adapter="fr"))
    events = [event for _ in range(10) for event in engine.step()]
    assert [event.request_id for event in events] == [runs] * 10

    ready.set()
    events = parts.drain(engine, events)
    order = [event.request_id for event in events]

    assert order[10:15].count(late) >= 2
    assert parts.tokens_of(events, late) == parts.expected_greedy([3], 5, engine.slots.digest("fr"))


def test_while_one_adapter_is_read_those_of_the_next_are_asked_for_too(parts):
    engine, _ = stalled_engine(parts)
    asked = []
    engine.slots.is_ready = asked.append
    engine.add(parts.greedy_request([1, 2], 30))
    engine.step()
    for name in ("fr", None, "de", "it"):
        engine.add(parts.greedy_request([3], 5, adapter=name))
    engine.step()

    assert asked == ["fr", "fr", "de"]


def test_an_adapter_that_nobody_else_waits_for_is_waited_for(parts):
    engine, _ = stalled_engine(parts)
    engine.add(parts.greedy_request([3], 5, adapter="fr"))

    assert len(parts.drain(engine)) == 5
