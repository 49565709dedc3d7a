"""Replicas as processes and as actors: what they are told, what they say, and how they end."""

import asyncio
import os
import subprocess
import sys

import msgspec
import psutil
import pytest

from llmsys.errors import LlmsysError, Unavailable
from llmsys.serve_lora.fleet.launching import ProcessLauncher, ReplicaFault
from llmsys.serve_lora.fleet.link import Link, LinkEvents
from llmsys.serve_lora.fleet.process import run_replica
from llmsys.serve_lora.fleet.ray_launching import ReplicaActor
from llmsys.serve_lora.fleet.spec import ReplicaSpec, Started
from llmsys.serve_lora.server.settings import EngineSettings, Recording, ServerSettings
from tests.serve_lora.fleet.conftest import until

SECRET = "word"


def spec_of(model, **records):
    engine = EngineSettings(dtype="float32", max_sequences=3)
    settings = ServerSettings(str(model), engine=engine, records=Recording(**records))
    return ReplicaSpec.of(settings, threads=1, secret=SECRET)


async def started_in_process(spec, check):
    """Run a replica in this process, and `await check(its answer)` beside it."""
    told, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    running = asyncio.create_task(run_replica(spec, ready=told.set_result, until=stop))
    try:
        await asyncio.wait((told, running), return_when=asyncio.FIRST_COMPLETED)
        return await check(told.result() if told.done() else await running)
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)


def in_loop(work):
    return asyncio.run(asyncio.wait_for(work, 90))


def test_a_replica_listens_on_a_port_or_a_socket_and_wants_the_word(tiny_model, tmp_path):
    async def check(started):
        link = await Link.open(started.address, SECRET)
        link.listen(LinkEvents(said=print, refused=print, spent=print, lost=print))
        ready, files = link.ready, await link.texts()
        await link.close()
        with pytest.raises(LlmsysError, match="does not answer as a replica"):
            await Link.open(started.address, "wrong")
        return started.address, ready, files

    for address in ("127.0.0.1:0", f"unix:{tmp_path / 's'}"):
        spec = spec_of(tiny_model).numbered(0, address=address)
        found, ready, files = in_loop(started_in_process(spec, check))

        assert found == address if address.startswith("unix:") else int(found.rpartition(":")[2]) > 0
        assert (ready.max_sequences, ready.max_len) == (3, 512)
        assert set(ready.stages_s) == {"process and imports", "model"}
        assert set(files) == {"tokenizer.json", "chat.json"}


def test_an_address_that_is_taken_is_unavailable(tiny_model, tmp_path):
    spec = spec_of(tiny_model).numbered(0, address=f"unix:{tmp_path / 'no' / 's'}")

    async def check(_started):
        raise AssertionError("it must not start")

    with pytest.raises(Unavailable, match="cannot listen"):
        in_loop(started_in_process(spec, check))


def test_the_ledger_of_a_replica_begins_when_it_is_told(tiny_model, tmp_path):
    spec = spec_of(tiny_model, ledger=tmp_path / "day.jsonl").numbered(4, address=f"unix:{tmp_path / 's'}")
    early = msgspec.structs.replace(spec, told_unix_s=spec.told_unix_s - 100)

    async def check(started):
        return started.address

    in_loop(started_in_process(early, check))

    opening, *windows = [msgspec.json.decode(line) for line in (tmp_path / "day.0004.jsonl").open("rb")]
    assert opening["unix_s"] == early.told_unix_s
    assert windows[0]["start_s"] == 0
    assert windows[0]["overhead_s"] >= 100


def test_a_process_starts_answers_and_ends_with_its_owner(tiny_model):
    async def act():
        launcher = ProcessLauncher(spec_of(tiny_model), standby=1)
        handle = await launcher.launch(7)
        link = await Link.open(handle.address, handle.secret)
        waiting = [process.pid for process in launcher._waiting]
        await link.close()
        await handle.stop()
        await launcher.close()
        return handle.pid, waiting, handle.address

    pid, waiting, address = in_loop(act())

    assert len(waiting) == 1
    assert not any(map(psutil.pid_exists, [pid, *waiting]))
    assert not os.path.exists(address.removeprefix("unix:"))


def test_a_process_that_cannot_load_says_why_with_its_exit_code(tmp_path):
    async def act():
        launcher = ProcessLauncher(spec_of(tmp_path / "nowhere"), standby=0)
        try:
            await launcher.launch(0)
        finally:
            await launcher.close()

    with pytest.raises(ReplicaFault, match="nowhere") as caught:
        in_loop(act())
    assert caught.value.exit_code == 65


def test_a_process_that_is_told_nothing_ends_with_success():
    run = subprocess.run(
        [sys.executable, "-m", "llmsys.serve_lora.fleet.process"],
        input=b"",
        capture_output=True,
        timeout=60,
        check=True,
    )

    assert run.stdout == b""


def test_an_actor_is_a_replica_in_its_own_loop(tiny_model):
    """The actor's body without Ray: it starts, answers a gateway, and closes what it opened."""

    async def act():
        actor = ReplicaActor()
        spec = spec_of(tiny_model).numbered(1, address="127.0.0.1:0")
        started = msgspec.json.decode(await actor.start(msgspec.json.encode(spec), everywhere=False), type=Started)
        link = await Link.open(started.address, SECRET)
        await link.close()
        pid = await actor.pid()
        await actor.stop()
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await Link.open(started.address, SECRET)
        return started.fault, pid

    assert in_loop(act()) == ("", os.getpid())


def test_an_actor_that_cannot_start_says_why(tmp_path):
    async def act():
        actor = ReplicaActor()
        spec = spec_of(tmp_path / "nowhere").numbered(1, address="127.0.0.1:0")
        return msgspec.json.decode(await actor.start(msgspec.json.encode(spec), everywhere=False), type=Started)

    started = in_loop(act())

    assert (started.address, started.exit_code) == ("", 65)
    assert "nowhere" in started.fault


def test_a_replica_serves_one_gateway_after_another(tiny_model, tmp_path):
    spec = spec_of(tiny_model).numbered(0, address=f"unix:{tmp_path / 's'}")

    async def check(started):
        for _ in range(2):
            link = await Link.open(started.address, SECRET)
            await until(lambda link=link: link.ready is not None)
            await link.close()
        return True

    assert in_loop(started_in_process(spec, check))
