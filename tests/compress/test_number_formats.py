"""Number formats: words of every format become the float32 that torch reads, and go back by torch's rounding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsys.compress.number_formats import FORMATS, from_words, of_array, to_words

TORCH = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
}


@pytest.mark.parametrize("name", TORCH)
def test_every_pattern_reads_as_torch_reads_it(name):
    kind = FORMATS[name]
    words = np.arange(1 << kind.bits, dtype=kind.word)
    signed = torch.from_numpy(words.view(np.dtype(f"i{kind.bits // 8}")))

    np.testing.assert_array_equal(from_words(words, kind), signed.view(TORCH[name]).float().numpy())


@pytest.mark.parametrize("name", TORCH)
@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_rounding_is_torch_s(name, values):
    kind = FORMATS[name]
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).to(TORCH[name]).float().numpy()

    np.testing.assert_array_equal(from_words(to_words(array, kind), kind), expected)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f8", "i1", "<u8", "?"])
def test_words_of_an_array_are_little_endian_in_c_order(dtype):
    array = np.arange(12).astype(dtype).reshape(3, 4).T
    kind, words = of_array(array)

    expected = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    assert words.tobytes() == expected.tobytes()
    assert kind.bits == 8 * array.itemsize


def test_an_array_of_complex_numbers_is_refused():
    with pytest.raises(ValueError, match="complex"):
        of_array(np.zeros(3, np.complex64))
