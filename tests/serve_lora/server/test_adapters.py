"""Adapters of a running server: used on sight, replaced, loaded and unloaded by requests, refused when hostile."""

import asyncio
import json
import struct

import httpx2
import openai
import pytest
import torch
from safetensors.torch import save_file

from tests.serve_lora.server.conftest import SHAPE, Endless, at_server, write_adapter


async def ask(server, model, text="x", **settings):
    answer = await server.client.chat.completions.create(
        **{"model": model, "temperature": 0, "messages": [{"role": "user", "content": text}]} | settings
    )
    return answer.choices[0].message.content


async def post(server, path, body):
    async with httpx2.AsyncClient() as client:
        return await client.post(server.url + path, json=body)


async def models(server):
    return {model.id: model async for model in server.client.models.list()}


def test_an_adapter_that_appears_can_be_used_at_once_and_one_that_goes_is_gone(tmp_path):
    async def check(server):
        before = set(await models(server))
        write_adapter(tmp_path / "fr")
        used = await ask(server, "fr")
        during = await models(server)
        (tmp_path / "fr" / "adapter_config.json").unlink()
        with pytest.raises(openai.NotFoundError):
            await ask(server, "fr")
        return before, used, during, set(await models(server))

    before, used, during, after = at_server(check, adapters=tmp_path)

    assert (before, after) == ({"speller"}, {"speller"})
    assert used == "Ax"
    assert (during["fr"].parent, during["fr"].tier) == ("speller", "host")


def test_adapters_and_the_base_are_mixed_in_one_batch(tmp_path):
    for name in ("de", "fr"):
        write_adapter(tmp_path / name)

    async def check(server):
        await ask(server, "de"), await ask(server, "fr")
        return await asyncio.gather(*(ask(server, name, "hi") for name in ("fr", "speller", "de", "fr")))

    assert at_server(check, adapters=tmp_path) == ["Bhi", "hi", "Ahi", "Bhi"]


def test_an_unchanged_adapter_is_registered_once_and_a_replaced_one_again(tmp_path):
    write_adapter(tmp_path / "fr", seed=1)

    async def check(server):
        await asyncio.gather(*(ask(server, "fr") for _ in range(5)))
        first = list(server.slots.registered)
        write_adapter(tmp_path / "new", seed=2)
        (tmp_path / "new" / "adapter_model.safetensors").replace(tmp_path / "fr" / "adapter_model.safetensors")
        await ask(server, "fr")
        generations = [info.generation for info in server.backend.registry.report(()) if info.name == "fr"]
        return first, list(server.slots.registered), generations

    assert at_server(check, adapters=tmp_path) == (["fr"], ["fr", "fr"], [2])


def test_a_request_that_runs_while_its_adapter_is_replaced_ends_on_the_old_one(tmp_path):
    write_adapter(tmp_path / "fr", seed=1)

    async def check(server):
        stream = await server.client.chat.completions.create(
            model="fr", messages=[{"role": "user", "content": "x"}], temperature=0, max_tokens=300, stream=True
        )
        first = await anext(stream)
        write_adapter(tmp_path / "fr", seed=2, rank=3)
        await ask(server, "fr", max_tokens=1)
        texts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
        return (first.choices[0].delta.content or "") + "".join(texts), server.slots.registered

    text, registered = at_server(check, adapters=tmp_path, runner=Endless())

    assert text == ("abcdefghijklmnopqrstuvwxyz" * 12)[:300]
    assert registered == ["fr", "fr"]


def test_requests_load_and_unload_adapters_where_that_is_allowed(tmp_path):
    write_adapter(tmp_path / "store" / "v1")
    write_adapter(tmp_path / "store" / "v2", seed=2)

    async def check(server):
        load = {"lora_name": "fr", "lora_path": "store/v1"}
        steps = [
            await post(server, "/v1/load_lora_adapter", load),
            await post(server, "/v1/load_lora_adapter", load | {"lora_path": "store/v2"}),
            await post(server, "/v1/load_lora_adapter", load | {"lora_path": "store/v2", "load_inplace": True}),
        ]
        text = await ask(server, "fr")
        steps.append(await post(server, "/v1/unload_lora_adapter", {"lora_name": "fr"}))
        steps.append(await post(server, "/v1/unload_lora_adapter", {"lora_name": "fr"}))
        with pytest.raises(openai.NotFoundError):
            await ask(server, "fr")
        return [step.status_code for step in steps], text, server.slots.registered

    statuses, text, registered = at_server(check, adapters=tmp_path, runtime_adapters=True)

    assert statuses == [200, 400, 200, 200, 404]
    assert (text, registered) == ("Ax", ["fr", "fr"])


def test_requests_change_no_adapters_where_that_is_not_allowed(tmp_path):
    write_adapter(tmp_path / "fr")

    async def check(server):
        load = await post(server, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "fr"})
        return load, await post(server, "/v1/unload_lora_adapter", {"lora_name": "fr"}), await ask(server, "fr")

    load, unload, text = at_server(check, adapters=tmp_path)

    assert (load.status_code, unload.status_code, text) == (403, 403, "Ax")
    assert "--allow-runtime-adapters" in load.json()["error"]["message"]


@pytest.mark.parametrize("path", ["../outside", "/etc", "link", "inner/../../outside", ".", "x\0y"])
def test_a_path_outside_the_directory_is_forbidden_however_it_is_spelled(tmp_path, path):
    inside = tmp_path / "adapters"
    write_adapter(tmp_path / "outside")
    write_adapter(inside / "inner")
    (inside / "link").symlink_to(tmp_path / "outside")

    async def check(server):
        response = await post(server, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path})
        return response, set(await models(server))

    response, listed = at_server(check, adapters=inside, runtime_adapters=True)

    assert response.status_code == 403
    assert listed == {"speller", "inner"}


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a" * 129, "é"])
def test_a_name_that_is_no_name_is_refused(tmp_path, name):
    write_adapter(tmp_path / "fr")

    async def check(server):
        body = {"lora_name": name, "lora_path": "fr"}
        response = await post(server, "/v1/load_lora_adapter", body)
        return response, set(await models(server))

    response, listed = at_server(check, adapters=tmp_path, runtime_adapters=True)

    assert response.status_code == 400
    assert listed == {"speller", "fr"}


def hostile(path, kind, *, shape=SHAPE):
    """An adapter directory that must not be loaded, and what the refusal has to name."""
    weights = write_adapter(path, shape=shape) / "adapter_model.safetensors"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    hidden, out = shape.hidden, shape.q_width
    a, b = torch.ones(2, hidden), torch.ones(out, 2)
    if kind == "pickle":
        weights.unlink()
        (path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        return "a pickle is never opened"
    if kind == "header":
        weights.write_bytes(struct.pack("<Q", 10 << 30) + b"{}")
        return "adapter_model.safetensors"
    if kind == "huge":
        with weights.open("r+b") as stream:
            stream.truncate(10 << 30)
        return "expected at most"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
        return "adapter_model.safetensors"
    if kind == "shape":
        a = torch.ones(2, hidden + 1)
    elif kind == "nan":
        a[0, 0] = torch.nan
    elif kind == "rank 0":
        a, b = torch.ones(0, hidden), torch.ones(out, 0)
    elif kind == "rank 300":
        a, b = torch.ones(300, hidden), torch.ones(out, 300)
    elif kind == "config":
        (path / "adapter_config.json").write_text("[" * 100_000)
        return "adapter_config.json"
    save_file({name.format("A"): a, name.format("B"): b}, weights)
    return "lora_A.weight"


KINDS = ["pickle", "header", "huge", "truncated", "shape", "nan", "rank 0", "rank 300", "config"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_adapter_is_refused_by_name_and_harms_nobody_else(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = hostile(tmp_path / "adapters" / "bad", kind)
    write_adapter(tmp_path / "adapters" / "good")

    async def check(server):
        refused = []
        for _ in range(2):
            with pytest.raises(openai.BadRequestError) as caught:
                await ask(server, "bad")
            refused.append(caught.value.body)
        load = await post(server, "/v1/load_lora_adapter", {"lora_name": "other", "lora_path": "bad"})
        text = await ask(server, "good")
        infos = {info.name: info for info in server.backend.registry.report(())}
        return refused, load, text, infos, server.leaks()

    refused, load, text, infos, leaks = at_server(check, adapters=tmp_path / "adapters", runtime_adapters=True)

    assert all(named in body["message"] for body in refused)
    assert [body["code"] for body in refused] == ["invalid_adapter"] * 2
    assert load.status_code == 400
    assert text == "Ax"
    assert (infos["bad"].tier, infos["good"].tier) == ("broken", "host")
    assert "other" not in infos
    assert leaks == (0, 0)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("path", ["absent", "a" * 5000])
def test_a_path_that_leads_nowhere_is_a_bad_adapter(tmp_path, path):
    async def check(server):
        return await post(server, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path})

    response = at_server(check, adapters=tmp_path, runtime_adapters=True)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_adapter")


def test_a_failed_replacement_leaves_the_loaded_one_in_place(tmp_path):
    write_adapter(tmp_path / "fr")
    hostile(tmp_path / "bad", "nan")

    async def check(server):
        await ask(server, "fr")
        body = {"lora_name": "fr", "lora_path": "bad", "load_inplace": True}
        response = await post(server, "/v1/load_lora_adapter", body)
        return response.status_code, await ask(server, "fr"), server.slots.registered

    assert at_server(check, adapters=tmp_path, runtime_adapters=True) == (400, "Ax", ["fr"])


def test_a_thousand_registered_adapters_are_not_read_until_they_are_asked_for(tmp_path):
    one = write_adapter(tmp_path / "a0")
    for at in range(1, 1000):
        (tmp_path / f"a{at}").mkdir()
        for file in one.iterdir():
            (tmp_path / f"a{at}" / file.name).hardlink_to(file)

    async def check(server):
        listed = await models(server)
        await ask(server, "a7")
        return len(listed), server.slots.registered

    assert at_server(check, adapters=tmp_path) == (1001, ["a7"])


def test_lora_adapters_says_what_is_known_of_each(tmp_path):
    write_adapter(tmp_path / "fr", rank=3)

    async def check(server):
        await ask(server, "fr")
        async with httpx2.AsyncClient() as client:
            return (await client.get(f"{server.url}/v1/lora_adapters")).json()["data"]

    (info,) = at_server(check, adapters=tmp_path)

    assert (info["name"], info["rank"], info["uses"], info["tier"], info["generation"]) == ("fr", 3, 1, "host", 1)
    assert len(info["digest"]) == 32
    assert json.loads((tmp_path / "fr" / "adapter_config.json").read_text())["r"] == 3
