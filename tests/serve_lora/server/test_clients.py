"""Who may ask and how clients leave: keys, tenants, rates, metrics, cancellation without a leak."""

import asyncio

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.server import Access, Address, ServerSettings, TenantTable, key_digest, read_tenants
from llmsys.serve_lora.server.tenants import RateLimiter, Tenant
from tests.serve_lora.server.conftest import Endless, at_server, write_adapter
from tests.serve_lora.stand_ins import Clock, Speller

TENANTS = f"""
[tenant.acme]
keys = ["sha256:{key_digest("acme-key")}"]
adapters = ["fr"]
rpm = 2
[tenant.bolt]
keys = ["bolt-key"]
weight = 2.5
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "tenants.toml").write_text(TENANTS)
    return read_tenants(tmp_path / "tenants.toml")


def stream(server, text="x", **settings):
    return server.client.chat.completions.create(
        **{"model": "speller", "temperature": 0, "stream": True, "messages": [{"role": "user", "content": text}]}
        | settings
    )


async def get(server, path, key=None):
    async with httpx2.AsyncClient() as client:
        return await client.get(server.url + path, headers={"authorization": f"Bearer {key}"} if key else {})


async def values(server):
    """The metrics as a dictionary of sample names and labels."""
    text = (await get(server, "/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}


def test_clients_that_leave_mid_stream_leak_nothing_and_take_no_token_from_others():
    async def check(server):
        async def leave(at):
            events = await stream(server, f"{at}")
            for _ in range(at % 7 + 1):
                await anext(events)
            await events.response.aclose()

        async def stay(at):
            events = await stream(server, f"{at}", max_tokens=60 + at)
            return "".join([choice.delta.content or "" async for chunk in events for choice in chunk.choices])

        work = [leave(at) if at % 3 == 0 else stay(at) for at in range(60)]
        texts = await asyncio.gather(*work)
        await server.idle()
        return texts, server.leaks(), await values(server)

    texts, leaks, found = at_server(check, runner=Endless(), blocks=40_000, max_sequences=16)

    alphabet = "abcdefghijklmnopqrstuvwxyz" * 8
    assert [text for at, text in enumerate(texts) if at % 3] == [alphabet[: 60 + at] for at in range(60) if at % 3]
    assert leaks == (0, 0)
    assert found["llmsys:clients_left_total",] == 20
    assert found["llmsys:kv_blocks_referenced",] == 0


@pytest.mark.slow
def test_five_hundred_streams_of_which_a_third_leave(tmp_path):
    """The same at size, with adapters: nothing is leaked, no token is lost or told twice."""
    for at in range(40):
        write_adapter(tmp_path / f"a{at}")

    async def check(server):
        async def one(at):
            events = await stream(server, f"{at}", model=f"a{at % 40}", max_tokens=40)
            if at % 3 == 0:
                await anext(events)
                await events.response.aclose()
                return None
            return "".join([choice.delta.content or "" async for chunk in events for choice in chunk.choices])

        texts = await asyncio.gather(*(one(at) for at in range(500)))
        await server.idle()
        return texts, server.leaks()

    texts, leaks = at_server(
        check, runner=Endless(), adapters=tmp_path, blocks=40_000, max_sequences=32, slots=32, max_queue=1000
    )

    assert [text for at, text in enumerate(texts) if at % 3] == [("abcdefghijklmnopqrstuvwxyz" * 2)[:40]] * 333
    assert leaks == (0, 0)


def test_a_client_that_leaves_before_the_whole_answer_cancels_it():
    async def check(server):
        waiting = asyncio.create_task(stream(server, stream=False, max_tokens=60_000))
        while not server.engine.stats().running:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await server.idle()
        return server.leaks(), server.engine.stats().output_tokens

    leaks, tokens = at_server(check, runner=Endless(), blocks=40_000)

    assert leaks == (0, 0)
    assert tokens < 60_000


def test_an_engine_that_dies_tells_every_stream_and_health():
    class Dying(Endless):
        steps = 0

        def execute(self, plan):
            self.steps += 1
            if self.steps > 3:
                raise ZeroDivisionError("no more")
            return super().execute(plan)

    async def check(server):
        texts = []

        async def read():
            async for chunk in await stream(server, max_tokens=50):
                texts.extend(choice.delta.content or "" for choice in chunk.choices)

        with pytest.raises(openai.APIError, match="no more"):
            await read()
        return "".join(texts), (await get(server, "/health")), (await get(server, "/ready"))

    text, health, ready = at_server(check, runner=Dying())

    assert "abc".startswith(text)
    assert (health.status_code, ready.status_code) == (503, 503)
    assert health.json()["error"]["code"] == "engine_stopped"


def test_a_key_sees_only_its_adapters(tmp_path, table):
    for name in ("fr", "secret"):
        write_adapter(tmp_path / name)

    async def check(server):
        names = [model.id async for model in server.client.models.list()]
        with pytest.raises(openai.NotFoundError) as caught:
            await stream(server, model="secret")
        other = server.client.with_options(api_key="bolt-key")
        return names, caught.value.body["message"], [model.id async for model in other.models.list()]

    names, message, others = at_server(check, adapters=tmp_path, tenants=table, api_key="acme-key")

    assert names == ["speller", "fr"]
    assert "closest: fr" in message or "closest: speller" in message
    assert others == ["speller", "fr", "secret"]


def test_without_a_key_nothing_is_told(table):
    async def check(server):
        with pytest.raises(openai.AuthenticationError) as caught:
            await stream(server)
        return (
            caught.value.body,
            [(await get(server, path)).status_code for path in ("/v1/models", "/metrics", "/health", "/version")],
            (await get(server, "/metrics", "bolt-key")).status_code,
            (await get(server, "/metrics", "operator")).status_code,
        )

    body, statuses, tenant, operator = at_server(check, tenants=table.with_key("operator"), api_key="wrong")

    assert body["code"] == "invalid_api_key"
    assert statuses == [401, 401, 200, 200]
    assert (tenant, operator) == (403, 200)


def test_a_tenant_over_its_rate_is_told_when_to_come_back(table):
    async def check(server):
        for _ in range(2):
            await stream(server, stream=False)
        with pytest.raises(openai.RateLimitError) as caught:
            await stream(server)
        return caught.value

    error = at_server(check, tenants=table, api_key="acme-key")

    assert error.body["code"] == "rate_limit_exceeded"
    assert 1 <= int(error.response.headers["retry-after"]) <= 61


def test_a_rate_is_counted_over_any_minute():
    clock = Clock()
    limiter, tenant = RateLimiter(clock), Tenant("acme", rpm=2)
    taken = []
    for seconds in (0, 30, 20, 10, 1, 28):
        clock.pass_s(seconds)
        taken.append(limiter.take(tenant))

    assert taken == [0, 0, 10, 0, 29, 1]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "tenant"),
        ("[tenant.a]\nkeys = []", "no keys"),
        ('[tenant.a]\nkeys = ["sha256:12"]', "key sha256:12"),
        ('[tenant.a]\nkeys = ["k"]\n[tenant.b]\nkeys = ["k"]', "a key that 'a' has too"),
        ('[tenant.a]\nkeys = ["k"]\nweight = 0', "weight"),
        ('[tenant.a]\nkeys = ["k"]\nrpm = 0', "rpm"),
        ('[tenant.a]\nkeys = ["k"]\nadaptors = []', "adaptors"),
        ("[tenant", "Expected"),
    ],
)
def test_a_tenants_file_that_does_not_fit_is_named(tmp_path, text, wrong):
    (tmp_path / "t.toml").write_text(text)

    with pytest.raises(BadInput, match=r"t\.toml") as caught:
        read_tenants(tmp_path / "t.toml")

    assert wrong.lower() in str(caught.value).lower()


def test_metrics_parse_and_add_up():
    async def check(server):
        for at in range(3):
            async for _ in await stream(server, "hello", user=f"t{at}"):
                pass
        with pytest.raises(openai.NotFoundError):
            await stream(server, model="none")
        return await values(server)

    found = at_server(check, runner=Speller(), metrics_tenants=2)

    assert found["llmsys:requests_total", "200", "default"] == 3
    assert found["llmsys:requests_total", "404", "default"] == 1
    assert found["llmsys:prompt_tokens_total",] == 15
    assert found["llmsys:generation_tokens_total",] == 18
    assert found["llmsys:time_to_first_token_seconds_count",] == 3
    assert {key[1] for key in found if key[0] == "llmsys:tenant_cost_total"} == {"t0", "other"}


def test_metrics_take_another_prefix():
    async def check(server):
        async for _ in await stream(server, "hi"):
            pass
        return await values(server)

    assert at_server(check, metrics_prefix="vllm:")["vllm:num_requests_running",] == 0


def test_a_text_is_tokenized_and_back():
    async def check(server):
        async with httpx2.AsyncClient() as client:
            ids = (await client.post(f"{server.url}/tokenize", json={"prompt": "hé"})).json()
            text = (await client.post(f"{server.url}/detokenize", json={"tokens": ids["tokens"]})).json()
            bad = await client.post(f"{server.url}/detokenize", json={"tokens": [10**9]})
        return ids, text, bad.status_code

    ids, text, bad = at_server(check)

    assert ids == {"count": 3, "max_model_len": 256, "tokens": [104, 195, 169]}
    assert (text, bad) == ({"prompt": "hé"}, 400)


@pytest.mark.parametrize(("path", "status"), [("/v1/embeddings", 404), ("/v1/chat/completions", 405)])
def test_what_is_not_there_is_an_error_object_too(path, status):
    response = at_server(lambda server: get(server, path))

    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_server_that_stops_refuses_with_503():
    async def check(server):
        server.service.draining = True
        with pytest.raises(openai.InternalServerError) as caught:
            await stream(server)
        return caught.value

    error = at_server(check)

    assert (error.status_code, error.body["code"]) == (503, "draining")
    assert int(error.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "::"])
def test_other_machines_need_a_key(host):
    with pytest.raises(UsageFault, match="--insecure"):
        ServerSettings(address=Address(host))

    keyed = ServerSettings(address=Address(host), access=Access(TenantTable().with_key("k")))
    assert keyed.address.host == host
    assert ServerSettings(address=Address(host), access=Access(insecure=True)).access.insecure


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_none(host):
    assert ServerSettings(address=Address(host)).address.is_local
