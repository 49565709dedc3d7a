"""Frequency tables: they sum to 4096, cover what was seen, and come back from their bytes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmsys.compress import frequency_tables as tables
from llmsys.compress.rans import TOTAL

COUNTS = st.lists(st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 10**9)), min_size=33, max_size=33)


@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_mirrored_tables_sum_to_4096_and_give_every_magnitude_up_to_the_largest_a_code(rows):
    counts = np.array(rows, np.int64)
    found = tables.mirrored(counts)

    assert (found[:, 0] + 2 * found[:, 1:].sum(1) == TOTAL).all()
    for row, seen in zip(found, counts, strict=True):
        largest = max(np.flatnonzero(seen), default=0)
        assert (row[: largest + 1] > 0).all()
        assert (row[largest + 1 :] == 0).all()


@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_mirrored_tables_come_back_for_both_signs(rows):
    found = tables.mirrored(np.array(rows, np.int64))
    back = tables.read_mirrored(tables.write_mirrored(found), len(found))

    assert back[:, tables.MIDDLE :].tolist() == found.tolist()
    assert back[:, : tables.MIDDLE + 1].tolist() == found[:, ::-1].tolist()


@given(st.lists(st.lists(st.integers(0, 1000), min_size=20, max_size=20), min_size=1, max_size=4))
def test_plain_tables_sum_to_4096_and_come_back(rows):
    counts = np.array(rows, np.int64)
    found = tables.plain(counts)

    assert (found.astype(int).sum(1) == TOTAL).all()
    assert ((counts == 0) | (found > 0)).all()
    assert tables.read_plain(tables.write_plain(found), *found.shape).tolist() == found.tolist()


@given(st.binary(max_size=200), st.integers(1, 8))
def test_no_bytes_make_a_table_that_does_not_sum(data, contexts):
    for found in (tables.read_mirrored(data, contexts), tables.read_plain(data, contexts, 20)):
        assert found is None or (found.astype(int).sum(1) == TOTAL).all()


def test_a_geometric_law_is_written_in_about_four_bits_a_number():
    counts = (10**6 * 0.6 ** np.arange(33)).astype(np.int64)[None, :]

    assert len(tables.write_mirrored(tables.mirrored(counts))) < 33


def test_a_symbol_costs_its_logarithm_and_one_without_a_code_thirty_bits():
    found = tables.mirrored(np.array([[2048, 2048] + [0] * 31]))

    assert tables.symbol_bits(found)[0, :3].tolist() == [1.0, 2.0, 30.0]
