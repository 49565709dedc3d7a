"""The host tier: read once, kept within its limit, read again when the files change, safe from several threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.adapter_files import AdapterFile
from llmsys.engine.errors import AdapterError
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import FLOAT_BYTES, AdapterShelf
from tests.serve_lora.server.conftest import SHAPE, write_adapter


class Reader:
    """Makes adapters of 100 parameters and counts how often each was read."""

    def __init__(self):
        self.calls = []

    def __call__(self, path):
        self.calls.append(path.name)
        return AdapterFile(path, 2, ("q_proj",), 100, path.name.encode(), ())


def test_an_adapter_is_read_once_and_late_only_if_nobody_brought_it(tmp_path):
    reader = Reader()
    shelf = AdapterShelf(reader, limit_bytes=1 << 20)
    for name in "ab":
        write_adapter(tmp_path / name)

    brought = shelf.bring(tmp_path / "a").result()
    again = shelf.get(tmp_path / "a")
    shelf.get(tmp_path / "b")

    assert again is brought
    assert reader.calls == ["a", "b"]
    assert (shelf.reads, shelf.late_reads) == (2, 1)
    assert [shelf.tier(tmp_path / name) for name in "abc"] == ["host", "host", "disk"]


def test_files_that_change_are_read_again(tmp_path):
    reader = Reader()
    shelf = AdapterShelf(reader, limit_bytes=1 << 20)
    write_adapter(tmp_path / "a", seed=1)
    shelf.bring(tmp_path / "a").result()

    write_adapter(tmp_path / "a", seed=2, rank=3)

    assert not shelf.holds(tmp_path / "a")
    shelf.bring(tmp_path / "a").result()
    assert reader.calls == ["a", "a"]
    assert shelf.holds(tmp_path / "a")


def test_files_that_change_while_they_are_read_are_not_kept(tmp_path):
    write_adapter(tmp_path / "a", seed=1)

    def read(path):
        write_adapter(path, seed=2, rank=3)
        return Reader()(path)

    shelf = AdapterShelf(read, limit_bytes=1 << 20)
    shelf.bring(tmp_path / "a").result()

    assert not shelf.holds(tmp_path / "a")


def test_what_does_not_fit_is_told_to_whoever_asks_and_not_kept(tmp_path):
    write_adapter(tmp_path / "a", rank=9)
    shelf = AdapterShelf(checked_reader(SHAPE, rank_max=8), limit_bytes=1 << 20)

    for ask in (lambda path: shelf.bring(path).result(), shelf.get):
        with pytest.raises(AdapterError, match="rank 9; expected 1 to 8"):
            ask(tmp_path / "a")

    assert shelf.tier(tmp_path / "a") == "disk"


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 4))
def test_it_holds_what_was_used_last_within_its_limit(tmp_path_factory, uses, fitting):
    place = tmp_path_factory.mktemp("shelf")
    for number in set(uses):
        write_adapter(place / str(number))
    reader, model, misses = Reader(), [], 0
    shelf = AdapterShelf(reader, limit_bytes=fitting * 100 * FLOAT_BYTES)

    for number in uses:
        shelf.get(place / str(number))
        misses += number not in model
        model = [*(one for one in model if one != number), number][-max(fitting, 1) :]

    assert [number for number in range(6) if shelf.tier(place / str(number)) == "host"] == sorted(model)
    assert len(reader.calls) == misses == shelf.reads


def test_threads_that_ask_for_many_adapters_get_the_right_ones(tmp_path):
    for number in range(12):
        write_adapter(tmp_path / str(number))
    shelf = AdapterShelf(Reader(), limit_bytes=5 * 100 * FLOAT_BYTES)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda at: shelf.get(tmp_path / str(at % 12)).digest, range(600)))

    assert found == [str(at % 12).encode() for at in range(600)]
    assert sum(shelf.tier(tmp_path / str(number)) == "host" for number in range(12)) == 5
