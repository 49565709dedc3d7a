"""The calibrated encoder against its definition, the plain one, the waterfilling bound, and streams that lie."""

import numpy as np
import pytest

from llmsys.compress.codecs import decode_all, decode_span
from llmsys.compress.coded import Target, in_memory
from llmsys.compress.encoding import Goal, encode_tensor
from llmsys.compress.errors import BadBitstream, TargetUnreachable
from llmsys.compress.feedback import Weighting, encode_weighted, quantised, takes, weighting_of
from llmsys.compress.planning import PlanLine, Selection, make_plan
from llmsys.compress.sensitivity import Place, Sensitivity, Statistics
from llmsys.compress.tensor_encoder import encode_tq
from llmsys.compress.weighted import decode_weighted, weights_of

ROWS, COLUMNS = 192, 96


def moments_of(condition, seed=0):
    """H with eigenvalues from 1 down to 1/condition in random directions, and g over two octaves."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(COLUMNS, COLUMNS)))[0]
    inputs = (turn * np.geomspace(1, 1 / condition, COLUMNS)) @ turn.T
    return Sensitivity(inputs.astype(np.float32), np.exp2(rng.uniform(-1, 1, ROWS)).astype(np.float32))


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def target_of(bits):
    return Target(stored_bytes=int(bits * ROWS * COLUMNS / 8), slack_bytes=12)


def loss_of(coded, weights, found):
    """tr(diag(g) E H Eᵀ) of what decoding gives."""
    error = weights - decode_all(coded.entry, coded.data, "test").view(np.float32).reshape(weights.shape)
    return float(np.einsum("i,ij,jk,ik->", found.outputs, error, found.inputs, error, dtype=np.float64))


def test_without_correlation_or_sensitivity_every_value_is_rounded_by_itself(weights):
    same = Weighting(np.eye(COLUMNS), np.zeros(ROWS, np.int64), np.zeros(COLUMNS, np.int64))

    assert np.array_equal(quantised(weights.astype(np.float64), same, 0.3), np.round(weights.astype(np.float64) / 0.3))


def test_feedback_is_its_definition_column_by_column(weights):
    weighting = weighting_of(moments_of(1e3))
    lower, steps, step = weighting.lower, weighting.steps, 0.5
    values = weights.astype(np.float64)
    errors, expected = np.zeros_like(values), np.zeros_like(values)
    for j in reversed(range(COLUMNS)):
        for i in range(ROWS):
            owed = sum(lower[k, j] / lower[j, j] * errors[i, k] for k in range(j + 1, COLUMNS))
            expected[i, j] = np.round((values[i, j] + owed) * steps[i, j] / step)
            errors[i, j] = values[i, j] - expected[i, j] * step / steps[i, j]

    assert (quantised(values, weighting, step) != expected).mean() < 1e-3  # sums of another order, at a half


def test_what_is_owed_is_what_finite_differences_of_the_loss_say():
    """The target of a column is where the loss, given the errors of later columns, is least over its own error."""
    found = moments_of(100.0)
    inputs = weighting_of(found).lower @ weighting_of(found).lower.T
    lower = np.linalg.cholesky(inputs)
    rng = np.random.default_rng(2)
    j = 40
    later = np.concatenate([np.zeros(j + 1), rng.normal(size=COLUMNS - j - 1)])
    owed = later @ lower[:, j] / lower[j, j]

    def loss(own):
        error = later.copy()
        error[j] = own
        # columns before j are still free: they will be chosen to cancel what they can
        head, tail = error[j:] @ inputs[j:, :j], error[j:] @ inputs[j:, j:] @ error[j:]
        return tail - head @ np.linalg.solve(inputs[:j, :j], head)

    slope = (loss(-owed + 1e-4) - loss(-owed - 1e-4)) / 2e-4
    curve = (loss(-owed + 1e-4) - 2 * loss(-owed) + loss(-owed - 1e-4)) / 1e-8
    assert abs(slope) < 1e-3 * abs(curve)


@pytest.mark.parametrize("bits", [2.5, 4.0])
def test_the_loss_is_a_small_part_of_the_plain_codecs_at_the_same_rate(weights, bits):
    found = moments_of(1e4)
    ours = encode_weighted(in_memory(weights), target_of(bits), found)
    plain = encode_tq(in_memory(weights), target_of(bits))

    assert ours.entry.stored_bytes <= target_of(bits).stored_bytes
    assert loss_of(ours, weights, found) < 0.35 * loss_of(plain, weights, found)


def test_a_step_by_the_diagonal_costs_less_than_a_constant_one_with_the_same_feedback(weights):
    """WaterSIC against GPTQ with an entropy coder: as many levels apart, by empirical entropy of each column."""
    found = moments_of(1e4)
    ours = weighting_of(found)
    constant = Weighting(ours.lower, np.zeros(ROWS, np.int64), np.zeros(COLUMNS, np.int64))

    def loss_at(weighting, rate):
        low, high = -12.0, 6.0
        for _ in range(24):
            middle = (low + high) / 2
            levels = quantised(weights.astype(np.float64), weighting, 2.0**middle)
            low, high = (middle, high) if entropy_of(levels) > rate else (low, middle)
        error = weights - quantised(weights.astype(np.float64), weighting, 2.0**high) * 2.0**high / weighting.steps
        return np.einsum("i,ij,jk,ik->", found.outputs, error, found.inputs, error)

    assert loss_at(ours, 3.0) < 0.8 * loss_at(constant, 3.0)


def entropy_of(levels):
    """Mean bits of a Gaussian's rounded to whole levels, by the deviation of each column."""
    variance = (levels.astype(np.float64) ** 2).mean(0) + 1 / 12
    return float(np.maximum(0, 0.5 * np.log2(12 * variance)).mean())


def test_the_loss_is_near_the_waterfilling_bound(weights):
    """Within 0.45 bit of ½ log₂(σ²|H|^(1/n) / D): 0.255 for scalar steps, the rest for the file's own tables."""
    found = moments_of(50.0)
    even = Sensitivity(found.inputs, np.ones(ROWS, np.float32))
    coded = encode_weighted(in_memory(weights), target_of(4.0), even)
    per_value = loss_of(coded, weights, even) / weights.size
    mean_log = np.log2(np.linalg.eigvalsh(found.inputs.astype(np.float64))).mean()
    bound = 0.5 * (np.log2(weights.var()) + mean_log - np.log2(per_value))
    rate = 8 * coded.entry.stored_bytes / weights.size

    assert 0 < rate - bound < 0.45


def test_chunks_and_spans_decode_to_the_rows_of_the_whole():
    rng = np.random.default_rng(3)
    tall = rng.normal(size=(3000, 512)).astype(np.float16)
    found = Sensitivity(np.eye(512, dtype=np.float32), np.exp2(rng.uniform(-1, 1, 3000)).astype(np.float32))
    coded = encode_weighted(in_memory(tall), Target(stored_bytes=3 * tall.size // 8, slack_bytes=9000), found)
    data = coded.data
    part = decode_span(coded.entry, lambda at, size: data[at : at + size], 2047 * 512, 2050 * 512, "test")

    assert len(coded.entry.chunks) == 2
    assert np.array_equal(part, decode_all(coded.entry, data, "test")[2047 * 512 : 2050 * 512])
    back = decode_all(coded.entry, data, "test").view(np.float16).reshape(tall.shape)
    reached = ((tall.astype(np.float64) - back) ** 2).mean() / tall.astype(np.float64).var()
    assert coded.entry.nmse == pytest.approx(reached, rel=1e-6)


def test_rows_and_columns_that_nothing_moves_are_coded_too(weights):
    inputs = np.diag((np.arange(COLUMNS) < 50).astype(np.float32))
    outputs = (np.arange(ROWS) < 100).astype(np.float32)
    coded = encode_weighted(in_memory(weights), target_of(3.0), Sensitivity(inputs, outputs))

    assert np.isfinite(decode_all(coded.entry, coded.data, "test").view(np.float32)).all()
    nothing = Sensitivity(np.zeros_like(inputs), np.zeros_like(outputs))
    assert encode_weighted(in_memory(weights), target_of(3.0), nothing).entry.nmse < 0.05


def test_too_few_bits_are_refused_with_what_can_be_had(weights):
    with pytest.raises(TargetUnreachable, match="reachable: "):
        encode_weighted(in_memory(weights), target_of(0.01), moments_of(10.0))


def test_weights_are_exact_quarters_of_an_octave():
    codes = np.arange(-200, 201)

    assert np.allclose(weights_of(codes), 2.0 ** (codes / 4), rtol=1e-15)
    assert np.array_equal(weights_of(codes[::4] * 4), 2.0 ** codes[::4])


@pytest.mark.parametrize("cut", [0, 3, 15, 40])
def test_a_shared_part_that_was_cut_is_refused(weights, cut):
    coded = encode_weighted(in_memory(weights), target_of(3.0), moments_of(10.0))

    with pytest.raises(BadBitstream, match="test: "):
        decode_weighted(coded.entry, coded.blobs[0][:cut], coded.blobs[1], coded.entry.chunks[0], "test")


def test_every_flipped_byte_of_the_shared_part_is_refused_or_decodes(weights):
    coded = encode_weighted(in_memory(weights), target_of(3.0), moments_of(10.0))
    for at in range(len(coded.blobs[0])):
        side = bytearray(coded.blobs[0])
        side[at] ^= 0x41
        try:
            words = decode_weighted(coded.entry, bytes(side), coded.blobs[1], coded.entry.chunks[0], "test")
        except BadBitstream:
            continue
        assert len(words) == weights.size


def statistics_of(**found):
    places = {name: Place(name, 0, len(one.outputs)) for name, one in found.items()}
    inputs = {name: one.inputs for name, one in found.items()}
    return Statistics(inputs, {name: one.outputs for name, one in found.items()}, places)


def test_one_step_for_all_gives_the_sensitive_matrix_more_bits(weights):
    found = moments_of(10.0)
    louder = Sensitivity(found.inputs, 256 * found.outputs)  # √256 = 16 steps, four bits
    statistics = statistics_of(quiet=found, loud=louder)
    tensors = [in_memory(weights, "quiet"), in_memory(weights, "loud"), in_memory(weights, "other")]
    plan = make_plan(tensors, Selection("tq", True), bits=4.0, allocate="fisher", statistics=statistics)
    bits = {line.tensor: line.bits for line in plan}

    assert bits["loud"] - bits["quiet"] == pytest.approx(4.0, abs=0.35)
    assert (bits["loud"] + bits["quiet"]) / 2 == pytest.approx(4.0, abs=0.01)
    assert bits["other"] == 4.0


def test_a_tensor_without_statistics_or_with_infinities_takes_the_plain_codec(weights):
    holes = weights.copy()
    holes[5, 5] = np.inf
    goal = Goal(statistics=statistics_of(a=moments_of(10.0), b=moments_of(10.0)))
    codecs = {
        name: encode_tensor(in_memory(array, name), PlanLine(name, "tq", 3.5), goal).entry.codec
        for name, array in (("a", weights), ("b", holes), ("c", weights))
    }

    assert codecs == {"a": "wtq", "b": "tq", "c": "tq"}
    assert takes(in_memory(weights))
    assert not takes(in_memory(holes))
    assert not takes(in_memory(weights.ravel()))
