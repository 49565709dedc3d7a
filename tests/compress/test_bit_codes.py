"""Exp-Golomb codes: every number comes back, and a string that ends early is refused."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmsys.compress.bit_codes import code_bits, read_numbers, unzigzag, write_numbers, zigzag

NUMBERS = st.lists(st.integers(0, 1 << 36), max_size=40)


@given(NUMBERS, st.integers(0, 8))
def test_numbers_come_back_and_take_the_bits_that_were_foretold(numbers, order):
    values = np.array(numbers, np.int64)
    data = write_numbers(values, order)

    assert read_numbers(data, len(values), order).tolist() == numbers
    assert len(data) == (code_bits(values, order) + 7) // 8


def test_codes_are_those_of_the_standard():
    """The first codes of H.264, 9.1: 1, 010, 011, 00100."""
    assert write_numbers(np.array([0, 1, 2, 3]), 0) == bytes([0b10100110, 0b01000000])


@given(NUMBERS.filter(bool), st.integers(0, 4))
def test_a_string_that_lost_its_last_byte_is_refused_or_shorter(numbers, order):
    data = write_numbers(np.array(numbers, np.int64), order)

    assert read_numbers(data[:-1], len(numbers), order) is None


@given(st.binary(max_size=64), st.integers(0, 100), st.integers(0, 8))
def test_no_bytes_make_the_reader_fail(data, count, order):
    found = read_numbers(data, count, order)

    assert found is None or (len(found) == count and (found >= 0).all())


@given(st.lists(st.integers(-(1 << 40), 1 << 40)))
def test_signed_numbers_come_back(numbers):
    values = np.array(numbers, np.int64)

    assert unzigzag(zigzag(values)).tolist() == numbers
    assert (zigzag(values) >= 0).all()
