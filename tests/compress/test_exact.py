"""Lossless coding: every bit pattern of every float format comes back, in fewer bits where there are fewer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.compress.codecs import decode_all, decode_span
from llmsys.compress.coded import Numbers, in_memory
from llmsys.compress.exact import constant_word, encode_constant, encode_lossless, encode_raw
from llmsys.compress.number_formats import FORMATS, to_words

FLOATS = [name for name, kind in FORMATS.items() if kind.is_float]


def of_words(words, name, shape=None):
    kind = FORMATS[name]
    words = np.ascontiguousarray(words.astype(kind.word))
    return Numbers("t", shape or words.shape, kind, lambda start, stop: words[start:stop])


@pytest.mark.parametrize("name", ["bf16", "f16", "f8_e4m3", "f8_e5m2"])
@pytest.mark.parametrize("width", [None, 256])
def test_all_patterns_of_a_small_format_come_back(name, width):
    words = np.random.default_rng(0).permutation(np.arange(1 << FORMATS[name].bits))
    numbers = of_words(words, name, (len(words) // width, width) if width else None)
    coded = encode_lossless(numbers)

    np.testing.assert_array_equal(decode_all(coded.entry, coded.data, "t"), words)


@settings(max_examples=30)
@given(st.binary(min_size=8, max_size=4000), st.integers(1, 7))
@pytest.mark.parametrize("name", FLOATS)
def test_random_bits_in_any_shape_come_back(name, data, rows):
    kind = FORMATS[name]
    words = np.frombuffer(data[: len(data) // kind.word.itemsize * kind.word.itemsize], kind.word)
    words = words[: len(words) // rows * rows]
    if not len(words):
        return
    coded = encode_lossless(of_words(words, name, (rows, len(words) // rows)))

    assert decode_all(coded.entry, coded.data, "t").tolist() == words.tolist()
    assert encode_raw(of_words(words, name)).data == words.tobytes()


def test_bfloat16_weights_take_under_eleven_bits():
    values = (0.02 * np.random.default_rng(0).standard_normal((512, 512))).astype(np.float32)
    words = to_words(values.reshape(-1), FORMATS["bf16"])
    coded = encode_lossless(of_words(words, "bf16", (512, 512)))

    assert 8 * coded.entry.stored_bytes / words.size < 10.8
    assert decode_all(coded.entry, coded.data, "t").tobytes() == words.tobytes()


def test_rows_of_different_size_take_fewer_bits_than_their_mixture():
    """Under one table, 8 octaves of scales would cost 1.5 bits more than each row's own."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((256, 512)) * 2.0 ** rng.integers(-4, 4, (256, 1))
    mixed = rng.permutation(rows.reshape(-1)).reshape(256, 512)
    sizes = [
        encode_lossless(of_words(to_words(x.astype(np.float32).reshape(-1), FORMATS["bf16"]), "bf16", x.shape))
        for x in (rows, mixed)
    ]

    assert sizes[0].entry.stored_bytes < 0.96 * sizes[1].entry.stored_bytes


def test_bytes_do_not_depend_on_jobs(k_proj):
    big = np.tile(k_proj, (12, 1))
    one, two = (encode_lossless(in_memory(big), jobs=jobs) for jobs in (1, 2))

    assert len(one.entry.chunks) > 1
    assert one == two


def test_a_span_reads_only_the_chunks_that_hold_it(k_proj):
    big = np.tile(k_proj, (24, 1))
    coded = encode_lossless(in_memory(big))
    asked = []

    def read(offset, length):
        asked.append(length)
        return coded.data[offset : offset + length]

    words = decode_span(coded.entry, read, 100, 600, "t")

    assert words.view(np.float16).tolist() == big.reshape(-1)[100:600].tolist()
    assert sum(asked) == coded.entry.side[0] + coded.entry.chunks[0].length


@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, np.inf, 1e-40, 3.5])
def test_a_constant_takes_four_bytes_and_comes_back(value):
    array = np.full((300, 400), value, np.float32)
    word = constant_word(in_memory(array))
    coded = encode_constant(in_memory(array), word)

    assert len(coded.data) == 4
    assert decode_all(coded.entry, coded.data, "t").tobytes() == array.tobytes()


def test_zeros_of_both_signs_are_not_a_constant():
    assert constant_word(in_memory(np.array([0.0, -0.0]))) is None
