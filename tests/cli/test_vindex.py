"""`llmsys vindex` as a user runs it, on real docstring vectors with real labels."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Shell
from tests.vindex.conftest import brute_force

FIXTURES = Path(__file__).parents[2] / "fixtures" / "vindex"
DOCS, QUERIES, ACCESS = (str(FIXTURES / name) for name in ("docs.npy", "queries.npy", "access.jsonl"))


def records(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("original"))
    run = shell.run("vindex", "build", "idx", "--vectors", DOCS, "--access", ACCESS, "--max-leaf", "32")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["vectors"] == 400
    return shell.directory / "idx"


@pytest.fixture
def indexed(shell, original):
    """A shell in whose directory an index of the shipped docstrings stands, as `idx`."""
    shutil.copytree(original, shell.directory / "idx")
    return shell


@pytest.fixture(scope="module")
def labels():
    return {record["id"]: record["tenants"] for record in records(Path(ACCESS).read_text())}


def test_a_search_finds_what_brute_force_finds_for_each_tenant(indexed, labels):
    vectors, queries = np.load(DOCS), np.load(QUERIES)
    tenants = ["vis:private" if number % 2 else "kind:method" for number in range(len(queries))]
    (indexed.directory / "tenants.json").write_text(json.dumps(tenants))

    run = indexed.run("vindex", "search", "idx", "--queries", QUERIES, "--tenants", "tenants.json", "--exact")

    hits = records(run.stdout)
    assert [hit["query"] for hit in hits] == list(range(len(queries)))
    for hit, query, tenant in zip(hits, queries, tenants, strict=True):
        seen = [one for one, names in labels.items() if tenant in names]
        right = brute_force(vectors[seen], seen, query, 10, "cosine")
        assert hit["ids"] == right[0]
        assert hit["distances"] == pytest.approx(right[1], abs=1e-5)


def test_a_query_line_is_answered_before_the_next_is_read(indexed):
    command = [sys.executable, "-m", "llmsys", "vindex", "search", "idx", "-k", "2", "--exact"]
    process = subprocess.Popen(
        command, cwd=indexed.directory, env=indexed.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    for name in ("first", "second"):
        line = json.dumps({"id": name, "vector": np.load(QUERIES)[0].astype(float).tolist(), "tenant": "vis:public"})
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["query"] == name
    process.stdin.close()

    assert process.wait(timeout=60) == 0


def test_a_predicate_and_an_effort_stay_within_the_tenant(indexed, labels):
    run = indexed.run(
        *("vindex", "search", "idx", "--queries", QUERIES, "--tenant", "vis:public", "--effort", "3"),
        *("--where", "kind:method OR kind:class", "--explain"),
    )

    for hit in records(run.stdout):
        assert len(hit["ids"]) == 10
        assert hit["scanned"] > 0
        for one in hit["ids"]:
            assert "vis:public" in labels[one]
            assert {"kind:method", "kind:class"} & set(labels[one])


def test_answers_as_arrays_are_the_records_and_a_distance_bounds_them(indexed):
    search = ("vindex", "search", "idx", "--queries", QUERIES, "--tenant", "kind:class", "--exact", "-k", "100")
    hits = records(indexed.run(*search, "--explain", "--threads", "2").stdout)
    ran = indexed.run(*search, "--out", "found")
    near = records(indexed.run(*search, "--max-distance", "0.4").stdout)
    gpu = indexed.run(*search[:-2], "--device", "cuda:7")

    assert (ran.returncode, ran.stdout) == (0, "")
    ids, distances = (np.load(indexed.directory / "found" / f"{name}.npy") for name in ("ids", "distances"))
    assert (ids.dtype, ids.shape) == (np.int64, (len(hits), 100))
    for row, hit in enumerate(hits):
        count = len(hit["ids"])
        assert (hit["scanned"], hit["visible"], hit["path"]) == (count, count, "exact")
        assert ids[row].tolist() == hit["ids"] + [-1] * (100 - count)
        assert distances[row, :count].tolist() == pytest.approx(hit["distances"])
        within = [one for one, far in zip(hit["ids"], hit["distances"], strict=True) if far >= 0.4]
        assert near[row]["ids"] == within
    assert gpu.returncode == 69
    assert "cuda:7" in gpu.stderr


def test_a_search_without_a_plan_says_so_and_a_tuned_one_does_not(indexed):
    before = indexed.run("vindex", "search", "idx", "--queries", QUERIES, "--tenant", "vis:public")
    tuned = indexed.run("vindex", "tune", "idx", "--sample", "300", "--recall", "0.9", "--json")
    after = indexed.run("vindex", "search", "idx", "--queries", QUERIES, "--tenant", "vis:public", "--recall", "0.9")

    assert "searching exactly" in before.stderr
    assert after.stderr == ""
    plans = json.loads(tuned.stdout)
    assert plans
    assert all(plan["lower_limit"] >= 0.9 and plan["queries"] == 300 for plan in plans)
    pairs = list(zip(records(before.stdout), records(after.stdout), strict=True))
    assert np.mean([np.isin(right["ids"], found["ids"]).mean() for right, found in pairs]) >= 0.9


def test_every_change_verb_says_what_it_changed(indexed):
    line = {"id": 1000, "vector": [1.0] * 384, "tenants": ["acme"]}
    (indexed.directory / "new.jsonl").write_text(json.dumps(line) + "\n")
    (indexed.directory / "ids").write_text("3\n4\n1000\n")
    changed = [
        json.loads(indexed.pipeline(command).stdout)
        for command in (
            "llmsys vindex add idx new.jsonl",
            "llmsys vindex add idx new.jsonl --upsert",
            "llmsys vindex grant idx --tenant acme - < ids",
            "llmsys vindex revoke idx --tenant acme 3 5",
            "llmsys vindex delete idx 4 77777 --on-error skip",
            "llmsys vindex drop-tenant idx acme",
        )
    ]

    assert changed == [
        {"added": 1, "replaced": 0},
        {"added": 0, "replaced": 1},
        {"granted": 2, "already": 1, "missing": 0},
        {"revoked": 1, "already": 1, "missing": 0},
        {"deleted": 1, "missing": 1},
        {"revoked": 1, "deleted": 0},
    ]
    stats = json.loads(indexed.run("vindex", "stats", "idx", "--json").stdout)
    assert (stats["vectors"], stats["seq"]) == (400, 6)
    assert stats["bytes"]["total"] == stats["bytes"]["store"] + stats["bytes"]["overhead"]


def test_apply_acknowledges_in_order_and_the_changes_last(indexed):
    lines = [
        {"op": "add", "id": 500, "vector": [0.5] * 384, "tenants": ["acme"], "ref": "a"},
        {"op": "grant", "ids": [1, 2], "tenant": "acme", "ref": 7},
        {"op": "revoke", "id": 2, "tenant": "acme"},
        {"op": "delete", "id": 1},
        {"op": "drop_tenant", "tenant": "vis:private"},
    ]
    (indexed.directory / "changes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    run = indexed.run("vindex", "apply", "idx", "changes.jsonl")

    assert records(run.stdout) == [{"seq": 1, "ref": "a"}, {"seq": 2, "ref": 7}, {"seq": 3}, {"seq": 4}, {"seq": 5}]
    kept = records(indexed.run("vindex", "export", "idx", "--tenant", "acme").stdout)
    assert [(record["id"], record["tenants"]) for record in kept] == [(500, ["acme"])]
    assert json.loads(indexed.run("vindex", "stats", "idx", "--tenant", "vis:private").stdout)["vectors"] == 0


def test_apply_stops_at_a_bad_line_after_acknowledging_the_good_ones(indexed):
    good = '{"op":"grant","id":1,"tenant":"acme"}\n'
    (indexed.directory / "bad.jsonl").write_text(good + '{"op":"grant","id":9999,"tenant":"acme"}\n' + good)

    stopped = indexed.run("vindex", "apply", "idx", "bad.jsonl")
    skipped = indexed.run("vindex", "apply", "idx", "bad.jsonl", "--on-error", "skip")

    assert (stopped.returncode, skipped.returncode) == (65, 0)
    assert "bad.jsonl:2: id 9999 not in the index" in stopped.stderr
    assert records(stopped.stdout) == [{"seq": 1}]
    assert len(records(skipped.stdout)) == 2


def test_an_export_under_a_tenant_names_no_other_and_reads_back(indexed, labels):
    run = indexed.run("vindex", "export", "idx", "--tenant", "kind:class", "--to", "npy", "-o", "out")
    lines = indexed.run("vindex", "export", "idx", "--tenant", "kind:class", "-o", "out.jsonl")
    again = indexed.run("vindex", "build", "again", "--vectors", "out.jsonl")

    vecs = indexed.run("vindex", "export", "idx", "--tenant", "kind:class", "--to", "fvecs", "-o", "vecs")
    found = indexed.run("vindex", "search", "again", "--queries", "vecs/vectors.fvecs", "--all", "-k", "1", "--exact")

    seen = [one for one, names in labels.items() if "kind:class" in names]
    assert (run.returncode, lines.returncode, vecs.returncode) == (0, 0, 0)
    assert [hit["ids"] for hit in records(found.stdout)] == [[one] for one in seen]
    assert np.load(indexed.directory / "out" / "ids.npy").tolist() == seen
    assert {
        name for record in records((indexed.directory / "out.jsonl").read_text()) for name in record["tenants"]
    } == {"kind:class"}
    assert json.loads(again.stdout) == {"vectors": len(seen), "tenants": 1, "grants": len(seen), "seq": 0}


def test_not_found_and_not_yours_are_one_message(indexed, labels):
    other = next(one for one, names in labels.items() if "kind:class" not in names)
    (indexed.directory / "other").write_text(f"{other}\n")
    (indexed.directory / "none").write_text("99999\n")

    runs = [
        indexed.run("vindex", "export", "idx", "--tenant", "kind:class", "--ids", name) for name in ("other", "none")
    ]

    assert [run.returncode for run in runs] == [65, 65]
    assert runs[0].stderr.replace(str(other), "ID") == runs[1].stderr.replace("99999", "ID")


def test_bench_prints_its_peers_side_by_side_and_names_the_missing(indexed):
    made = indexed.run(
        *("vindex", "make-workload", "work", "--vectors", DOCS, "--n", "300", "--tenants", "6", "--sharing", "2"),
        *("--queries", "40"),
    )
    run = indexed.run(
        *(
            "vindex",
            "bench",
            "--workload",
            "work",
            "--peer",
            "faiss flat per tenant",
            "--peer",
            "pgvector",
            "--json",
            "--plot",
            "p.svg",
        ),
    )

    assert (made.returncode, run.returncode) == (0, 0), made.stderr + run.stderr
    found = json.loads(run.stdout)
    assert {row["system"] for row in found["rows"]} == {"vindex", "vindex, a call each", "faiss flat per tenant"}
    assert {row["visible"] for row in found["rows"]} >= {"own tenants", "1 of 300", "300 of 300"}
    assert all(row["recall"] == 1 for row in found["rows"] if row["setting"] == "exact")
    assert {target["reached"] for target in found["targets"]} == {True, False}
    assert "pgvector" in found["missing"]
    assert b"<svg" in (indexed.directory / "p.svg").read_bytes()


def test_a_closed_pipe_ends_a_search_quietly(indexed):
    run = indexed.pipeline("llmsys vindex export idx | head -1")

    assert (run.returncode, run.stderr, len(run.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("build", "idx", "--vectors", DOCS), 1, "already"),
        (("build", "new", "--vectors", DOCS, "--metric", "dot"), 2, "l2, ip, cosine"),
        (("build", "new", "--vectors", "none.npy"), 1, "none.npy"),
        (("build", "new", "--vectors", DOCS, "--ids", QUERIES), 65, "integers"),
        (("add", "idx", DOCS), 65, "--ids"),
        (("search", "idx", "--queries", QUERIES), 65, "--tenant, or --all"),
        (("search", "idx", "--queries", QUERIES, "--tenant", "a", "--all"), 2, "contradict"),
        (("search", "idx", "--queries", QUERIES, "--all", "--exact", "--effort", "1"), 2, "contradict"),
        (("search", "idx", "--queries", QUERIES, "--all", "--where", "a b"), 2, "'b' at 2"),
        (("search", "nowhere", "--queries", QUERIES, "--all"), 1, "nowhere"),
        (("search", str(FIXTURES), "--queries", QUERIES, "--all"), 65, "vindex build"),
        (("grant", "idx", "--tenant", "a", "x7"), 65, "integers"),
        (("grant", "idx", "--tenant", "a\tb", "7"), 65, "control characters"),
        (("delete", "idx", "4711"), 65, "not in the index"),
        (("export", "idx", "--to", "npy"), 2, "directory"),
        (("tune", "idx", "--recall", "1"), 2, "recall < 1"),
        (("bench",), 2, "--workload, or --vectors with --access"),
        (("bench", "--workload", "x", "--vectors", DOCS), 2, "--workload, or --vectors with --access"),
        (("bench", "--vectors", DOCS, "--access", ACCESS, "--held-out", "9", "--peer", "annoy"), 2, "no peer 'annoy'"),
        (("make-workload", "w", "--vectors", DOCS, "--n", "4000"), 2, "expected 5500"),
        (("snapshot", "idx", "idx"), 1, "already"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_would_be_right(indexed, arguments, code, named):
    run = indexed.run("vindex", *arguments)

    assert run.returncode == code, run.stderr
    assert named in run.stderr
    assert [line for line in run.stderr.splitlines() if "error:" in line] == run.stderr.splitlines()[-1:]


@pytest.mark.slow
def test_what_a_search_found_goes_to_another_store_and_comes_back(indexed):
    hits = indexed.run("vindex", "search", "idx", "--queries", QUERIES, "--tenant", "vis:public", "-k", "5", "--exact")
    found = {one for hit in records(hits.stdout) for one in hit["ids"]}
    for form, place in [
        ("parquet", "hits.parquet"),
        ("qdrant", "q"),
        ("milvus", "m"),
        ("pgvector", "p"),
        ("faiss", "f"),
    ]:
        out = indexed.run("vindex", "export", "idx", "--ids", "-", "--to", form, "-o", place, input=hits.stdout)
        back = indexed.run("vindex", "import", f"from-{form}", place, "--from", form, "--metric", "cosine", "--json")

        assert (out.returncode, back.returncode) == (0, 0), out.stderr + back.stderr
        whole, again = (
            records(indexed.run("vindex", "export", name, *rest).stdout)
            for name, *rest in (("idx",), (f"from-{form}",))
        )
        assert again == [record for record in whole if record["id"] in found]


def test_half_numbers_take_half_the_store_and_find_the_same(indexed):
    built = indexed.run("vindex", "build", "half", "--vectors", DOCS, "--access", ACCESS, "--dtype", "f16")
    assert built.returncode == 0, built.stderr
    sizes, hits = {}, {}
    for name in ("idx", "half"):
        figures = json.loads(indexed.run("vindex", "stats", name, "--json").stdout)
        sizes[figures["dtype"]] = figures["bytes"]["store"]
        run = indexed.run("vindex", "search", name, "--queries", QUERIES, "--tenant", "vis:public", "--exact")
        hits[name] = records(run.stdout)

    assert sizes["f32"] == 2 * sizes["f16"]
    for whole, half in zip(hits["idx"], hits["half"], strict=True):
        assert len(set(whole["ids"]) & set(half["ids"])) >= 9
        assert half["distances"] == pytest.approx(whole["distances"], abs=1e-3)


def test_what_left_as_parquet_is_built_from_and_added(indexed):
    out = indexed.run("vindex", "export", "idx", "--to", "parquet", "-o", "all.parquet")
    built = indexed.run("vindex", "build", "again", "--vectors", "all.parquet")
    added = indexed.run("vindex", "add", "again", "all.parquet", "--upsert", "--json")

    assert (out.returncode, built.returncode) == (0, 0), out.stderr + built.stderr
    assert json.loads(added.stdout) == {"added": 0, "replaced": 400}
    assert indexed.run("vindex", "export", "again").stdout == indexed.run("vindex", "export", "idx").stdout


def test_a_follower_answers_with_what_was_written_before_the_query(indexed):
    command = [sys.executable, "-m", "llmsys", "vindex", "search", "idx", "-k", "3", "--exact", "--follow", "-q"]
    process = subprocess.Popen(
        command, cwd=indexed.directory, env=indexed.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line = json.dumps({"vector": np.load(QUERIES)[0].astype(float).tolist(), "tenant": "vis:public"}) + "\n"

    def ask():
        process.stdin.write(line)
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    first = ask()
    indexed.run("vindex", "revoke", "idx", "--tenant", "vis:public", str(first["ids"][0]))
    second = ask()
    process.stdin.close()

    assert process.wait(timeout=60) == 0
    assert second["seq"] == first["seq"] + 1
    assert second["ids"][:2] == first["ids"][1:]


def test_apply_can_acknowledge_whole_batches(indexed):
    changes = "".join(json.dumps({"op": "grant", "id": one, "tenant": "new", "ref": one}) + "\n" for one in range(50))

    run = indexed.run("vindex", "apply", "idx", "-", "--ack", "batch", input=changes)

    acknowledged = records(run.stdout)
    assert sum(one["changes"] for one in acknowledged) == 50
    assert (acknowledged[-1]["seq"], acknowledged[-1]["ref"]) == (50, 49)
