"""Counters that outlive the process: kill -9, a full disk, foreign files, and the lift across a restart."""

import asyncio
import sqlite3
import subprocess
import threading

import pytest
from gateway_process import GatewayProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from load import crowd
from scripted_backend import ScriptedBackend

from llmsys.errors import BadInput, LlmsysError
from llmsys.fair_queue.gateway import SqliteStore
from llmsys.fair_queue.gateway.ledger import Batch, InFlight
from llmsys.fair_queue.gateway.store import _merged

NAMES = st.sampled_from("abc")
FLIGHTS = st.builds(InFlight, NAMES, NAMES, st.integers(0, 9), st.integers(0, 9))
BATCHES = st.builds(
    Batch,
    counters=st.dictionaries(NAMES, st.floats(0, 1e6)),
    floor=st.none() | st.floats(0, 1e6),
    totals=st.dictionaries(NAMES, st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))),
    running=st.lists(FLIGHTS, max_size=3),
    ended=st.lists(NAMES, max_size=2),
    afresh=st.booleans(),
)


def left_by(path, batches):
    """What a store that took the batches finds when it is opened again."""

    async def run():
        store = SqliteStore(path)
        for batch in batches:
            await store.push(batch)
        await store.close()
        again = SqliteStore(path)
        saved = await again.load()
        await again.close()
        return saved

    return asyncio.run(run())


@given(st.lists(BATCHES, max_size=4))
@settings(max_examples=25)
def test_batches_merged_after_a_failed_write_leave_what_the_batches_would(tmp_path_factory, batches):
    def fields(saved):
        running = sorted(saved.running, key=lambda one: one.id)
        return saved.counters, saved.floor, saved.totals, running

    directory = tmp_path_factory.mktemp("state")

    assert fields(left_by(directory / "one", batches)) == fields(left_by(directory / "two", [_merged(batches)]))


def test_what_ran_at_the_end_is_found_once(tmp_path):
    path = tmp_path / "state"
    batch = Batch(running=[InFlight("r1", "a", 3, 4), InFlight("r2", "b", 5, 6)], ended=["r2"])

    assert left_by(path, [batch]).running == [InFlight("r1", "a", 3, 4)]
    assert left_by(path, []).running == []


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
def test_a_file_that_is_no_state_of_this_version_is_refused_and_untouched(tmp_path, content):
    path = tmp_path / "state.sqlite"
    if content is None:
        with sqlite3.connect(path) as newer:
            newer.execute("PRAGMA user_version = 7")
        newer.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="--state-reset"):
        SqliteStore(path)

    assert path.read_bytes() == before


def test_two_gateways_on_one_state_are_refused(tmp_path):
    store = SqliteStore(tmp_path / "state")
    with pytest.raises(LlmsysError, match="in use by another gateway"):
        SqliteStore(tmp_path / "state")
    asyncio.run(store.close())
    asyncio.run(SqliteStore(tmp_path / "state").close())


def test_state_reset_moves_a_damaged_file_aside(tmp_path, backend):
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"damaged" * 100)
    with GatewayProcess(tmp_path, backend, state=f"sqlite:{path}", options=("--state-reset",)) as gateway:
        assert gateway.chat()[0] == 200
    assert (tmp_path / "state.sqlite.1").read_bytes() == b"damaged" * 100


def test_the_same_counters_are_there_after_a_clean_stop(tmp_path, backend):
    state = f"sqlite:{tmp_path / 'state'}"
    with GatewayProcess(tmp_path, backend, state=state) as gateway:
        gateway.chat(script={"tokens": 5, "prompt_tokens": 11})
        assert gateway.stop() == 0
    with GatewayProcess(tmp_path, backend, state=state) as gateway:
        account = gateway.tenants()["a"]
        assert (account["prompt_tokens"], account["output_tokens"], account["requests"]) == (11, 5, 1)
        gateway.chat(script={"tokens": 1, "prompt_tokens": 1})

        assert gateway.tenants()["a"]["counter"] == 21 + 3


def test_limits_that_were_changed_while_running_are_there_after_a_restart(tmp_path, backend):
    state = f"sqlite:{tmp_path / 'state'}"
    with GatewayProcess(tmp_path, backend, state=state) as gateway:
        gateway.request("PUT", "/fair/tenants/a", {"max_queue": 0}, admin=True)
        assert gateway.stop() == 0
    with GatewayProcess(tmp_path, backend, state=state) as gateway:
        assert gateway.chat()[0] == 429


def test_idle_time_is_not_banked_across_a_restart(tmp_path, backend):
    """b was served nothing in the first life, a much: in the second they share, b does not first catch up."""
    state, load = f"sqlite:{tmp_path / 'state'}", {"tokens": 50, "prompt_tokens": 50}
    with GatewayProcess(tmp_path, backend, state=state, options=("--window", 2)) as gateway:
        crowd(gateway.port, [("a", 4, load, {"stream": True})], rounds=50)
        assert gateway.stop() == 0
    with GatewayProcess(tmp_path, backend, state=state, options=("--window", 2)) as gateway:
        before = gateway.tenants()["a"]["output_tokens"]
        answers = crowd(gateway.port, [(t, 6, load, {"stream": True}) for t in "ab"], seconds=1.5)
        served = gateway.tenants()["a"]["output_tokens"] - before

        assert len(answers["b"].whole) > 10
        assert 0.7 < served / gateway.tenants()["b"]["output_tokens"] < 1.4


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_kill_under_load_loses_no_counter_that_was_synced(tmp_path, kills):
    """What was seen in the file before a kill is where the next life starts; requests cut off stay charged as seen."""
    state, synced = f"sqlite:{tmp_path / 'state'}", 0
    for life in range(kills):
        with (
            ScriptedBackend() as backend,
            GatewayProcess(tmp_path, backend, state=state, options=("--window", 8, "--sync-ms", 20)) as gateway,
        ):
            assert life == 0 or gateway.tenants()["a"]["output_tokens"] >= synced
            crowd(gateway.port, [("a", 4, {"tokens": 5, "prompt_tokens": 3}, {"stream": True})], rounds=5)
            held = gateway.open_chat(script={"tokens": 9, "gate": "never", "gate_at": 4}, stream=True)
            goal = synced + 4 * 5 * 5 + 4
            gateway.until(lambda goal=goal: gateway.tenants()["a"]["output_tokens"] == goal)
            gateway.until(lambda goal=goal: output_tokens(tmp_path / "state", "a") == goal)
            gateway.kill()
            held.close()
            synced = goal
    with ScriptedBackend() as backend, GatewayProcess(tmp_path, backend, state=state) as gateway:
        assert gateway.tenants()["a"]["output_tokens"] == kills * (4 * 5 * 5 + 4)
        assert "1 requests ran when the last gateway ended" in gateway.errors.read_text()


@pytest.mark.parametrize("seed", range(2))
def test_a_kill_at_any_moment_loses_at_most_what_was_served_in_two_syncs(tmp_path, seed):
    """Two, because a kill may fall between the sync that reads the counters and the one that has written them."""
    state = f"sqlite:{tmp_path / 'state'}"
    load = {"tokens": 20, "prompt_tokens": 3, "delay_s": 0.002}
    with ScriptedBackend() as backend:
        with GatewayProcess(tmp_path, backend, state=state, options=("--window", 8, "--sync-ms", 50)) as gateway:
            killer = threading.Timer(0.6 + 0.13 * seed, gateway.kill)
            killer.start()
            crowd(gateway.port, [("a", 8, load, {"stream": True})], seconds=0.6 + 0.13 * seed)
            killer.join()
        done = sum(one.tokens for one in backend.served)
        with GatewayProcess(tmp_path, backend, state=state) as gateway:
            kept = gateway.tenants()["a"]["output_tokens"]

    # 8 streams of at most 500 tokens a second each: 200 tokens in 50 ms
    assert done - 2 * 200 <= kept <= done + 8


def output_tokens(path, tenant):
    """What the state file says was generated for a tenant."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        row = database.execute("SELECT output_tokens FROM totals WHERE tenant = ?", (tenant,)).fetchone()
    finally:
        database.close()
    return row and row[0]


def test_a_full_disk_costs_no_request_and_is_made_up_for(tmp_path, backend):
    """The state's file system has 1 MiB and something else fills it, then lets go."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        with GatewayProcess(tmp_path, backend, state=f"sqlite:{mount / 'state'}") as gateway:
            gateway.chat(script={"tokens": 2})
            filler = mount / "filler"
            subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
            while "warning: " + str(mount) not in gateway.errors.read_text():
                assert gateway.chat(script={"tokens": 2})[0] == 200
            filler.unlink()
            gateway.until(lambda: "recovered" in gateway.errors.read_text())
            total = gateway.tenants()["a"]["output_tokens"]
            assert gateway.stop() == 0
        saved = left_by(mount / "state", [])
        assert saved.totals["a"][2] == total
    finally:
        subprocess.run(["umount", mount], check=False)
