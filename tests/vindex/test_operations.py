"""Every operation comes back from its record as it was; a damaged one is refused at its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.vindex.operations import Add, Delete, DropTenant, Grant, Revoke, decode, encode

IDS = st.one_of(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), st.lists(st.text(max_size=8), max_size=5))
NAMES = st.text(max_size=12)
OPERATIONS = st.one_of(
    st.builds(Delete, IDS),
    st.builds(Grant, IDS, NAMES),
    st.builds(Revoke, IDS, NAMES),
    st.builds(DropTenant, NAMES),
    st.builds(Add, IDS, st.lists(st.lists(NAMES, max_size=3), max_size=5), st.binary(max_size=40)),
)


@given(OPERATIONS)
def test_an_operation_is_read_as_it_was_written(operation):
    kind, payload = encode(operation)

    assert decode(kind, payload, "log: offset 0") == operation
    assert type(decode(kind, payload, "log: offset 0")) is type(operation)


@given(OPERATIONS, st.data())
def test_a_record_cut_short_is_refused_at_its_place(operation, data):
    kind, payload = encode(operation)
    size = data.draw(st.integers(0, len(payload) - 1))

    with pytest.raises(BadInput, match="log: offset 7: a damaged operation"):
        decode(kind, payload[:size], "log: offset 7")


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_an_operation_of_another_version_is_named(kind):
    with pytest.raises(BadInput, match=f"operation type {kind}; expected 1 to 5"):
        decode(kind, b"", "here")


def test_types_of_records_are_fixed_for_ever():
    assert [kind.TYPE for kind in (Add, Delete, Grant, Revoke, DropTenant)] == [1, 2, 3, 4, 5]


@given(st.integers(1, 5), st.integers(1, 7))
def test_vectors_come_back_row_by_row(count, dim):
    vectors = np.arange(count * dim, dtype=np.float32).reshape(count, dim)
    _, payload = encode(Add(list(range(count)), [[]] * count, vectors.tobytes()))

    assert np.array_equal(decode(1, payload, "here").vectors, vectors)
