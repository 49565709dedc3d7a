import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.logits import changes_logits, end_tokens, transform_logits
from llmsys.engine.sequence import Request, SamplingParams, Sequence

EOS = frozenset({2})
VOCAB = 12


def sequence(ids, prompt, **params):
    return Sequence(0, Request(tuple(ids[:prompt]), SamplingParams(**params)), list(ids), prompt, max_tokens=99)


def by_definition(row, item):
    """One token after the other, as the OpenAI documentation and the CTRL paper (§4.1) define the penalties."""
    params = item.request.sampling
    output = item.token_ids[item.prompt_tokens :]
    row = row.astype(np.float64)
    for token in set(item.token_ids):
        row[token] = (
            row[token] / params.repetition_penalty if row[token] > 0 else row[token] * params.repetition_penalty
        )
    for token in set(output):
        row[token] -= params.presence_penalty + params.frequency_penalty * output.count(token)
    for token, bias in params.logit_bias.items():
        row[token] += bias
    if len(output) < params.min_tokens:
        row[list(EOS)] = -np.inf
    if params.allowed_token_ids is not None:
        row[[t for t in range(VOCAB) if t not in params.allowed_token_ids]] = -np.inf
    return row


items = st.builds(
    sequence,
    st.lists(st.integers(0, VOCAB - 1), min_size=3, max_size=20),
    st.integers(1, 3),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
    presence_penalty=st.sampled_from([0.0, -1.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.5, 2.0]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=4),
    min_tokens=st.integers(0, 20),
    allowed_token_ids=st.none() | st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5),
)


@settings(max_examples=150, deadline=None)
@given(batch=st.lists(items, min_size=1, max_size=5), seed=st.integers(0, 999))
def test_a_batch_of_transforms_is_each_rows_definition(batch, seed):
    raw = np.random.default_rng(seed).normal(size=(len(batch), VOCAB)).astype(np.float32)
    logits = torch.from_numpy(raw.copy())

    transform_logits(logits, batch, EOS)

    for row, item in enumerate(batch):
        np.testing.assert_allclose(logits[row].numpy(), by_definition(raw[row], item), rtol=1e-5, atol=1e-5)
        if not changes_logits(item):
            assert np.array_equal(raw[row], logits[row].numpy())


def test_the_processor_sees_prompt_and_output_and_comes_last():
    seen = []

    def processor(ids, logits):
        seen.append((ids, logits.clone()))
        logits[4] = 7.0

    logits = torch.zeros(1, VOCAB)
    transform_logits(logits, [sequence([1, 3, 5], 2, logits_processor=processor, logit_bias={4: 3.0})], EOS)

    assert seen[0][0] == (1, 3, 5)
    assert seen[0][1][4] == 3.0
    assert logits[0, 4] == 7.0


@pytest.mark.parametrize(
    "params", [{"logit_bias": {-1: 5.0, VOCAB: 5.0}}, {"min_tokens": 3, "stop_token_ids": [VOCAB + 7]}]
)
def test_tokens_outside_the_vocabulary_are_left_alone(params):
    logits = torch.zeros(1, VOCAB)

    transform_logits(logits, [sequence([1], 1, ignore_eos=True, **params)], EOS)

    assert not logits.any()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {2}),
        ({"ignore_eos": True}, set()),
        ({"stop_token_ids": [5, 6]}, {2, 5, 6}),
        ({"stop_token_ids": [5], "ignore_eos": True}, {5}),
    ],
)
def test_answers_end_with_eos_and_the_requests_own_tokens(params, expected):
    assert end_tokens(SamplingParams(**params), EOS) == expected
