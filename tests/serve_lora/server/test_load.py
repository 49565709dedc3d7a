"""Many adapters, many clients, over the real engine: right answers, no waiting for others' disks, nothing leaked."""

import asyncio
import json
import os

import jsonschema
import numpy as np
import openai
import pytest

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.loader import find_model, read_config
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.serve_lora.cost_report import read_ledger, report_cost
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.random_adapters import write_random_adapter
from tests.serve_lora.server.conftest import at_server, write_adapter

pytestmark = pytest.mark.slow

PROMPTS = ("abc", "what?", "one two")
ZIPF = 1.1


def many_adapters(place, contents, count):
    """`count` adapters by name, the files of `contents` (directories) in turn."""
    for number in range(count):
        (place / f"a{number:04d}").mkdir(parents=True)
        for file in contents[number % len(contents)].iterdir():
            os.link(file, place / f"a{number:04d}" / file.name)
    return place


def zipf_numbers(count, draws, seed):
    """Adapter numbers with shares in proportion to (rank + 1)^-ZIPF."""
    shares = np.arange(1, count + 1) ** -ZIPF
    return np.random.default_rng(seed).choice(count, size=draws, p=shares / shares.sum()).tolist()


def alone(model, paths, tokens, dtype="float32"):
    """Each prompt's greedy text with each adapter (None is the base), one at a time."""
    engine = Engine.load(model, config=EngineConfig(dtype=dtype, max_sequences=1))
    texts = {}
    for number, path in [(None, None), *enumerate(paths)]:
        if path is not None:
            engine.adapters.register(f"{number}", path)
        for prompt in PROMPTS:
            sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
            adapter = None if number is None else f"{number}"
            (answer,) = engine.generate([Request(prompt, sampling, adapter=adapter)])
            texts[number, prompt] = answer.text
    return texts


async def complete(server, model, prompt, tokens, **more):
    answer = await server.client.completions.create(
        model=model, prompt=prompt, max_tokens=tokens, temperature=0, extra_body={"ignore_eos": True} | more
    )
    return answer.choices[0].text


@pytest.fixture
def contents(tiny_model, tmp_path):
    shape = read_config(tiny_model)
    return [write_adapter(tmp_path / f"content{at}", seed=at, rank=1 + at % 3, shape=shape) for at in range(7)]


@pytest.mark.parametrize("host_bytes", [1 << 30, 50_000])
def test_a_thousand_adapters_share_thirty_two_slots(tiny_model, contents, tmp_path, host_bytes):
    """Every answer is its own adapter's; no step waits for a disk while the host has room for what is asked for."""
    place = many_adapters(tmp_path / "adapters", contents, 1000)
    numbers = zipf_numbers(1000, 300, seed=4)
    expected = alone(str(tiny_model), contents, 4)

    async def check(server):
        own = (complete(server, f"a{at:04d}", PROMPTS[i % 3], 4) for i, at in enumerate(numbers))
        base = (complete(server, server.backend.names[0], prompt, 4) for prompt in PROMPTS * 20)
        texts = await asyncio.gather(*own, *base)
        await server.idle()
        shelf, resident = server.backend.shelf, server.backend.pool.resident()
        return texts, shelf.reads, shelf.late_reads, len(resident), server.leaks()

    texts, reads, late_reads, resident, leaks = at_server(
        check,
        model=str(tiny_model),
        adapters=place,
        dtype="float32",
        max_sequences=48,
        host_adapters_bytes=host_bytes,
    )

    wanted = [expected[at % 7, PROMPTS[i % 3]] for i, at in enumerate(numbers)]
    assert texts == wanted + [expected[None, prompt] for prompt in PROMPTS * 20]
    assert len(set(wanted)) > 7
    assert resident == 32 < len(set(numbers))
    assert leaks == (0, 0)
    if host_bytes == 1 << 30:
        assert (reads, late_reads) == (len(set(numbers)), 0)
    else:
        assert reads > len(set(numbers))


def test_an_adapter_replaced_under_load_answers_as_old_or_new_and_never_as_both(tiny_model, contents, tmp_path):
    """Requests that begin after the change are new; those under way end as they began; the base is not disturbed."""
    expected = alone(str(tiny_model), contents[:2], 40)
    place = many_adapters(tmp_path / "adapters", contents[:1], 1)

    async def check(server):
        before = [asyncio.create_task(complete(server, "a0000", prompt, 40)) for prompt in PROMPTS * 4]
        while server.engine.stats().running < 4:
            await asyncio.sleep(0)
        for file in contents[1].iterdir():
            os.link(file, place / "new")
            os.replace(place / "new", place / "a0000" / file.name)
        after = [complete(server, "a0000", prompt, 40) for prompt in PROMPTS * 4]
        base = [complete(server, server.backend.names[0], prompt, 40) for prompt in PROMPTS]
        found = await asyncio.gather(*before, *after, *base)
        await server.idle()
        return found, server.leaks()

    found, leaks = at_server(check, model=str(tiny_model), adapters=place, dtype="float32", max_sequences=8)

    for text, prompt in zip(found[:12], PROMPTS * 4, strict=True):
        assert text in (expected[0, prompt], expected[1, prompt])
    assert found[12:24] == [expected[1, prompt] for prompt in PROMPTS * 4]
    assert found[:4] != found[12:16]
    assert found[24:] == [expected[None, prompt] for prompt in PROMPTS]
    assert leaks == (0, 0)


def test_a_pinned_adapter_keeps_its_slot_whatever_is_asked_for(tiny_model, contents, tmp_path):
    place = many_adapters(tmp_path / "adapters", contents, 12)

    async def post(server, path):
        return await server.client.post(path, cast_to=object, body={})

    async def check(server):
        await post(server, "/lora_adapters/a0003/pin")
        await asyncio.gather(*(complete(server, f"a{at:04d}", "x", 2) for at in range(12)))
        pinned = server.backend.pool.resident()
        with pytest.raises(openai.BadRequestError) as caught:
            await post(server, "/lora_adapters/a0004/pin")
        reports = {info.name: info for info in server.backend.registry.report(pinned)}
        await post(server, "/lora_adapters/a0003/unpin")
        await asyncio.gather(*(complete(server, f"a{at:04d}", "y", 2) for at in (5, 6)))
        await server.idle()
        with pytest.raises(openai.NotFoundError):
            await post(server, "/lora_adapters/none/pin")
        return pinned, reports, caught.value.body, server.backend.pool.resident(), server.leaks()

    pinned, reports, refused, after, leaks = at_server(
        check, model=str(tiny_model), adapters=place, lora_slots=2, runtime_adapters=True, max_sequences=2
    )

    assert "a0003" in pinned
    assert [name for name, info in reports.items() if info.pinned] == ["a0003"]
    assert refused["code"] == "too_many_pins"
    assert after == ("a0005", "a0006")
    assert leaks == (0, 0)


def test_an_answer_that_is_to_be_json_is_json(tiny_model):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}}}

    async def check(server):
        async def ask(**more):
            messages = [{"role": "user", "content": "x"}]
            answer = await server.client.chat.completions.create(
                **{"model": server.backend.names[0], "messages": messages, "response_format": wanted} | more
            )
            return answer.choices[0].message.content

        texts = await asyncio.gather(*(ask(seed=seed) for seed in range(6)))
        with pytest.raises(openai.BadRequestError) as several:
            await ask(n=2)
        with pytest.raises(openai.BadRequestError) as broken:
            await ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "y"}}})
        return texts, several.value.body, broken.value.body

    texts, several, broken = at_server(check, model=str(tiny_model), dtype="float32")

    for text in texts:
        jsonschema.validate(json.loads(text), schema)
    assert several["param"] == "response_format"
    assert broken["code"] == "invalid_value"


def test_the_ledger_is_the_machines_time_and_says_what_each_answer_cost(tiny_model, contents, tmp_path):
    """Charged, overhead and idle time add up to the time that the server was up; headers to what was charged."""
    place = many_adapters(tmp_path / "adapters", contents, 7)

    async def check(server):
        async def cost(at):
            raw = await server.client.completions.with_raw_response.create(
                model=f"a{at % 7:04d}", prompt="hello", max_tokens=8, user=f"t{at % 3}"
            )
            return float(raw.headers["x-llmsys-cost"].split()[0])

        costs = await asyncio.gather(*(cost(at) for at in range(20)))
        await server.idle()
        return costs, dict(server.backend.meter.device_s)

    costs, device_s = at_server(
        check,
        model=str(tiny_model),
        adapters=place,
        ledger=tmp_path / "ledger.jsonl",
        cost_header=True,
        prices=PriceList(device_per_hour=3600.0),
    )
    runs, torn = read_ledger(tmp_path / "ledger.jsonl")
    report = report_cost(runs, by=["tenant"], idle="platform", prices=None, torn_lines=torn)

    assert sum(costs) == pytest.approx(sum(device_s.values()), rel=1e-3)
    assert set(device_s) == {"t0", "t1", "t2"}
    assert {row.group["tenant"]: row.device_s for row in report.rows} == pytest.approx(device_s, rel=1e-3)
    assert report.balance.holds
    windows = runs[0].windows
    up_s = windows[-1].start_s + windows[-1].wall_s - windows[0].start_s
    spent_s = sum(sum(p.device_s for p in w.parts) + w.overhead_s + w.idle_s for w in windows)
    assert up_s == pytest.approx(spent_s, rel=0.01)
    assert report.balance.owed == pytest.approx(up_s, rel=0.01)


@pytest.mark.slow
def test_a_thousand_adapters_on_the_real_model(tmp_path):
    """SmolLM2 with 1,000 names, 32 slots, a Zipf load: right answers, and no step that waits for a disk."""
    shape = read_config(find_model("smollm2"))
    contents = [write_random_adapter(tmp_path / f"content{at}", shape, rank=8, seed=at) for at in range(3)]
    place = many_adapters(tmp_path / "adapters", contents, 1000)
    numbers = zipf_numbers(1000, 120, seed=4)

    async def check(server):
        texts = await asyncio.gather(*(complete(server, f"a{at:04d}", "The capital of", 8) for at in numbers))
        await server.idle()
        return texts, server.backend.shelf.late_reads, len(server.backend.pool.resident()), server.leaks()

    texts, late_reads, resident, leaks = at_server(
        check, model="smollm2", adapters=place, max_sequences=32, dtype="float32", host_adapters_bytes=4 << 30
    )

    by_content = {
        at: {text for text, number in zip(texts, numbers, strict=True) if number % 3 == at} for at in range(3)
    }
    assert [len(found) for found in by_content.values()] == [1, 1, 1]
    assert (late_reads, resident, leaks) == (0, 32, (0, 0))
