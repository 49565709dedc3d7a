"""Several processes of one gateway: one address, one fairness, none left behind."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from gateway_process import GatewayProcess
from redis_process import RedisProcess
from scripted_backend import ScriptedBackend

from llmsys.errors import UsageFault
from llmsys.fair_queue.gateway import check_workers


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with RedisProcess(tmp_path_factory.mktemp("redis")) as running:
        yield running


COST = 20
"""Cost units of the scripted request: 10 prompt tokens, and 5 output tokens that count twice."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as stream:
        return [int(child) for child in stream.read().split()]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def family(tmp_path, backend, state, workers=2):
    options = ("--workers", workers, "--sync-ms", 20)
    return GatewayProcess(tmp_path, backend, state=state, options=options, listen=f"127.0.0.1:{free_port()}")


def test_workers_answer_on_one_address_and_end_together(tmp_path, redis):
    with ScriptedBackend() as backend, family(tmp_path, backend, redis.url, workers=3) as gateway:
        told = [json.loads(gateway.process.stdout.readline()) for _ in range(2)]
        assert {one["listening"] for one in told} == {f"http://127.0.0.1:{gateway.port}"}
        assert [gateway.chat()[0] for _ in range(12)] == [200] * 12
        children = children_of(gateway.process)
        assert len(children) == 3
        assert gateway.stop() == 0

    assert not any(map(is_alive, children))


def test_a_worker_that_is_killed_is_started_anew(tmp_path, redis):
    with ScriptedBackend() as backend, family(tmp_path, backend, redis.url) as gateway:
        gateway.process.stdout.readline()
        first = children_of(gateway.process)
        gateway.until(lambda: os.stat(f"/proc/{first[0]}").st_ctime and age_s(first[0]) > 1.5)
        os.kill(first[0], signal.SIGKILL)
        gateway.process.stdout.readline()  # the new one says where it listens
        gateway.until(lambda: len(children_of(gateway.process)) == 2)
        assert "ended with status -9; it is started anew" in gateway.errors.read_text()
        assert [gateway.chat()[0] for _ in range(4)] == [200] * 4


def age_s(pid):
    """Seconds since a process was started."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
        started = int(stream.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime", encoding="ascii") as stream:
        return float(stream.read().split()[0]) - started


def test_no_worker_outlives_a_family_that_is_killed(tmp_path, redis):
    with ScriptedBackend() as backend, family(tmp_path, backend, redis.url) as gateway:
        gateway.process.stdout.readline()
        children = children_of(gateway.process)
        gateway.kill()
        gateway.until(lambda: not any(map(is_alive, children)))


def test_workers_that_cannot_start_end_the_family(tmp_path, redis):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = subprocess.run(
            [
                *(sys.executable, "-m", "llmsys", "fair-queue", "gateway", "--backend", "http://127.0.0.1:1"),
                *("--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0", "--allow-anonymous"),
                *("--state", redis.url, "--workers", "2"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in run.stderr


def test_workers_on_a_port_that_each_chooses_are_refused():
    with pytest.raises(UsageFault, match="--listen with a port"):
        check_workers(2, 0)
    check_workers(1, 0)


@pytest.mark.parametrize("state", ["memory", "sqlite:state"])
def test_workers_without_redis_share_counters_through_an_owner(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    script = {"tokens": 5, "prompt_tokens": 10}
    sent = 0

    def counter():
        """What the first worker counts for `a` after one request more, which either may have taken."""
        nonlocal sent
        sent += gateway.chat(script=script)[0] == 200
        return gateway.tenants().get("a", {"counter": 0.0, "requests": 0})

    with ScriptedBackend() as backend, family(tmp_path, backend, state) as gateway:
        gateway.process.stdout.readline()
        gateway.until(lambda: (found := counter())["counter"] > COST * found["requests"])
        assert gateway.stop() == 0
    if state != "memory":
        with closing(sqlite3.connect("state")) as kept:
            ((tenant, cost),) = kept.execute("SELECT tenant, counter FROM counters").fetchall()
        assert tenant == "a"
        assert cost >= COST * sent
        with ScriptedBackend() as backend, family(tmp_path, backend, state) as gateway:
            gateway.until(lambda: (found := counter())["counter"] > COST * found["requests"] > 0)
