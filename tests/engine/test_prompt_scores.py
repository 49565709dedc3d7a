"""Log-probabilities of prompts: those of the definition, whatever is cached, cut, preempted or beside it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from llmsys.engine import Request, RequestError, SamplingParams

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]


def scored(prompt, alternatives=2, tokens=4, **fields):
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, prompt_logprobs=alternatives)
    return Request(prompt, replace(params, **fields))


def expected(parts, prompt):
    """Log-softmax of the definition's logits after each token, at the token that follows."""
    state, found = b"", []
    for token, following in pairwise(prompt):
        state = parts.follow(state, token, b"")
        logits = parts.logits_of(state).astype(np.float64)
        found.append(logits[following] - np.log(np.exp(logits).sum()))
    return found


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_batch_tokens": 3}, {"chunked_prefill": False}, {"blocks": 9, "max_preemptions": 2}],
    ids=["whole", "chunks", "uncut", "preempted"],
)
def test_every_token_from_the_second_on_has_its_probability(parts, settings):
    engine = parts.make_engine(**settings)
    first = engine.generate([Request(PROMPT, SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True))])
    others = [parts.greedy_request([i, *PROMPT], 9) for i in range(3)]

    done = engine.generate([scored(PROMPT), *others, scored(PROMPT[:1]), scored(PROMPT[:7])])

    assert first[0].prompt_logprobs == ()
    for completion, prompt in ((done[0], PROMPT), (done[4], PROMPT[:1]), (done[5], PROMPT[:7])):
        np.testing.assert_allclose([own for own, _ in completion.prompt_logprobs], expected(parts, prompt), atol=1e-5)
        assert completion.cached_tokens == 0
    assert done[1].prompt_logprobs == ()
    assert done[0].token_ids == parts.expected_greedy(PROMPT, 4)


def test_the_likeliest_tokens_come_with_it_most_likely_first(parts):
    (done,) = parts.make_engine().generate([scored(PROMPT[:3], alternatives=3)])

    state = parts.follow(b"", PROMPT[0], b"")
    likeliest = np.argsort(-parts.logits_of(state))[:3].tolist()
    assert [token for token, _ in done.prompt_logprobs[0][1]] == likeliest
    assert all(len(top) == 3 for _, top in done.prompt_logprobs)


def test_of_several_choices_the_first_carries_the_prompts_scores(parts):
    done = parts.make_engine().generate([scored(PROMPT, n=3, temperature=1.0, seed=1)])

    assert [len(completion.prompt_logprobs) for completion in done] == [len(PROMPT) - 1, 0, 0]


def test_a_fork_or_an_extension_has_no_prompt_to_score(parts):
    engine = parts.make_engine()
    number = engine.add(scored(PROMPT))
    parts.drain(engine)

    with pytest.raises(RequestError, match="prompt_logprobs"):
        engine.fork(number)
    with pytest.raises(RequestError, match="prompt_logprobs"):
        engine.extend(number, [3])
    engine.extend(number, [3], sampling=SamplingParams(max_tokens=2, temperature=0.0))
    (last,) = [event for event in parts.drain(engine) if event.finish]

    assert last.prompt_logprobs == ()
