"""`llmsys serve-lora serve --replicas` as processes: kill -9 under load, to zero and back, one ledger per replica."""

import asyncio
import json
import os
import signal
import urllib.request
from pathlib import Path

import psutil
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.cli.conftest import Shell
from tests.cli.test_serve_lora_serve import Process, chat, curl
from tests.serve_lora.conftest import write_tiny_model
from tests.serve_lora.server.conftest import write_adapter

# one worker, so that the model is written once
pytestmark = pytest.mark.xdist_group("serve-lora-fleet")


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    from llmsys.engine.loader import read_config

    shell = Shell(tmp_path_factory.mktemp("fleet"))
    write_tiny_model(shell.directory / "tiny")
    shape = read_config(shell.directory / "tiny")
    for at in range(3):
        write_adapter(shell.directory / "adapters" / f"a{at}", seed=at, shape=shape, lora_alpha=64)
    return shell


def serve(shell, *options):
    return Process(
        shell, "tiny", "--port", "0", "--dtype", "float32", "--adapters", "adapters", "--drain-s", "5", *options
    )


def get(process, path):
    with urllib.request.urlopen(process.ready["url"] + path, timeout=60) as answer:
        return answer.read().decode()


def replicas(process):
    return json.loads(get(process, "/v1/replicas"))["replicas"]


def metric(process, name):
    lines = get(process, "/metrics").splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"llmsys:{name} "))


async def streamed(client, at, tokens=60, on_token=lambda: None):
    """The text of one stream, its adapter by its number."""
    pieces = []
    events = await client.chat.completions.create(
        model=["tiny", "a0", "a1", "a2"][at % 4],
        messages=[{"role": "user", "content": f"question {at}"}],
        max_tokens=tokens,
        temperature=at % 2,
        seed=at,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for chunk in events:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        on_token()
    return "".join(pieces)


def served_by(process, number):
    """The replicas once there are so many; the test's own limit of time ends what never is."""
    while len(found := replicas(process)) != number:
        process.process.poll()
    return found


def test_kill_nine_of_replicas_under_load_loses_no_request_and_repeats_no_text(shell):
    """24 streams on two replicas; both are killed, one after the other: every text is that of an undisturbed server."""

    async def asked(url, on_token=lambda: None):
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=90) as client:
            return await asyncio.gather(*(streamed(client, at, on_token=on_token) for at in range(24)))

    alone = serve(shell)
    expected = asyncio.run(asked(alone.ready["url"]))
    alone.stop()
    process = serve(shell, "--replicas", "2", "--placement", "least-loaded", "--max-sequences", "12")
    doomed = [replica["pid"] for replica in served_by(process, 2)]
    heard = 0

    def kill_now_and_then():
        nonlocal heard
        heard += 1
        if heard in (150, 600) and doomed:
            os.kill(doomed.pop(), signal.SIGKILL)

    texts = asyncio.run(asked(process.ready["url"], kill_now_and_then))
    metrics = get(process, "/metrics")
    code, _, err = process.stop()

    assert texts == expected
    assert "llmsys:replica_losses_total 2.0" in metrics
    assert code == 0, err


def test_a_replica_that_hangs_is_replaced_and_loses_no_request(shell):
    """A stopped process keeps its connection open for ever: what counts is that it says nothing."""

    async def asked(url, on_token=lambda: None):
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=90) as client:
            return await asyncio.gather(*(streamed(client, at, tokens=30, on_token=on_token) for at in range(6)))

    alone = serve(shell)
    expected = asyncio.run(asked(alone.ready["url"]))
    alone.stop()
    process = serve(shell, "--replicas", "2", "--placement", "least-loaded", "--replica-timeout-s", "3")
    doomed = [replica["pid"] for replica in served_by(process, 2)][:1]

    def stop_one():
        if doomed:
            os.kill(doomed.pop(), signal.SIGSTOP)

    texts = asyncio.run(asked(process.ready["url"], stop_one))
    losses = metric(process, "replica_losses_total")
    code, _, err = process.stop()

    assert texts == expected
    assert losses == 1.0
    assert code == 0, err


def test_a_fleet_at_zero_starts_a_replica_for_a_request_and_pays_for_it(shell):
    process = serve(shell, "--replicas", "0:2", "--keep-alive", "0.05", "--standby", "1", "--ledger", "zero.jsonl")
    url = f"{process.ready['url']}/v1/chat/completions"
    idle = served_by(process, 0)
    answer = json.loads(curl(url, chat(model="a1", user="ann")))
    metrics = get(process, "/metrics")
    code, _, err = process.stop()
    names = sorted(path.name for path in shell.directory.glob("zero.*.jsonl"))
    report = shell.run("serve-lora", "cost", "report", *names, "--by", "tenant", "--json")

    assert idle == []
    assert answer["usage"]["completion_tokens"] > 0
    assert 'replica_start_seconds{stage="model"}' in metrics
    assert code == 0, err
    assert len(names) >= 2
    found = json.loads(report.stdout)
    assert found["balance"]["holds"]
    assert found["balance"]["overhead"] > 0
    assert "ann" in {row["tenant"] for row in found["rows"]}


def test_a_gateway_that_is_killed_leaves_no_replica_behind(shell):
    process = serve(shell, "--replicas", "2", "--standby", "1")
    children = psutil.Process(process.process.pid).children(recursive=True)
    process.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=60)

    assert len(children) >= 2
    assert not alive


def test_the_openai_client_sees_one_server(shell):
    """Choices, log-probabilities, seeds, stop strings, models and adapters behave as with one engine."""
    process = serve(shell, "--replicas", "1", "--allow-runtime-adapters", "--pin", "a2", "--cost-header")
    client = OpenAI(base_url=f"{process.ready['url']}/v1", api_key="none", max_retries=0)

    def ask(**more):
        messages = [{"role": "user", "content": "hi"}]
        return client.chat.completions.create(**{"model": "a0", "messages": messages, "max_tokens": 6} | more)

    three = ask(n=3, seed=4, temperature=1.0, logprobs=True, top_logprobs=2)
    again = ask(n=3, seed=4, temperature=1.0)
    models = {model.id: model for model in client.models.list()}
    json_answer = ask(response_format={"type": "json_object"}, max_tokens=200)
    tiers = {row["name"]: row for row in client.get("/lora_adapters", cast_to=object)["data"]}
    client.post("/unload_lora_adapter", cast_to=object, body={"lora_name": "a1"})
    raw = client.completions.with_raw_response.create(model="tiny", prompt=[5, 6, 7], max_tokens=3)
    left = {model.id for model in client.models.list()}
    process.stop()

    assert [choice.message.content for choice in three.choices] == [c.message.content for c in again.choices]
    assert len(three.choices[2].logprobs.content[0].top_logprobs) == 2
    assert set(models) == {"tiny", "a0", "a1", "a2"}
    assert json_answer.choices[0].message.content.lstrip().startswith("{")
    assert tiers["a2"]["pinned"]
    assert float(raw.headers["x-llmsys-cost"].split()[0]) > 0
    assert left == {"tiny", "a0", "a2"}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--replicas", "3:1"], 2, "--replicas 3:1"),
        (["--replicas", "two"], 2, "LEAST:MOST"),
        (["--replicas", "2", "--placement", "dedicated"], 2, "--placement 'dedicated'"),
        (["--cluster", "k8s"], 2, "ray://HOST:PORT"),
        (["--replicas", "1", "--keep-alive", "long"], 2, "ski-rental"),
        (["--cluster", "ray", "--standby", "1"], 2, "--standby"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused_in_one_line(shell, one_line, options, code, said):
    result = shell.run("serve-lora", "serve", "tiny", "--port", "0", *options)

    assert result.returncode == code
    assert said in one_line(result.stderr)


def test_a_replica_that_cannot_load_ends_the_server_with_its_own_error(shell, one_line):
    result = shell.run("serve-lora", "serve", "nowhere", "--port", "0", "--replicas", "2")

    assert result.returncode == 65
    assert "nowhere" in one_line(result.stderr)
    assert not list(Path(shell.directory).glob("*.sock"))


@pytest.mark.slow
def test_ray_places_replicas_and_a_killed_actor_loses_no_request(shell):
    """The same kill -9 with Ray actors in place of processes."""
    pytest.importorskip("ray")

    async def asked(url, on_token=lambda: None):
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(streamed(client, at, on_token=on_token) for at in range(12)))

    process = serve(shell, "--cluster", "ray", "--replicas", "2", "--placement", "least-loaded", "--threads", "1")
    expected = asyncio.run(asked(process.ready["url"]))
    doomed = [replica["pid"] for replica in served_by(process, 2)][:1]
    heard = 0

    def kill_once():
        nonlocal heard
        heard += 1
        if heard == 100:
            os.kill(doomed.pop(), signal.SIGKILL)

    texts = asyncio.run(asked(process.ready["url"], kill_once))
    metrics = get(process, "/metrics")
    code, _, err = process.stop()

    assert texts == expected
    assert "llmsys:replica_losses_total 1.0" in metrics
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--replicas", "2")], ids=["one engine", "two replicas"])
def test_five_hundred_clients_of_whom_a_third_leave(shell, options):
    """Real sockets, one process or three: every text is whole, and nothing is held once all have gone."""
    process = serve(shell, *options, "--max-queue", "1000", "--max-sequences", "32")

    async def one(client, at):
        if at % 3:
            return await streamed(client, at % 8, tokens=40)
        events = await client.chat.completions.create(
            model=["tiny", "a0", "a1"][at % 7 % 3],
            messages=[{"role": "user", "content": f"{at}"}],
            max_tokens=200,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        for _ in range(at % 5 + 1):
            await anext(events)
        await events.response.aclose()
        return None

    async def all_of_them():
        url = f"{process.ready['url']}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
            expected = [await streamed(client, at, tokens=40) for at in range(8)]
            return expected, await asyncio.gather(*(one(client, at) for at in range(500)))

    expected, texts = asyncio.run(all_of_them())
    while metric(process, "num_requests_running") + metric(process, "num_requests_waiting"):
        process.process.poll()

    assert [text for at, text in enumerate(texts) if at % 3] == [expected[at % 8] for at in range(500) if at % 3]
    assert 0 < metric(process, "clients_left_total") <= 167  # some leave an answer that is on its way as a whole
    assert (metric(process, "kv_blocks_referenced"), metric(process, "adapter_references")) == (0, 0)
    code, _, err = process.stop()
    assert code == 0, err
