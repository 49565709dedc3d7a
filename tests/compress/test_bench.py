"""`bench`: peers do what their names say, rows add up, a missing peer is named, targets are judged by the worst."""

import numpy as np
import pytest

from llmsys.compress import bench_jobs, bench_peers, bench_weights
from llmsys.compress.bench_speed import SpeedRow, lossless_rows
from llmsys.compress.bench_weights import RateRow, means_of, rate_targets
from llmsys.compress.bench_workloads import matrices
from llmsys.compress.sweeping import gap_db
from llmsys.errors import UsageFault

NATIVE = [
    "tq trellis 8",
    "tq trellis 4",
    "tq trellis 0",
    "svtav1",
    "x264",
    "rtn g64",
    "rtn g128",
    "nf4 g64",
    "mxfp4",
    "q4_0",
]
PACKAGED = {"nnc dq": "nncodec", "hqq g64": "hqq", "zfp": "zfpy", "sz3": "pysz"}


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)


def row(tensor, method, rate, gap):
    return RateRow(tensor, method, rate, rate, 0.1, gap, 1.0, 2.0)


@pytest.mark.parametrize("method", NATIVE + list(PACKAGED))
def test_a_peer_codes_near_its_rate_and_decodes_to_what_it_was_given(method, matrix):
    if method in PACKAGED:
        pytest.importorskip(PACKAGED[method])
    trial = bench_peers.PEERS[method](matrix, 4.0)
    nmse = ((trial.values - matrix) ** 2).mean() / matrix.var()

    assert trial.values.shape == matrix.shape
    assert 3.8 < trial.bits <= 4.5
    assert nmse < (0.1 if method == "zfp" else 0.03)
    assert min(trial.encode_s, trial.decode_s) > 0


def test_rtn_is_the_textbook_s(matrix):
    """Every value is off by at most half a step of its group, the range over 15 steps."""
    trial = bench_peers.PEERS["rtn g64"](matrix, 4.0)
    groups = matrix.reshape(-1, 64)
    step = (np.maximum(groups.max(1), 0) - np.minimum(groups.min(1), 0)) / 15

    assert (np.abs(trial.values - matrix).reshape(-1, 64) <= 0.55 * step[:, None] + 1e-6).all()


def test_nf4_gives_the_largest_of_a_group_exactly(matrix):
    trial = bench_peers.PEERS["nf4 g64"](matrix, 4.0)
    groups, back = matrix.reshape(-1, 64), trial.values.reshape(-1, 64)
    at = groups.argmax(1)
    positive = groups.max(1) == np.abs(groups).max(1)

    largest = groups[np.arange(len(groups)), at]
    np.testing.assert_allclose(back[np.arange(len(groups)), at][positive], largest[positive], rtol=1e-3)


def test_nnc_is_taken_at_its_best_weight_of_the_rate(matrix):
    cabac = pytest.importorskip("nncodec.extensions.deepCABAC")
    best = bench_peers.PEERS["nnc dq"](matrix, 3.0)
    gaps = []
    for weight in bench_peers.LAMBDAS:
        trial = bench_peers._nnc_at_rate(cabac, matrix, 3.0, weight)
        gaps.append(gap_db(float(((trial.values - matrix) ** 2).mean() / matrix.var()), trial.bits))

    assert gap_db(float(((best.values - matrix) ** 2).mean() / matrix.var()), best.bits) == pytest.approx(min(gaps))


def test_a_peer_that_is_not_installed_is_named_once_and_skipped(matrix):
    def missing(matrix, bits):
        return bench_peers.needed("no_such_module", "no-such")

    peers = {"x": missing, "rtn g64": bench_peers.PEERS["rtn g64"]}
    rows = list(bench_weights.rate_rows([("a", matrix), ("b", matrix)], [2.0, 3.0], peers))

    assert [one for one in rows if isinstance(one, str)] == [
        "peer no-such is not installed; pip install --no-deps no-such"
    ]
    assert [one.tensor for one in rows[1:]] == ["a", "a", "b", "b"]


def test_means_are_over_matrices_and_speeds_are_medians():
    rows = [row("a", "m", 2.0, 1.0), row("b", "m", 2.0, 3.0), row("a", "m", 3.0, 5.0)]
    first, second = means_of(rows)

    assert (first.matrices, first.gap_db, first.worst_gap_db, first.decode_mb_s) == (2, 2.0, 3.0, 2.0)
    assert (second.matrices, second.target_bits) == (1, 3.0)


def test_a_target_holds_only_where_the_worst_matrix_holds_it():
    rows = [row("a", "tq trellis 8", 2.0, 0.5), row("a", "nnc dq", 2.0, 1.0), row("a", "x265", 2.0, 2.0)]
    rows += [row("b", "tq trellis 8", 2.0, 0.5), row("b", "nnc dq", 2.0, 0.7), row("b", "svtav1", 2.0, 1.8)]
    nnc, video = rate_targets(rows)

    assert (round(nnc.worst_db, 6), nnc.reached) == (0.2, False)
    assert (round(video.worst_db, 6), video.reached) == (1.3, True)
    assert rate_targets(rows[:1]) == []


def test_lossless_rows_say_what_was_kept_and_how_fast():
    rows = [one for one in lossless_rows("smollm2", megabytes=0.2) if isinstance(one, SpeedRow)]
    ours = [one for one in rows if one.method == "lossless"]

    assert [one.workload for one in ours] == ["bf16", "f16"]
    assert all(8 < one.bits < 15 and one.ratio == pytest.approx(one.bits / 16) for one in ours)
    assert all(one.encode_mb_s > 0 and one.decode_mb_s > 0 for one in rows)


def test_the_workload_is_the_projections_of_the_model():
    found = dict(matrices("smollm2", "model.layers.0.*"))

    assert len(found) == 7
    assert found["smollm2:model.layers.0.mlp.up_proj.weight"].shape == (1536, 576)
    with pytest.raises(ValueError, match="model 'x'"):
        next(matrices("x", "*"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"models": "gpt"}, "--model 'gpt'"),
        ({"methods": "zip"}, "--methods 'zip'"),
        ({"rates": "2,x"}, "--bits '2,x'"),
        ({"rates": "12"}, "reachable"),
    ],
)
def test_names_and_rates_that_are_none_are_refused(asked, message):
    plain = {"models": "smollm2", "pattern": "*", "rates": "2", "methods": "", "megabytes": 1.0}
    with pytest.raises(UsageFault, match=message):
        next(bench_jobs.rows_of("weights", **(plain | asked)))
