"""Plans: what is coded and what is left alone, how bits are shared, and plans that do not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.compress.coded import Numbers, in_memory
from llmsys.compress.errors import TargetUnreachable
from llmsys.compress.layout import layout_of
from llmsys.compress.number_formats import FORMATS
from llmsys.compress.planning import PlanLine, Selection, make_plan, parse_bits_for, read_plan, write_plan
from llmsys.compress.rate_search import search_below
from llmsys.compress.records import CHUNK_VALUES, WIDEST_LINE
from llmsys.errors import UsageFault


def tensor(name, shape, dtype=np.float32, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return in_memory(values, name)


@pytest.mark.parametrize(
    ("shape", "dtype", "codec"),
    [
        ((64, 64), np.float32, "tq"),
        ((64, 63), np.float32, "raw"),
        ((5000,), np.float32, "raw"),
        ((100, 100), np.int32, "raw"),
        ((4, 32, 64), np.float16, "tq"),
    ],
)
def test_matrices_of_floats_are_coded_and_the_rest_is_left_alone(shape, dtype, codec):
    assert Selection("tq", is_model=True).codec_of(tensor("t", shape, dtype)) == codec


def test_a_vector_that_is_no_model_s_is_coded_and_lossless_takes_vectors_too():
    vector = tensor("t", (5000,))

    assert Selection("tq", is_model=False).codec_of(vector) == "tq"
    assert Selection("lossless", is_model=True).codec_of(vector) == "lossless"


@given(st.lists(st.sampled_from([1.5, 2.0, 4.0, 6.0]), min_size=1, max_size=3), st.floats(1.0, 6.0))
def test_the_mean_of_a_plan_s_bits_over_values_is_what_was_asked(fixed, bits):
    tensors = [tensor(f"t{i}", (64, 64 * (i + 1))) for i in range(len(fixed) + 2)]
    pairs = tuple((f"t{i}", one) for i, one in enumerate(fixed))
    try:
        plan = make_plan(tensors, Selection("tq", True, bits_for=pairs), bits=bits, allocate="uniform")
    except TargetUnreachable:
        return
    weights = [one.layout.values for one in tensors]

    assert np.average([line.bits for line in plan], weights=weights) == pytest.approx(bits)
    assert [line.bits for line in plan][: len(fixed)] == fixed


def test_equal_noise_keeps_the_mean_and_gives_a_scaled_copy_the_same():
    tensors = [tensor("a", (128, 128)), tensor("b", (256, 128), seed=1)]
    loud = in_memory(1000 * tensors[0].read(0, 128 * 128).view(np.float32).reshape(128, 128), "c")
    plan = make_plan([*tensors, loud], Selection("tq", True), bits=3.0, allocate="equal-noise")
    bits = {line.tensor: line.bits for line in plan}

    assert np.average(list(bits.values()), weights=[1, 2, 1]) == pytest.approx(3.0)
    assert bits["a"] == pytest.approx(bits["c"], abs=1e-6)


def test_the_last_pattern_that_fits_wins():
    selection = Selection("tq", True, bits_for=parse_bits_for(["*=3", "a.*=5"]))

    assert [selection.fixed_bits(name) for name in ("a.b", "c")] == [5.0, 3.0]


@pytest.mark.parametrize("text", ["a", "a=", "=x", "*=0.01", "*=nan"])
def test_a_pattern_without_bits_that_can_be_had_is_refused(text):
    with pytest.raises(UsageFault, match=r"GLOB=BITS"):
        parse_bits_for([text])


def test_a_plan_comes_back_from_its_file(tmp_path):
    plan = [PlanLine("a", "tq", 3.25), PlanLine("b", "raw")]
    write_plan(tmp_path / "p", plan)
    tensors = [tensor("a", (64, 64)), tensor("b", (8,))]

    assert read_plan(tmp_path / "p", tensors, ["tq", "raw"]) == plan
    with pytest.raises(UsageFault, match="no line for tensor 'c'"):
        read_plan(tmp_path / "p", [*tensors, tensor("c", (8,))], ["tq", "raw"])
    with pytest.raises(UsageFault, match="a line for 'b'"):
        read_plan(tmp_path / "p", tensors[:1], ["tq", "raw"])
    with pytest.raises(UsageFault, match="codec 'raw'"):
        read_plan(tmp_path / "p", tensors, ["tq"])


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=3))
def test_chunks_tile_every_layout_and_none_is_too_large(shape):
    layout = layout_of(tuple(shape))
    chunks = layout.chunks()

    assert 1 <= layout.width <= WIDEST_LINE
    assert [first for first, _ in chunks] == np.cumsum([0, *(lines for _, lines in chunks)]).tolist()[:-1]
    assert all(lines * layout.width <= CHUNK_VALUES for _, lines in chunks)
    assert layout.span(*chunks[-1])[1] == layout.values == np.prod(shape)


def test_a_tensor_of_no_values_has_no_chunks():
    empty = Numbers("e", (0, 7), FORMATS["f32"], lambda start, stop: np.zeros(0, "<u4"))

    assert empty.layout.chunks() == []


@given(st.floats(0.3, 3.0), st.floats(-5, 5), st.floats(-6, 6), st.floats(0.0, 0.3))
def test_the_search_ends_within_the_slack_of_any_falling_line(slope, target, start, bend):
    def measure(x):
        return -slope * x - bend * np.tanh(x)

    found = search_below(measure, target, start, slack=0.01, tries=40)

    assert found.reached
    assert target - 0.01 <= found.y <= target
    assert found.y == measure(found.x)


def test_a_search_that_cannot_get_below_says_so():
    assert not search_below(lambda x: 5.0, 1.0, 0.0, slack=0.1).reached
