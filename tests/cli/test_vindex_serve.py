"""`llmsys vindex serve` and `tool` as their clients meet them: over HTTP, and as a tool on a pipe."""

import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Shell

FIXTURES = Path(__file__).parents[2] / "fixtures" / "vindex"
DOCS, QUERIES, ACCESS = (str(FIXTURES / name) for name in ("docs.npy", "queries.npy", "access.jsonl"))
TENANT, ADMIN = "tenant-token-0123456789", "admin-token-0123456789"
LABELS = {record["id"]: record["tenants"] for record in map(json.loads, Path(ACCESS).read_text().splitlines())}


class Client:
    """Sends JSON to a server and gives back status and JSON."""

    def __init__(self, address, token=None):
        self.address, self.token = address, token

    def __call__(self, method, path, body=None):
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def search(self, **asked):
        return self("POST", "/v1/search", {"vector": np.load(QUERIES)[0].tolist(), "recall": None} | asked)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("original"))
    assert shell.run("vindex", "build", "idx", "--vectors", DOCS, "--access", ACCESS).returncode == 0
    return shell.directory / "idx"


@pytest.fixture
def served(shell, original):
    """A function that serves a copy of the index and gives its address and its process."""
    shutil.copytree(original, shell.directory / "idx")
    running = []

    def start(*options):
        command = [sys.executable, "-m", "llmsys", "vindex", "serve", "idx", "--listen", "127.0.0.1:0", *options]
        process = subprocess.Popen(command, cwd=shell.directory, env=shell.env, stderr=subprocess.PIPE, text=True)
        running.append(process)
        line = process.stderr.readline()
        assert line.startswith("listening on "), line
        return line.split()[-1], process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def near(vectors, seen, query, k):
    scores = vectors[seen] @ query / np.linalg.norm(vectors[seen], axis=1)
    return [seen[row] for row in np.argsort(-scores, kind="stable")[:k]]


def test_a_search_over_http_finds_what_brute_force_finds(served):
    ask = Client(served()[0])
    vectors, query = np.load(DOCS).astype(float), np.load(QUERIES)[0].astype(float)

    status, one = ask.search(tenant="kind:method", k=5)
    _, two = ask("POST", "/v1/search", {"vectors": [query.tolist()] * 2, "tenants": ["kind:method", "nobody"], "k": 5})

    seen = [row for row, names in LABELS.items() if "kind:method" in names]
    assert (status, one["results"][0]["ids"]) == (200, near(vectors, seen, query, 5))
    assert [result["ids"] for result in two["results"]] == [one["results"][0]["ids"], []]
    assert ask("GET", "/healthz") == (200, b"ok\n")
    assert ask("GET", "/v1/stats")[1]["vectors"] == 400
    assert b"vindex_searches_total 3\n" in ask("GET", "/metrics")[1]


def test_a_revoke_that_was_answered_holds_at_once_and_after_a_kill(served, shell):
    address, process = served()
    ask = Client(address)
    first = ask.search(tenant="kind:class", k=1)[1]["results"][0]["ids"][0]
    lines = [{"op": "revoke", "id": first, "tenant": "kind:class", "ref": "r"}]

    status, done = ask("POST", "/v1/apply", "\n".join(map(json.dumps, lines)).encode())
    after = ask.search(tenant="kind:class", k=400)[1]
    process.kill()
    process.wait(timeout=60)
    again = shell.run("vindex", "search", "idx", "--queries", QUERIES, "--tenant", "kind:class", "-k", "400", "--exact")

    assert (status, done) == (200, {"seq": 1, "refs": ["r"]})
    assert after["seq"] == 1
    assert first not in after["results"][0]["ids"]
    assert first not in json.loads(again.stdout.splitlines()[0])["ids"]


def test_a_tenants_token_shows_that_tenant_and_nothing_else(served, shell):
    (shell.directory / "tokens").write_text(
        json.dumps({"token": TENANT, "tenant": "kind:class"}) + "\n" + json.dumps({"token": ADMIN, "admin": True})
    )
    address, _ = served("--tokens", "tokens")
    mine, admin = Client(address, TENANT), Client(address, ADMIN)

    seen = [row for row, names in LABELS.items() if "kind:class" in names]
    assert Client(address).search()[0] == Client(address, TENANT + "x").search()[0] == 401
    assert sorted(mine.search(k=400)[1]["results"][0]["ids"]) == seen
    assert len(admin.search(k=400)[1]["results"][0]["ids"]) == 400
    refused = [
        mine.search(tenant="kind:method"),
        mine.search(where="kind:method"),
        mine("POST", "/v1/search", {"vectors": [[1.0] * 384] * 2, "tenants": ["kind:class", "vis:public"]}),
        mine("POST", "/v1/apply", {"op": "drop_tenant", "tenant": "kind:method"}),
        mine("GET", "/v1/stats?tenant=kind:method"),
        mine("GET", "/metrics"),
        mine("PUT", "/collections/idx/points", {"points": [{"id": 1, "vector": [1.0] * 384}]}),
        mine(
            *("POST", "/collections/idx/points/query"),
            {"query": [1.0] * 384, "filter": {"must": [{"key": "tenants", "match": {"value": "vis:public"}}]}},
        ),
    ]
    assert [status for status, _ in refused] == [403] * len(refused)
    assert mine("GET", "/v1/stats")[1]["vectors"] == len(seen)
    asked = {"query": [1.0] * 384, "limit": 400, "with_payload": True}
    points = mine("POST", "/collections/idx/points/query", asked)[1]["result"]["points"]
    assert {point["id"]: point["payload"]["tenants"] for point in points} == {one: ["kind:class"] for one in seen}


def test_the_qdrant_paths_put_filter_and_delete_points(served):
    ask = Client(served()[0])
    points = [{"id": 900 + row, "vector": [1.0, *[0.0] * 383], "payload": {"tenants": ["acme"]}} for row in range(3)]
    acme = {"must": [{"key": "tenants", "match": {"value": "acme"}}]}
    both = {"should": [{"key": "tenants", "match": {"any": ["acme", "x y"]}}], "must_not": acme["must"]}

    def found(chosen):
        asked = {"query": [1.0] * 384, "filter": chosen, "limit": 10}
        return [point["id"] for point in ask("POST", "/collections/idx/points/query", asked)[1]["result"]["points"]]

    assert ask("PUT", "/collections/idx/points", {"points": points})[0] == 200
    assert found(acme) == [900, 901, 902]
    assert found(both) == []
    ask("POST", "/collections/idx/points/payload", {"payload": {"tenants": ["x y"]}, "points": [1, 900]})
    ask("POST", "/collections/idx/points/delete", {"points": [901]})
    assert (found(acme), found(both)) == ([900, 902], [1])
    assert ask("GET", "/collections/idx/exists")[1]["result"] == {"exists": True}
    assert ask("GET", "/collections/idx")[1]["result"]["config"]["params"]["vectors"]["distance"] == "Cosine"


def test_the_qdrant_client_works_against_it(served):
    client_package = pytest.importorskip("qdrant_client")
    models = client_package.models
    client = client_package.QdrantClient(url=served()[0], prefer_grpc=False)
    vector = np.load(QUERIES)[0].tolist()

    client.upsert("idx", [models.PointStruct(id=777, vector=vector, payload={"tenants": ["acme", "kind:class"]})])
    match = models.FieldCondition(key="tenants", match=models.MatchValue(value="acme"))
    found = client.query_points("idx", query=vector, query_filter=models.Filter(must=[match]), limit=3).points
    client.delete("idx", points_selector=[777])

    assert [(point.id, round(point.score, 5), point.payload) for point in found] == [
        (777, 1.0, {"tenants": ["acme", "kind:class"]})
    ]
    assert client.query_points("idx", query=vector, query_filter=models.Filter(must=[match])).points == []
    assert client.collection_exists("idx")


def test_searches_go_on_while_changes_are_applied(served):
    address, _ = served()
    ask = Client(address)
    wrong, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            status, found = ask.search(tenant="kind:class", k=400)
            ids = found["results"][0]["ids"] if status == 200 else []
            wrong.extend([status] if status != 200 or len(set(ids)) != len(ids) else [])

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for row in range(40):
        line = {"op": "revoke" if row % 2 else "grant", "id": row // 2, "tenant": "kind:class"}
        assert ask("POST", "/v1/apply", line)[0] == 200
    stop.set()
    for reader in readers:
        reader.join()

    assert wrong == []


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/v1/search", b"{", 400, "body"),
        ("/v1/search", {"k": 3}, 400, "one of them"),
        ("/v1/search", {"vector": [1.0, 2.0]}, 400, "384"),
        ("/v1/search", {"vectors": [[1.0], [1.0, 2.0]]}, 400, "one length"),
        ("/v1/search", {"vector": [1.0] * 384, "k": 20_000}, 400, "1 to 10000"),
        ("/v1/search", {"vector": [0.0] * 384}, 400, "zero vector"),
        ("/v1/apply", {"op": "grant", "id": 9999, "tenant": "a"}, 404, "not in the index"),
        ("/v1/apply", {"op": "burn", "id": 1}, 400, "burn"),
        ("/collections/idx/points/query",
         {"query": [1.0] * 384, "filter": {"must": [{"key": "price", "match": {"value": "1"}}]}}, 400, "price"),
        ("/collections/idx/points/query",
         {"query": [1.0] * 384, "filter": {"must": [{"key": "tenants", "range": {"gt": 1}}]}}, 400, "range"),
        ("/collections/idx/points/query", {"query": [1.0] * 384, "filter": {"min_should": {}}}, 400, "min_should"),
    ],
)  # fmt: skip
def test_a_bad_request_is_one_line_and_the_server_goes_on(module_server, path, body, status, named):
    found = module_server("POST", path, body)

    assert found[0] == status
    assert named in found[1]["error"]
    assert module_server("GET", "/healthz")[0] == 200


@pytest.fixture(scope="module")
def module_server(original, tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("server"))
    shutil.copytree(original, shell.directory / "idx")
    command = [sys.executable, "-m", "llmsys", "vindex", "serve", "idx", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, cwd=shell.directory, env=shell.env, stderr=subprocess.PIPE, text=True)
    yield Client(process.stderr.readline().split()[-1])
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--listen", "0.0.0.0:0"), 2, "--tokens"),
        (("--listen", "[::]:0"), 2, "--tokens"),
        (("--listen", "example.org:80"), 2, "--tokens"),
        (("--listen", "nowhere"), 2, "HOST:PORT"),
        (("--tokens", "short"), 65, "16 characters"),
        (("--tokens", "both"), 65, "a tenant, or admin"),
        (("--tokens", "empty"), 65, "no token"),
    ],
)
def test_a_server_that_would_be_open_or_guessable_does_not_start(shell, options, code, named):
    (shell.directory / "short").write_text('{"token":"abc","admin":true}')
    (shell.directory / "both").write_text(json.dumps({"token": ADMIN, "tenant": "a", "admin": True}))
    (shell.directory / "empty").touch()

    run = shell.run("vindex", "serve", "idx", *options)

    assert run.returncode == code, run.stderr
    assert named in run.stderr


def test_the_tool_lists_itself_and_answers_for_its_tenant_alone(shell, original):
    other = next(row for row, names in LABELS.items() if "kind:class" not in names)
    own = next(row for row, names in LABELS.items() if "kind:class" in names)
    calls = [{"like": own, "k": 3}, {"like": other}, {"like": 99999}, {"vector": [1.0]}, {"tenant": "vis:public"}, {}]
    messages = [
        {"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 0, "method": "tools/list"},
        *(
            {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "search", "arguments": call}}
            for number, call in enumerate(calls, 1)
        ),
        {"jsonrpc": "2.0", "id": 7, "method": "resources/list"},
    ]
    text = "".join(json.dumps(message) + "\n" for message in messages) + "not json\n"

    run = shell.run("vindex", "tool", str(original), "--tenant", "kind:class", input=text)

    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [one["id"] for one in found] == ["a", 0, 1, 2, 3, 4, 5, 6, 7, None]
    assert found[1]["result"]["tools"][0]["inputSchema"]["properties"]["like"]["type"] == "integer"
    nearest = found[2]["result"]["structuredContent"]["ids"]
    assert (nearest[0], len(nearest)) == (own, 3)
    assert all("kind:class" in LABELS[one] for one in nearest)
    said = [one["result"]["content"][0]["text"] for one in found[3:8]]
    assert all(one["result"]["isError"] for one in found[3:8])
    assert said[0].replace(str(other), "ID") == said[1].replace("99999", "ID")
    assert [one["error"]["code"] for one in found[8:]] == [-32601, -32700]
