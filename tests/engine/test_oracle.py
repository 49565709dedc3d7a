"""The engine's model side against transformers and PEFT on the real SmolLM2: greedy tokens, logits, logprobs.

Greedy decoding is checked by teacher forcing: one transformers forward over prompt and our answer. If every token of
ours is transformers' argmax given the tokens before it, then by induction `generate(do_sample=False)` gives the same
answer; where one is not, its logit must lie within the tie rule of the maximum.
"""

import pytest
import torch

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.runner import Runner

pytestmark = pytest.mark.xdist_group("smollm2")
TIE = 1e-3
NEW_TOKENS = 64


def runner_for(model, *, slots=0):
    pool = AdapterPool(model.config, slots=slots, rank_max=64, dtype=model.decoder.dtype)
    return Runner(model.decoder, pool, rows=48, max_len=512), pool


@torch.inference_mode()
def forced_gaps(reference, prompt, answer):
    """Per answer token: transformers' best logit minus the logit of our token."""
    ids = torch.tensor([prompt + answer[:-1]])
    logits = reference(ids).logits[0, len(prompt) - 1 :].float()
    chosen = logits[torch.arange(len(answer)), torch.tensor(answer)]
    return logits.max(dim=-1).values - chosen


@pytest.fixture(scope="module")
def answers(smollm2, prompts, greedy):
    runner, _ = runner_for(smollm2)
    return greedy(runner, prompts, new_tokens=NEW_TOKENS, eos_ids=smollm2.tokenizer.eos_ids)


def test_greedy_answers_to_forty_prompts_are_those_of_transformers(reference, prompts, answers):
    gaps = [forced_gaps(reference, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    assert max(float(gap.max()) for gap in gaps) < TIE
    assert sum(bool((gap > 0).any()) for gap in gaps) <= len(prompts) // 100 + 1


def test_a_first_answer_equals_what_generate_returns(reference, prompts, answers):
    ids = torch.tensor([prompts[0]])
    with torch.inference_mode():
        full = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)

    assert full[0, ids.shape[1] :].tolist() == answers[0][:24]


def test_prompts_in_chunks_give_the_same_answers(smollm2, prompts, answers, greedy):
    runner, _ = runner_for(smollm2)
    few = slice(0, 4)

    chunked = greedy(runner, prompts[few], new_tokens=16, eos_ids=smollm2.tokenizer.eos_ids, chunk_tokens=7)

    assert [answer[:16] for answer in answers[few]] == chunked


def test_a_mixed_batch_of_adapters_equals_peft_one_by_one(smollm2, prompts, peft_adapters, greedy):
    names = list(peft_adapters)
    runner, pool = runner_for(smollm2, slots=8)
    for name, (path, _) in peft_adapters.items():
        pool.register(name, path)
    slots = [pool.acquire(name) for name in names]
    mixed = greedy(
        runner, prompts[: len(names) + 1], new_tokens=24, eos_ids=smollm2.tokenizer.eos_ids, slots=[*slots, -1]
    )

    for name, prompt, answer in zip(names, prompts, mixed, strict=False):
        adapted = peft_adapters[name][1]
        assert float(forced_gaps(adapted, prompt, answer).max()) < TIE, name
    assert float(forced_gaps(peft_adapters[names[0]][1].unload(), prompts[len(names)], mixed[-1]).max()) < TIE
