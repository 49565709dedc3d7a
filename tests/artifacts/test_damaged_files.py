"""Every reader, on files with bytes changed, cut or added: it reads something or raises BadInput, nothing else."""

import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import (
    Event,
    EventLog,
    TraceRecord,
    encode,
    open_directory,
    open_tensors,
    read_events,
    read_npy,
    read_npy_stream,
    read_trace,
    read_vecs,
    read_vectors,
    write_compressed,
    write_directory,
    write_npy,
    write_tensors,
    write_vecs,
    write_vectors,
)
from llmsys.errors import BadInput

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def write_trace(path):
    with write_compressed(path) as stream:
        for n in range(40):
            stream.write(encode(TraceRecord(f"r{n}", "acme", float(n), n, n)))


def write_log(path):
    with EventLog(path) as log:
        log.write(Event(0.0, "meta", weights={"a": 1.0}))
        log.write(Event(1.0, "token", id="r", tenant="a", n=1))


def write_index(path):
    with write_directory(path.parent, kind="k", version=1) as place:
        (place / "a").write_bytes(b"a")


def read_all_arrays(path):
    opened = open_tensors(path)
    return [opened.array(name) for name in opened.tensors]


def read_stream(path):
    with path.open("rb") as stream:
        return list(read_npy_stream(stream, "stdin"))


FORMATS = {
    "t.jsonl": (write_trace, lambda path: list(read_trace(path, reorder_s=1.0))),
    "t.jsonl.gz": (write_trace, lambda path: list(read_trace(path))),
    "t.jsonl.zst": (write_trace, lambda path: list(read_trace(path))),
    "e.jsonl": (write_log, lambda path: list(read_events(path))),
    "v.jsonl": (lambda path: write_vectors(path, VALUES, ids=list("abcd")), read_vectors),
    "v.npy": (lambda path: write_npy(path, VALUES), read_npy),
    "s.npy": (lambda path: write_npy(path, VALUES), read_stream),
    "v.fvecs": (lambda path: write_vecs(path, VALUES), read_vecs),
    "v.safetensors": (lambda path: write_tensors(path, {"a": VALUES, "b": VALUES}, document=[1]), read_all_arrays),
    "idx/manifest.json": (write_index, lambda path: open_directory(path.parent, kind="k", version=1)),
}

edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert"]), st.integers(0, 2**16), st.binary(min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def damaged(data, changes):
    for how, place, patch in changes:
        at = place % (len(data) + 1)
        if how == "flip":
            data = data[:at] + patch + data[at + len(patch) :]
        elif how == "cut":
            data = data[:at] + data[at + len(patch) * 8 :]
        else:
            data = data[:at] + patch + data[at:]
    return data


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None)
@given(changes=edits)
def test_damage_is_read_around_or_refused_as_bad_input(tmp_path_factory, name, changes):
    path = tmp_path_factory.mktemp("damage") / name
    write, read = FORMATS[name]
    write(path)
    path.write_bytes(damaged(path.read_bytes(), changes))

    with warnings.catch_warnings(), suppress(BadInput):
        warnings.simplefilter("error")
        read(path)
