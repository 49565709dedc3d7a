"""The server over a script, heard by the OpenAI client: answers, streams, modes, refusals, and clients that leave."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx2
import pytest
import uvicorn
from openai import AsyncOpenAI

from llmsys.errors import UsageFault
from llmsys.sgd_decode import DecodeSettings, Match, Rule, ScriptBackend
from llmsys.sgd_decode.server import Room, ServerSettings, Service, check_exposure, make_app
from tests.sgd_decode.stand_ins import Cranked, until

PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs - | level 1\nend"
RULES = [
    Rule(Match("Write an outline"), PLAN),
    Rule(Match("Give the skeleton"), "1. Alpha\n2. Beta"),
    Rule(Match("about part 1,"), "First. The code is 4711. " + " ".join(f"Number {n}." for n in range(8))),
    Rule(Match("about part 2,", anywhere="4711"), "It was 4711."),
    Rule(Match("about part 3,"), "Third."),
    Rule(Match("Continue with point"), "A point."),
    Rule(Match("fail"), error="the model is gone"),
    Rule(Match("Why"), "Because."),
]
TEXT = RULES[2].text + "\n\nIt was 4711.\n\nThird."
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Why?"}]}


class Served:
    """A server that answers, its room, and clients of it."""

    def __init__(self, url, room, service):
        self.room = room
        self.service = service
        self.openai = AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        self.http = httpx2.AsyncClient(base_url=url, timeout=60)

    async def post(self, body, **headers):
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)


@asynccontextmanager
async def served(backend=None, *, decode=None, **limits):
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with Room(backend or ScriptBackend(RULES)) as room:
        service = Service(room, ServerSettings("script", decode or DecodeSettings(), **limits))
        config = uvicorn.Config(make_app(service), log_config=None, lifespan="off", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        found = Served(url, room, service)
        try:
            yield found
        finally:
            await found.http.aclose()
            await found.openai.close()
            server.should_exit = True
            await serving


def over(scenario, *args, **settings):
    """Run a scenario over a server."""

    async def run():
        async with served(*args, **settings) as server:
            return await scenario(server)

    return asyncio.run(run())


def data_of(text):
    """The data of server-sent events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_whole_answer_carries_its_graph_and_its_cost():
    async def ask(server):
        return (await server.post(ASKED)).json()

    body = over(ask)

    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": TEXT}
    assert [node["needs"] for node in body["llmsys"]["plan"]["nodes"]] == [[], [1], []]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


def test_the_openai_client_hears_the_parts_in_order():
    async def ask(server):
        stream = await server.openai.chat.completions.create(
            **ASKED, stream=True, stream_options={"include_usage": True}
        )
        return [chunk async for chunk in stream]

    chunks = over(ask)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]

    assert "".join(pieces) == TEXT
    assert chunks[-1].usage.completion_tokens > 0
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_parts_as_they_come_say_which_part_they_are_of():
    async def ask(server):
        return (await server.post({**ASKED, "stream": True, "llmsys": {"stream": "parts"}})).text

    chunks = [chunk for chunk in data_of(over(ask)) if "part" in chunk.get("llmsys", {})]
    texts = {}
    for chunk in chunks:
        part = chunk["llmsys"]["part"]
        texts[part] = texts.get(part, "") + chunk["choices"][0]["delta"]["content"]

    assert "\n\n".join(texts[part] for part in sorted(texts)) == TEXT
    assert [chunk["llmsys"]["part"] for chunk in chunks].index(3) < [c["llmsys"]["part"] for c in chunks].index(2)


@pytest.mark.parametrize(("mode", "text"), [("ar", "Because."), ("sot", "A point.\n\nA point."), ("sgd", TEXT)])
def test_the_body_or_the_header_chooses_the_mode_and_the_body_wins(mode, text):
    async def ask(server):
        by_body = await server.post({**ASKED, "llmsys": {"mode": mode}}, **{"X-LLMSYS-Mode": "auto"})
        by_header = await server.post(ASKED, **{"X-LLMSYS-Mode": mode})
        return by_body.json(), by_header.json()

    for body in over(ask):
        assert body["llmsys"]["mode"] == mode
        assert body["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"llmsys": {"mode": "fast"}}, 400, "mode 'fast'"),
        ({"llmsys": {"modus": "ar"}}, 400, "modus"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url"),
        ({"n": 2}, 400, "n is not done"),
        ({"top_p": 0.5}, 400, "top_p is not done"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools is not done"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"stop": ["\n"]}, 400, "only in ar"),
        ({"temperature": 3}, 400, "temperature 3"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"model": 7}, 400, "model"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(change, status, named):
    async def ask(server):
        return await server.post({**ASKED, **change})

    refused = over(ask)

    assert refused.status_code == status
    assert named in refused.json()["error"]["message"]


def test_defaults_that_clients_send_along_are_no_wishes():
    async def ask(server):
        return await server.post({**ASKED, "top_p": 1, "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0})

    assert over(ask).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b" " * 2000, 413), (b"[]", 400)]
)
def test_a_body_that_is_none_is_refused(content, status):
    async def ask(server):
        return await server.http.post("/v1/chat/completions", content=content)

    refused = over(ask, max_body_bytes=1000 if status == 413 else 16_000_000)

    assert refused.status_code == status
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_only_who_bears_the_key_is_answered():
    async def ask(server):
        wrong = await server.post(ASKED, authorization="Bearer no")
        return wrong, await server.post(ASKED), await server.post(ASKED, authorization="Bearer secret")

    wrong, none, right = over(ask, key="secret")

    assert (wrong.status_code, none.status_code, right.status_code) == (401, 401, 200)
    assert wrong.headers["www-authenticate"] == "Bearer"


def test_strangers_are_not_let_in_without_a_key():
    check_exposure("127.0.0.1", None, insecure=False)
    check_exposure("::1", None, insecure=False)
    check_exposure("localhost", None, insecure=False)
    check_exposure("0.0.0.0", "key", insecure=False)
    check_exposure("0.0.0.0", None, insecure=True)
    with pytest.raises(UsageFault, match="LLMSYS_API_KEY"):
        check_exposure("0.0.0.0", None, insecure=False)


def test_past_the_queue_clients_are_told_to_come_back():
    backend = Cranked(RULES)

    async def ask(server):
        waiting = asyncio.create_task(server.post(ASKED))
        await until(lambda: server.room.open == 1)
        turned_away = await server.post(ASKED)
        backend.crank(200)
        return turned_away, await waiting

    turned_away, answered = over(ask, backend, max_queue=1)

    assert turned_away.status_code == 429
    assert turned_away.headers["retry-after"] == "1"
    assert answered.status_code == 200


def test_a_model_that_is_gone_is_a_bad_gateway_and_in_a_stream_an_error_event():
    failing = {**ASKED, "messages": [{"role": "user", "content": "fail"}], "llmsys": {"mode": "ar"}}

    async def ask(server):
        return await server.post(failing), await server.post({**failing, "stream": True})

    whole, streamed = over(ask)

    assert whole.status_code == 502
    assert whole.json()["error"]["message"] == "the model is gone"
    assert data_of(streamed.text)[-1]["error"]["message"] == "the model is gone"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_parts(stream):
    backend = Cranked(RULES)

    async def leave(server):
        asking = asyncio.create_task(server.post({**ASKED, "stream": stream}))
        backend.crank(20)
        await until(lambda: len(backend.running) >= 2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: server.room.tally.left == 1)
        running = list(backend.running)
        backend.crank(400)
        return running, (await server.post(ASKED)).status_code

    assert over(leave, backend) == ([], 200)


def test_temperature_and_seed_and_length_reach_the_model():
    backend = ScriptBackend(RULES)

    async def ask(server):
        await server.post(
            {**ASKED, "temperature": 0.5, "seed": 7, "max_tokens": 1, "stop": "x", "llmsys": {"mode": "ar"}}
        )

    over(ask, backend)
    (job,) = backend.jobs

    assert (job.temperature, job.seed, job.max_tokens, job.stop) == (0.5, 7, 1, ("x",))


def test_the_user_of_a_request_is_its_tenant():
    backend = ScriptBackend(RULES)

    async def ask(server):
        await server.post({**ASKED, "user": "acme"})

    over(ask, backend)

    assert {job.tenant for job in backend.jobs} == {"acme"}


def test_models_health_metrics_and_paths_that_are_not_there():
    async def ask(server):
        await server.post(ASKED)
        paths = ("/v1/models", "/health", "/metrics", "/v1/nothing")
        found = [await server.http.get(path) for path in paths]
        server.service.draining = True
        return [*found, await server.http.get("/health"), await server.post(ASKED)]

    models, health, metrics, nothing, stopping, late = over(ask)

    assert [model["id"] for model in models.json()["data"]] == ["script"]
    assert health.json() == {"status": "ok"}
    assert 'llmsys_sgd_answers_total{mode="sgd"} 1' in metrics.text
    assert "llmsys_sgd_prefill_saved_total" in metrics.text
    assert (nothing.status_code, stopping.status_code, late.status_code) == (404, 503, 503)
