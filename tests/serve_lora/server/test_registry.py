"""The registry against a model, on random histories: directories that appear, change, break and go; loads and pins."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.server.registry import AdapterRegistry
from tests.serve_lora.server.conftest import SHAPE, write_adapter

NAMES = ("a", "b", "c")
PINS = 2


class Slots:
    """What an engine would know: the path of each name, how often it was given, and which slots are held."""

    def __init__(self):
        self.known, self.given, self.held, self.number = {}, {}, {}, 0

    def register(self, name, path):
        self.known[name] = path
        self.given[name] = self.given.get(name, 0) + 1

    def unregister(self, name):
        del self.known[name]

    def resident(self):
        return tuple(sorted(set(self.held.values())))

    def acquire(self, name):
        if len(self.held) > PINS:
            raise AdapterBusy("full")
        self.number += 1
        self.held[self.number] = name
        return self.number

    def release(self, slot):
        del self.held[slot]


class RegistryMachine(RuleBasedStateMachine):
    """Files on disk are the truth; what clients can ask for, and what the engine knows, follows them."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.place = tempfile.TemporaryDirectory()
        self.root = Path(self.place.name) / "adapters"
        self.root.mkdir()
        self.slots = Slots()
        self.shelf = AdapterShelf(checked_reader(SHAPE, rank_max=8), limit_bytes=1 << 20)
        self.ranks = {}

        async def in_engine(action):
            action(self.slots)

        self.registry = AdapterRegistry(
            self.root, {}, shelf=self.shelf, pins_max=PINS, in_engine=in_engine, ranks=self.ranks, clock=lambda: 7.0
        )
        self.content = {}
        self.hidden = set()
        self.pinned = set()
        self.writes = 0

    def teardown(self):
        self.shelf.close()
        self.loop.close()
        self.place.cleanup()

    def run(self, work):
        return self.loop.run_until_complete(work)

    def there(self):
        return {name for name in self.content if name not in self.hidden}

    @rule(name=st.sampled_from(NAMES), rank=st.integers(1, 3))
    def files_are_written(self, name, rank):
        self.writes += 1
        shutil.rmtree(self.root / name, ignore_errors=True)
        write_adapter(self.root / name, rank=rank, seed=self.writes)
        self.content[name] = rank

    @rule(name=st.sampled_from(NAMES))
    def files_break(self, name):
        shutil.rmtree(self.root / name, ignore_errors=True)
        write_adapter(self.root / name, seed=self.writes)
        (self.root / name / "adapter_model.safetensors").write_bytes(b"no tensors")
        self.content[name] = None

    @rule(name=st.sampled_from(NAMES))
    def files_go(self, name):
        shutil.rmtree(self.root / name, ignore_errors=True)
        self.content.pop(name, None)

    @rule(name=st.sampled_from(NAMES))
    def a_request_asks(self, name):
        if name not in self.there():
            with pytest.raises(AdapterError, match="no such adapter"):
                self.run(self.registry.prepare(name))
        elif self.content[name] is None:
            with pytest.raises(AdapterError):
                self.run(self.registry.prepare(name))
        else:
            self.run(self.registry.prepare(name))
            assert self.ranks[name] == self.content[name]
            assert self.slots.known[name] == self.root / name

    @rule(name=st.sampled_from(NAMES), replace=st.booleans())
    def an_operator_loads(self, name, replace):
        def load():
            self.run(self.registry.load(name, name, replace=replace))

        if name in self.there() and not replace:
            with pytest.raises(ValueError, match="loaded already"):
                load()
        elif self.content.get(name) is None:
            with pytest.raises(AdapterError):
                load()
        else:
            load()
            self.hidden.discard(name)

    @rule(name=st.sampled_from(NAMES))
    def an_operator_unloads(self, name):
        if name not in self.there():
            with pytest.raises(KeyError):
                self.run(self.registry.unload(name))
            return
        self.run(self.registry.unload(name))
        self.hidden.add(name)
        assert name not in self.slots.known
        assert name not in self.ranks

    @rule(name=st.sampled_from(NAMES))
    def an_operator_lets_go(self, name):
        if name in self.there():
            self.run(self.registry.pin(name, hold=False))
            assert name not in self.slots.held.values()

    @rule(name=st.sampled_from(NAMES))
    @precondition(lambda self: len(self.slots.held) < PINS)
    def an_operator_pins(self, name):
        if name in self.there() and self.content[name] is not None and name not in self.slots.held.values():
            self.run(self.registry.pin(name, hold=True))
            assert name in self.slots.held.values()

    @invariant()
    def clients_see_what_is_there(self):
        assert self.registry.names() == sorted(self.there())

    @invariant()
    def the_report_names_what_is_broken_and_never_more_than_is_there(self):
        report = self.registry.report(self.slots.resident())
        assert [info.name for info in report] == sorted(self.there())
        for info in report:
            assert info.tier in ("registered", "disk", "host", "resident", "broken")
            assert (info.tier == "broken") == bool(info.fault)
            assert info.generation == 0 or info.rank > 0

    @invariant()
    def no_more_than_may_be_is_pinned(self):
        assert len(self.slots.held) <= PINS
        assert len(set(self.slots.held.values())) == len(self.slots.held)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=25, stateful_step_count=25)
