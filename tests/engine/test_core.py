import pytest

from llmsys.engine.sequence import Request, SamplingParams

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def greedy(prompt, tokens=12, **fields):
    return Request(prompt, SamplingParams(max_tokens=tokens, **GREEDY), **fields)


PROMPTS = [[7, 8, 9], list(range(40)), [*list(range(37)), 99], [5], list(range(20))]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("block_tokens", [1, 4, 16])
@pytest.mark.parametrize("room", [64, 200])
def test_tokens_are_the_same_whatever_memory_and_chunks(parts, shared, prefix_cache, chunked, block_tokens, room):
    engine = parts.make_engine(
        blocks=room // block_tokens,
        block_tokens=block_tokens,
        prefix_cache=prefix_cache,
        chunked_prefill=chunked,
        shared=shared,
    )
    requests = [greedy(prompt, adapter=adapter) for prompt in PROMPTS for adapter in (None, "fr")]

    done = engine.generate(requests)

    for request, completion in zip(requests, done, strict=True):
        adapter = engine.slots.digest(request.adapter) if request.adapter else b""
        assert parts.expected_greedy(request.prompt, 12, adapter) == completion.token_ids
        assert completion.finish == "length"
    parts.check_blocks(engine._blocks)
    assert engine.stats().blocks.referenced == 0
    assert not +engine.slots.holds
