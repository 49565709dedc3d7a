"""`llmsys fair-queue gateway` and `bench gateway` as a user runs them."""

import json
import re
import shutil
import subprocess
import sys

import pytest


def llmsys(*args, given=None, cwd=None):
    command = [sys.executable, "-m", "llmsys", "fair-queue", *map(str, args)]
    return subprocess.run(command, input=given, capture_output=True, check=False, cwd=cwd)


@pytest.fixture
def keyed(tmp_path):
    path = tmp_path / "tenants.toml"
    path.write_text('[tenant.a]\nkeys = ["k"]\n')
    return path


def test_hash_key_reads_a_line_and_never_prints_the_key():
    run = llmsys("gateway", "hash-key", given=b"test\n")

    assert run.stdout.strip() == b"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    assert llmsys("gateway", "hash-key", given=b"\n").returncode == 65


def test_serve_is_another_name_for_gateway():
    assert llmsys("serve", "hash-key", given=b"x\n").stdout == llmsys("gateway", "hash-key", given=b"x\n").stdout


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ((), 2, "--backend"),
        (("--backend", "localhost:8000"), 2, "is not http://HOST[:PORT]"),
        (("--backend", "http://x", "--listen", "8080"), 2, "is not HOST:PORT"),
        (("--backend", "http://x", "--window", "0"), 2, "auto, N requests or Ntok"),
        (("--backend", "http://x", "--policy", "fair"), 2, "no policy is named 'fair'"),
        (("--backend", "http://x", "--policy", "vtc:wx=1"), 2, "has no key 'wx'"),
        (("--backend", "http://x", "--tenant-from", "header"), 2, "header:NAME"),
        (("--backend", "http://x", "--state", "file"), 2, "sqlite:PATH"),
        (("--backend", "http://x", "--max-body", "much"), 2, "number of bytes"),
        (("--backend", "http://x", "--backend-key-env", "NO_SUCH_VARIABLE"), 2, "NO_SUCH_VARIABLE"),
        (("--backend", "http://x", "--listen", ":0", "--allow-anonymous"), 2, "--insecure"),
        (("--backend", "http://x", "--admin", "0.0.0.0:0"), 2, "--insecure"),
        (("--backend", "http://x", "--tokenizer", "nothing"), 65, "tokenizer.json"),
        (("--backend", "http://x", "--events", "no/such/directory"), 1, "No such file"),
        (("--backend", "http://x", "--tenants", "nothing.toml"), 65, "nothing.toml"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(tmp_path, keyed, options, code, part):
    given = ("--tenants", keyed, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state", "memory")
    run = llmsys("gateway", *given, *options, cwd=tmp_path)
    error = " ".join(run.stderr.decode().splitlines()[-1:])

    assert run.returncode == code
    assert part in " ".join(run.stderr.decode().split())
    assert code == 2 or error.startswith("llmsys fair-queue gateway")
    assert run.stdout == b""


def test_a_gateway_that_nobody_could_use_does_not_start(tmp_path):
    run = llmsys("gateway", "--backend", "http://x", "--state", "memory", cwd=tmp_path)

    assert run.returncode == 2
    assert b"nobody has a key" in run.stderr


def test_an_address_that_is_taken_is_named(tmp_path, keyed):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = ("--tenants", keyed, "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0", "--state", "memory")
        run = llmsys("gateway", "--backend", "http://x", *given)

    assert run.returncode == 1
    assert b"cannot listen on 127.0.0.1:%d" % port in run.stderr


def test_bench_gateway_measures_us_and_names_the_peers_that_are_absent(tmp_path):
    run = llmsys("bench", "gateway", "--rounds", 1, "--requests", 64, "--peer", "nginx", "--json")
    found = json.loads(run.stdout)
    costs = {one["proxy"]: one for one in found["proxies"]}

    assert run.returncode == 0, run.stderr
    assert list(costs) == ["direct", "llmsys", "nginx"]
    assert costs["llmsys"]["us_request"] >= 0
    assert costs["llmsys"]["failed"] == costs["direct"]["failed"] == 0
    assert bool(costs["nginx"]["absent"]) == (shutil.which("nginx") is None)
    assert not costs["nginx"]["absent"] or re.search(rb"warning: nginx is absent", run.stderr)


def test_bench_gateway_refuses_a_peer_that_it_does_not_know():
    run = llmsys("bench", "gateway", "--peer", "apache")

    assert run.returncode == 2
    assert b"known: llmsys, nginx, sglang-router, litellm" in run.stderr
