"""What the real `openai` client gets from a server: answers, streams, usage, log-probabilities, errors."""

import asyncio
import json

import httpx2
import openai
import pytest

from tests.serve_lora.server.conftest import Dice, Endless, at_server

TEXT = "né 日本 🎉"


def ask(server, text="hello", **settings):
    return server.client.chat.completions.create(
        **{"model": "speller", "temperature": 0, "messages": [{"role": "user", "content": text}]} | settings
    )


async def lines_of(server, body, path="/v1/chat/completions"):
    """The raw bytes of a stream, split at blank lines."""
    async with httpx2.AsyncClient() as client:
        response = await client.post(server.url + path, json=body)
    return response, response.content.split(b"\n\n")


def test_a_chat_is_answered_whole_with_its_usage():
    answer = at_server(ask)

    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hello", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 6, 11)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert (answer.object, answer.model) == ("chat.completion", "speller")


def test_a_stream_has_the_same_text_as_the_whole_answer_and_no_broken_character():
    async def check(server):
        stream = await ask(server, TEXT, stream=True)
        return [chunk async for chunk in stream], await ask(server, TEXT)

    chunks, whole = at_server(check)

    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content == TEXT
    assert not any("\ufffd" in text for text in texts)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_is_data_lines_that_end_with_done():
    body = {"model": "speller", "temperature": 0, "stream": True, "messages": [{"role": "user", "content": TEXT}]}

    response, parts = at_server(lambda server: lines_of(server, body))

    assert response.headers["content-type"].startswith("text/event-stream")
    assert parts[-2:] == [b"data: [DONE]", b""]
    assert all(part.startswith(b"data: {") and b"\n" not in part for part in parts[:-2])
    deltas = [json.loads(part[6:])["choices"][0]["delta"].get("content", "") for part in parts[:-2]]
    assert "".join(deltas) == TEXT


def test_include_usage_adds_one_chunk_without_choices():
    async def check(server):
        stream = await ask(server, stream=True, stream_options={"include_usage": True})
        return [chunk async for chunk in stream]

    chunks = at_server(check)

    assert [len(chunk.choices) for chunk in chunks[-2:]] == [1, 0]
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (5, 6)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_n_choices_come_with_their_numbers_streamed_or_whole():
    async def check(server):
        whole = await ask(server, "abc", n=3)
        texts = ["", "", ""]
        async for chunk in await ask(server, "abc", n=3, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        return whole, texts

    whole, texts = at_server(check)

    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(at, "abc") for at in range(3)]
    assert whole.usage.completion_tokens == 12
    assert texts == ["abc"] * 3


def test_a_seed_gives_the_same_answer_twice_and_another_seed_another():
    async def check(server):
        runs = [await ask(server, "x", seed=seed, temperature=1.0, max_tokens=20) for seed in (7, 7, 8)]
        return [run.choices[0].message.content for run in runs]

    first, again, other = at_server(check, runner=Dice())

    assert first == again != other
    assert len(first) == 20


def test_log_probabilities_are_reported_per_token_streamed_or_whole():
    async def check(server):
        whole = await ask(server, "ab", logprobs=True, top_logprobs=2)
        streamed = []
        async for chunk in await ask(server, "ab", logprobs=True, top_logprobs=2, stream=True):
            streamed += [token for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content]
        return whole.choices[0].logprobs.content, streamed

    whole, streamed = at_server(check)

    assert [token.token for token in whole] == ["a", "b", ""]
    assert [len(token.top_logprobs) for token in whole] == [2, 2, 2]
    assert whole[0].top_logprobs[0].token == "a"
    assert whole[0].logprob == pytest.approx(0.0, abs=1e-3)
    assert streamed == whole


def test_a_stop_string_ends_the_answer_before_it():
    answer = at_server(lambda server: ask(server, "hello world", stop=["wor"]))

    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hello ", "stop")


def test_max_tokens_ends_the_answer_with_length():
    answer = at_server(lambda server: ask(server, "hello", max_completion_tokens=2))

    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("he", "length")


def test_a_completion_takes_text_token_ids_and_lists_and_echoes():
    async def check(server):
        def complete(prompt, **settings):
            return server.client.completions.create(model="speller", prompt=prompt, temperature=0, **settings)

        return (
            await complete("abc"),
            await complete([97, 98]),
            await complete(["one", "two"], echo=True, n=2),
            await complete([[97], [98]]),
        )

    text, ids, lists, id_lists = at_server(check)

    assert [choice.text for choice in text.choices] == ["abc"]
    assert [choice.text for choice in ids.choices] == ["ab"]
    assert [(choice.index, choice.text) for choice in lists.choices] == list(
        enumerate(["oneone", "oneone", "twotwo", "twotwo"])
    )
    assert [choice.text for choice in id_lists.choices] == ["a", "b"]
    assert (lists.usage.prompt_tokens, lists.usage.completion_tokens) == (6, 16)


def test_streamed_prompts_of_one_request_keep_their_numbers():
    async def check(server):
        texts = {}
        stream = await server.client.completions.create(
            model="speller", prompt=["one", "two"], temperature=0, echo=True, stream=True, logprobs=None
        )
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
        return texts

    assert at_server(check) == {0: "oneone", 1: "twotwo"}


def test_a_completions_streamed_log_probabilities_count_their_offsets():
    async def check(server):
        offsets, tokens = [], []
        async for chunk in await server.client.completions.create(
            model="speller", prompt="abc", temperature=0, logprobs=1, stream=True
        ):
            for choice in chunk.choices:
                offsets += choice.logprobs.text_offset
                tokens += choice.logprobs.tokens
        whole = await server.client.completions.create(model="speller", prompt="abc", temperature=0, logprobs=1)
        return tokens, offsets, whole.choices[0].logprobs

    tokens, offsets, whole = at_server(check)

    assert (tokens, offsets) == (["a", "b", "c", ""], [0, 1, 2, 3]) == (whole.tokens, whole.text_offset)


@pytest.mark.parametrize(
    ("settings", "status", "param"),
    [
        ({"model": "speler"}, 404, "model"),
        ({"temperature": 3}, 400, None),
        ({"n": 0}, 400, None),
        ({"stop": ["x"] * 17}, 400, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, 400, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"extra_body": {"best_of": 2}}, 400, "best_of"),
        ({"extra_body": {"stream_options": {"include_usage": True}}}, 400, "stream_options"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, None),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, None),
        ({"messages": [{"role": "user", "content": "x" * 30_000}]}, 400, "messages"),
        ({"extra_body": {"max_tokens": "many"}}, 400, "max_tokens"),
        ({"logit_bias": {"hello": 1}}, 400, None),
    ],
)
def test_what_cannot_run_is_refused_with_one_error_object(settings, status, param):
    async def check(server):
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(server, **settings)
        return caught.value

    error = at_server(check)

    assert error.status_code == status
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.body["param"] == param
    assert error.body["message"]


def test_an_unknown_model_names_the_closest():
    async def check(server):
        with pytest.raises(openai.NotFoundError) as caught:
            await ask(server, model="speler")
        return caught.value.body

    body = at_server(check)

    assert body["type"] == "NotFoundError"
    assert "closest: speller" in body["message"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "\xff"}', 400),
        (b'{"model": "speller", "messages": ' + b"[" * 100_000, 400),
        (b'{"a": ' * 50_000, 400),
        (b" " * (9 << 20), 413),
    ],
)
def test_a_body_that_is_no_request_is_refused_before_it_costs_anything(content, status):
    async def check(server):
        async with httpx2.AsyncClient() as client:
            return await client.post(f"{server.url}/v1/chat/completions", content=content)

    response = at_server(check)

    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_full_queue_says_when_to_come_back():
    async def check(server):
        running = [asyncio.create_task(ask(server, "a", max_tokens=50_000))]
        while not server.engine.stats().running:
            await asyncio.sleep(0)
        running += [asyncio.create_task(ask(server, "a", max_tokens=50_000)) for _ in range(2)]
        while server.engine.stats().waiting < 2:
            await asyncio.sleep(0)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(server, "one too many")
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.idle()
        return caught.value, server.leaks()

    error, leaks = at_server(check, runner=Endless(), blocks=40_000, max_sequences=1, max_queue=2)

    assert error.body["code"] == "queue_full"
    assert int(error.response.headers["retry-after"]) >= 1
    assert leaks == (0, 0)
