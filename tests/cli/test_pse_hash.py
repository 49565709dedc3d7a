"""`llmsys pse-hash` as a user runs it, on real word vectors."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import LLMSYS, Shell
from tests.pse_hash.oracle import log_means

FIXTURES = Path(__file__).parents[2] / "fixtures" / "pse-hash"
POINTS, QUERIES = str(FIXTURES / "glove50-2k.npy"), str(FIXTURES / "glove50-queries.npy")
H = 1.7146


pytestmark = pytest.mark.slow  # the transcript runs every verb under plain `make test`


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("sketch"))
    run = shell.run("pse-hash", "build", POINTS, "--bandwidth", str(H), "--out", "g.pse", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) | {"scale": 0} == {"n": 2000, "d": 50, "kernel": "gaussian", "scale": 0} | {
        "method": "auto"
    }
    return shell.directory / "g.pse"


@pytest.fixture
def sketched(shell, original):
    """A shell in whose directory a sketch of 2,000 word vectors stands, as `g.pse`."""
    shutil.copytree(original, shell.directory / "g.pse")
    return shell


@pytest.fixture(scope="module")
def points():
    return np.load(POINTS).astype(np.float64)


@pytest.fixture(scope="module")
def queries():
    return np.load(QUERIES).astype(np.float64)


@pytest.fixture(scope="module")
def truth(points, queries):
    return log_means(queries, points, "gaussian", H)


@pytest.mark.parametrize("method", ["exact", "rs", "strat", "deann"])
def test_every_method_answers_within_eps_of_brute_force(sketched, method, truth):
    """delta = 0.01: more than 4 misses in 40 have a chance below 1e-6 if the guarantee holds."""
    run = sketched.run("pse-hash", "query", "g.pse", QUERIES, "--method", method, "--seed", "1", "--eps", "0.2")

    found = records(run.stdout)
    error = np.abs([one["value"] for one in found] / np.exp(truth) - 1)
    assert [one["id"] for one in found] == [str(row) for row in range(40)]
    assert (error > 0.2).sum() <= 4
    assert all(one["lo"] <= one["value"] <= one["hi"] and one["n"] == 2000 for one in found)


def test_hashing_with_its_secrets_asks_for_a_mode_that_keeps_them(shell, sketched, truth):
    options = ("--method", "hbe", "--robust", "none", "--bandwidth", str(H), "--eps", "0.2", "--out", "h.pse")
    refused = sketched.run("pse-hash", "query", "g.pse", QUERIES, "--method", "hbe")
    built = shell.run("pse-hash", "build", POINTS, *options)
    found = records(shell.run("pse-hash", "query", "h.pse", QUERIES).stdout)
    facts = json.loads(shell.run("pse-hash", "stats", "h.pse", "--json").stdout)

    assert (refused.returncode, built.returncode) == (2, 0)
    assert "method hbe keeps secret hash functions; expected robust net, dp or none" in refused.stderr
    assert (np.abs([one["value"] for one in found] / np.exp(truth) - 1) > 0.2).sum() <= 4
    assert (facts["adaptive"], facts["tables_per_copy"]) == (False, 100)


def test_logs_and_sums_are_those_of_the_means(sketched, truth):
    options = ("--method", "exact", "--log", "--sum")
    found = records(sketched.run("pse-hash", "query", "g.pse", QUERIES, *options).stdout)

    assert [one["value"] for one in found] == pytest.approx(truth + np.log(2000), abs=1e-5)


def test_a_line_is_answered_before_the_next_one_is_asked(sketched, queries, truth):
    with subprocess.Popen(
        [LLMSYS, "pse-hash", "query", "g.pse", "-", "--flush", "--method", "exact"],
        cwd=sketched.directory,
        env=sketched.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for row in range(3):
            process.stdin.write(json.dumps({"id": f"q{row}", "x": queries[row].tolist()}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["id"] == f"q{row}"
            assert np.log(answer["value"]) == pytest.approx(truth[row], abs=1e-5)
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_point_left_out_is_not_counted_in_its_own_density(sketched, points):
    asked = lines({"id": f"{row}", "x": points[row].tolist(), "self": f"{row}"} for row in range(5))
    run = sketched.run("pse-hash", "query", "g.pse", "-", "--loo", "self", "--method", "exact", "--log", input=asked)

    others = [log_means(points[row : row + 1], np.delete(points, row, 0), "gaussian", H)[0] for row in range(5)]
    assert [one["value"] for one in records(run.stdout)] == pytest.approx(others, abs=1e-5)
    assert {one["n"] for one in records(run.stdout)} == {1999}


def test_the_choice_of_auto_is_explained(sketched):
    run = sketched.run("pse-hash", "query", "g.pse", QUERIES, "--explain")

    assert "auto takes exact: 2000 points are fewer than 20000" in run.stderr
    assert {one["method"] for one in records(run.stdout)} == {"exact"}


def test_updates_are_acknowledged_and_answered_from(sketched, points, queries):
    stream = lines(
        [
            {"op": "delete", "id": "0"},
            {"op": "insert", "id": "new", "x": points[0].tolist(), "w": 3},
            {"op": "replace", "id": "7", "x": queries[0].tolist()},
        ]
    )
    run = sketched.run("pse-hash", "update", "g.pse", "-", "--ack", "--fsync", "every", input=stream)

    *acks, tally = records(run.stdout)
    assert acks == [{"op": "delete", "id": "0"}, {"op": "insert", "id": "new"}, {"op": "replace", "id": "7"}]
    assert tally == {"applied": 3, "inserted": 1, "deleted": 1, "replaced": 1, "skipped": 0, "n": 2000}
    changed, weights = points.copy(), np.ones(2000)
    changed[7], weights[0] = queries[0], 3
    found = records(sketched.run("pse-hash", "query", "g.pse", QUERIES, "--method", "exact", "--log").stdout)
    right = log_means(queries, changed, "gaussian", H, weights)
    assert [one["value"] for one in found] == pytest.approx(right, abs=1e-5)


def test_vectors_of_a_file_are_inserted_in_bulk(sketched):
    (sketched.directory / "ids.txt").write_text("".join(f"word{row}\n" for row in range(40)))
    run = sketched.run("pse-hash", "update", "g.pse", "--insert", QUERIES, "--ids", "ids.txt")

    assert records(run.stdout)[-1]["n"] == 2040
    assert sketched.run("pse-hash", "update", "g.pse", "-", input='{"op":"delete","id":"word39"}\n').returncode == 0


def test_scores_are_leave_one_out_densities(sketched, points):
    found = records(sketched.run("pse-hash", "score", "g.pse").stdout)
    right = np.exp([log_means(points[row : row + 1], np.delete(points, row, 0), "gaussian", H)[0] for row in range(20)])

    assert [one["id"] for one in found] == [str(row) for row in range(2000)]
    assert [one["value"] for one in found[:20]] == pytest.approx(right, rel=1e-4)


def test_pruning_keeps_the_share_and_the_side_that_was_asked_for(sketched):
    scored = {one["id"]: one["value"] for one in records(sketched.run("pse-hash", "score", "g.pse").stdout)}
    kept = {
        keep: {one["id"] for one in records(sketched.run(*score_args("--prune", "0.25", "--keep", keep)).stdout)}
        for keep in ("low", "high", "stratified")
    }

    assert {len(ids) for ids in kept.values()} == {1500}
    order = sorted(scored, key=scored.__getitem__)
    assert kept["low"] == set(order[:1500])
    assert kept["high"] == set(order[500:])
    tenths = [set(part) for part in np.array_split(order, 10)]
    assert all(len(kept["stratified"] & tenth) == 150 for tenth in tenths)


def score_args(*options):
    return "pse-hash", "score", "g.pse", *options


def test_twins_and_outliers_are_named(sketched, points):
    twin = json.dumps({"op": "insert", "id": "twin", "x": points[3].tolist()}) + "\n"
    sketched.run("pse-hash", "update", "g.pse", "-", input=twin)
    found = {one["id"]: one for one in records(sketched.run(*score_args("--duplicates", "0.999")).stdout)}
    low = records(sketched.run(*score_args("--quantile", "0.01")).stdout)

    assert (found["twin"]["duplicate"], found["3"]["duplicate"]) == ("3", "twin")
    assert sum(one["duplicate"] is not None for one in found.values()) == 2
    assert len(low) == 21


def test_drift_is_found_where_there_is_some_and_not_where_there_is_none(sketched, points):
    half, moved = points[::2], points[1::2] + 0.5
    for name, part in (("a", half), ("b", points[1::2]), ("c", moved)):
        np.save(sketched.directory / f"{name}.npy", part)
        sketched.run("pse-hash", "build", f"{name}.npy", "--bandwidth", str(H), "--out", f"{name}.pse")
    same, other = (
        json.loads(sketched.run("pse-hash", "compare", "a.pse", name, "--permutations", "99", "--json").stdout)
        for name in ("b.pse", "c.pse")
    )

    assert same["p_value"] > 0.01 >= other["p_value"]
    assert len(other["most_a"]) == 10


def test_check_confirms_a_sketch_and_stats_remember_it(sketched):
    run = sketched.run("pse-hash", "check", "g.pse", "--queries", "50", "--json")
    facts = json.loads(sketched.run("pse-hash", "stats", "g.pse", "--json").stdout)

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["covered"] == 50
    assert (facts["n"], facts["d"], facts["adaptive"], facts["checked_queries"]) == (2000, 50, True, 50)


def test_the_private_budget_runs_out_and_says_so(shell):
    options = ("--robust", "dp", "--max-queries", "45", "--method", "rs", "--bandwidth", "6")
    shell.run("pse-hash", "build", POINTS, *options, "--out", "p.pse")

    first, second = (shell.run("pse-hash", "query", "p.pse", QUERIES) for _ in range(2))
    facts = json.loads(shell.run("pse-hash", "stats", "p.pse", "--json").stdout)

    assert first.returncode == 0, first.stderr
    assert (second.returncode, second.stdout, facts["budget_left"]) == (1, "", 5)
    assert "5 of 45 private answers are left, 40 asked for" in second.stderr


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ('{"op":"insert","id":"3","x":[%s]}', ":1: id '3' is there already; expected a new id, or replace"),
        ('{"op":"delete","id":"nobody"}', ":1: no live point has the id 'nobody'; expected the id of one"),
        ('{"op":"insert","id":"n","x":[1,2]}', ":1: shape [1, 2]; expected [n, 50]"),
        ('{"op":"move","id":"3"}', ":1: op 'move'; expected insert, delete or replace"),
        ('{"op":"insert","id":"n"', ":1:"),
        ('{"op":"insert","id":"n","x":[%s],"w":-1}', ":1: weight -1; expected a number >= 0"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_nothing_changes(sketched, stream, message):
    text = stream % ",".join(["0"] * 50) if "%s" in stream else stream
    before = json.loads(sketched.run("pse-hash", "stats", "g.pse", "--json").stdout)
    run = sketched.run("pse-hash", "update", "g.pse", "-", input=text + "\n")
    after = json.loads(sketched.run("pse-hash", "stats", "g.pse", "--json").stdout)

    assert run.returncode == 65
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert (after["n"], after["log_records"]) == (before["n"], 0)


def test_bad_lines_among_good_ones_are_skipped_and_counted(sketched):
    stream = lines([{"op": "delete", "id": "1"}, {"op": "delete", "id": "1"}, {"op": "delete", "id": "2"}])
    run = sketched.run("pse-hash", "update", "g.pse", "-", "--on-error", "skip", input=stream)

    assert run.returncode == 0
    assert records(run.stdout)[-1] == {
        "applied": 2, "inserted": 0, "deleted": 2, "replaced": 0, "skipped": 1, "n": 1998,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--bandwidth", "0"), 2, "bandwidth or scale 0"),
        (("--bandwidth", "nan"), 2, "bandwidth or scale nan"),
        (("--eps", "1.5"), 2, "eps"),
        (("--tau", "0"), 2, "tau"),
        (("--kernel", "dot", "--bandwidth", "target:0.1", "--scale", "-1"), 2, "scale -1"),
        (("--max-memory", "1"), 1, "MiB"),
        (("--kernel", "cosine"), 2, "cosine"),
    ],
)
def test_a_sketch_that_makes_no_sense_is_refused_before_it_is_made(shell, options, code, message):
    run = shell.run("pse-hash", "build", POINTS, *options, "--out", "x.pse")

    assert run.returncode == code
    assert message in run.stderr
    assert not (shell.directory / "x.pse").exists()


def test_vectors_with_a_hole_are_named_by_line(shell):
    text = lines([{"id": "a", "x": [1.0, 2.0]}]) + '{"id":"b","x":[1.0]}\n'
    run = shell.run("pse-hash", "build", "-", "--bandwidth", "1", "--out", "x.pse", input=text)

    assert run.returncode == 65
    assert ":2" in run.stderr


def test_no_points_are_a_density_of_zero(shell):
    np.save(shell.directory / "none.npy", np.zeros((0, 50), np.float32))
    built = shell.run("pse-hash", "build", "none.npy", "--bandwidth", "1", "--out", "x.pse")
    found = records(shell.run("pse-hash", "query", "x.pse", QUERIES).stdout)

    assert built.returncode == 0, built.stderr
    assert {(one["value"], one["n"]) for one in found} == {(0.0, 0)}


def test_a_second_writer_is_turned_away_at_once(sketched):
    command = [LLMSYS, "pse-hash", "update", "g.pse", "-", "--ack", "--fsync", "every"]
    with subprocess.Popen(
        command, cwd=sketched.directory, env=sketched.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        first.stdin.write('{"op":"delete","id":"5"}\n')
        first.stdin.flush()
        first.stdout.readline()
        second = sketched.run("pse-hash", "update", "g.pse", "-", input="")
        first.stdin.close()
        assert first.wait(60) == 0

    assert second.returncode == 1
    assert f"process {first.pid} is writing" in second.stderr


@pytest.mark.parametrize("acked", [1, 300])
def test_a_kill_leaves_a_prefix_with_all_that_was_acknowledged(sketched, acked):
    command = [LLMSYS, "pse-hash", "update", "g.pse", "-", "--ack"]
    with subprocess.Popen(
        command, cwd=sketched.directory, env=sketched.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write(lines({"op": "delete", "id": f"{row}"} for row in range(1024)))
        process.stdin.flush()
        confirmed = [json.loads(process.stdout.readline())["id"] for _ in range(acked)]
        process.send_signal(signal.SIGKILL)
    facts = json.loads(sketched.run("pse-hash", "stats", "g.pse", "--json").stdout)
    left = {one["id"] for one in records(sketched.run("pse-hash", "score", "g.pse").stdout)}
    gone = 2000 - facts["n"]

    assert confirmed == [str(row) for row in range(acked)]
    assert gone >= acked
    assert left == {str(row) for row in range(gone, 2000)}
    assert sketched.run("pse-hash", "check", "g.pse", "--queries", "10").returncode == 0


def test_a_closed_pipe_ends_quietly(sketched):
    run = sketched.pipeline(f"set +o pipefail; {LLMSYS} pse-hash score g.pse | head -2")

    assert (run.returncode, run.stderr) == (0, "")
    assert len(records(run.stdout)) == 2


@pytest.mark.parametrize(
    ("part", "harm"),
    [
        ("points.npy", "flip"),
        ("weights.npy", "cut"),
        ("ids.json", "cut"),
        ("settings.json", "flip"),
        ("manifest.json", "cut"),
        ("points.npy", "remove"),
    ],
)
def test_a_damaged_sketch_is_refused_by_the_name_of_its_part(sketched, part, harm):
    file = sketched.directory / "g.pse" / part
    data = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
    run = sketched.run("pse-hash", "check", "g.pse", "--queries", "5")

    assert run.returncode == 65
    assert part in run.stderr
    assert "Traceback" not in run.stderr


def test_bench_sets_methods_beside_peers_and_judges_them_by_the_exact_sum(shell):
    options = ("--sizes", "2000,3000", "--batches", "1,40", "--bandwidth", str(H), "--json")
    found = json.loads(shell.run("pse-hash", "bench", POINTS, QUERIES, *options).stdout)

    for size in (2000, 3000):
        for batch in (1, 40):
            rows = {row["method"]: row for row in found["rows"] if (row["points"], row["batch"]) == (size, batch)}
            assert rows["torch tiled"]["mean_error"] < 1e-3
            assert rows["sklearn ball tree"]["p90_error"] <= 0.1
            assert rows["auto (rigorous)"]["p90_error"] <= 0.1
            assert rows["exact"]["over_exact"] == 1
            assert rows["exact"]["limit_share"] > 0
    assert set(found["updates_s"]) == {"strat", "hbe"}
    assert "KeOps: not installed" in found["skipped"]
