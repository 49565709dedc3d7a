"""The whole engine on the real SmolLM2 in float32: nothing that saves memory or time may change a token."""

import pytest

from llmsys.engine import Engine, EngineConfig, Request, RequestError, SamplingParams
from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.runner import Runner

pytestmark = pytest.mark.xdist_group("smollm2")
NEW_TOKENS = 16
GREEDY = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)


def engine_over(model, *, blocks=200, **settings):
    config = EngineConfig(**{"max_sequences": 8, "spare_rows": 8, "max_len": 512} | settings)
    pool = AdapterPool(model.config, slots=0, rank_max=64, dtype=model.decoder.dtype)
    runner = Runner.on_rows(model.decoder, pool, rows=config.kv_rows, max_len=512)
    return Engine(runner, model.tokenizer, pool, config, blocks=blocks, model=model.digest)


@pytest.fixture(scope="module")
def requests(prompts):
    """Four questions, the last of them asked twice over so that there is a prefix to find."""
    chosen = [*prompts[:3], prompts[0] + prompts[1]]
    return [Request(prompt, GREEDY) for prompt in chosen]


@pytest.fixture(scope="module")
def answers(smollm2, requests):
    engine = engine_over(smollm2, prefix_cache=False, chunked_prefill=False, max_sequences=1)
    return [completion.token_ids for completion in engine.generate(requests)]


def test_greedy_answers_are_those_of_transformers(reference, requests, answers):
    import torch

    for request, answer in zip(requests[:2], answers[:2], strict=True):
        ids = torch.tensor([list(request.prompt)])
        with torch.inference_mode():
            theirs = reference.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)

        assert tuple(theirs[0, ids.shape[1] :].tolist()) == answer


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prefix_cache": False},
        {"max_batch_tokens": 13},
        {"block_tokens": 8, "max_batch_tokens": 40},
        {"block_tokens": 32, "blocks": 50},
        {"block_tokens": 8, "blocks": 21},
    ],
    ids=str,
)
def test_memory_and_chunks_change_no_token(smollm2, requests, answers, settings):
    engine = engine_over(smollm2, **settings)

    first = [completion.token_ids for completion in engine.generate(requests)]
    again = engine.generate(requests)

    assert first == answers
    assert [completion.token_ids for completion in again] == answers
    stats = engine.stats()
    assert stats.blocks.referenced == 0
    assert (stats.preemptions > 0) == (settings.get("blocks") == 21)
    assert (stats.cached_tokens > 0) == settings.get("prefix_cache", True)


def test_parking_and_forking_change_no_token(smollm2, requests, answers):
    engine = engine_over(smollm2)
    rid = engine.add(requests[0])
    events = [event for _ in range(5) for event in engine.step()]
    engine.park(rid)
    (child,) = engine.fork(rid)
    for _ in range(3):
        events += engine.step()
    engine.resume(rid)
    while engine.busy:
        events += engine.step()

    assert tuple(e.token_id for e in events if e.request_id == rid) == answers[0]
    assert tuple(e.token_id for e in events if e.request_id == child)[: NEW_TOKENS - 5] == answers[0][5:]
    assert "".join(e.text for e in events if e.request_id == rid) == smollm2.tokenizer.decode(answers[0])


def test_load_puts_the_same_engine_together(requests, answers):
    engine = Engine.load("smollm2", config=EngineConfig(dtype="float32", max_len=256, kv_memory_bytes=64 << 20))

    assert [completion.token_ids for completion in engine.generate(requests[:2])] == answers[:2]
    assert engine.max_len == 256
    assert engine.stats().blocks.total == (64 << 20) // (16 * 2 * 30 * 192 * 4)


def test_a_budget_below_one_block_is_refused():
    with pytest.raises(RequestError, match="kv_memory_bytes is 1000; expected"):
        Engine.load("smollm2", config=EngineConfig(kv_memory_bytes=1000))
