"""The engine's model side against transformers and PEFT on the real SmolLM2: greedy tokens, logits, logprobs.

Greedy decoding is checked by teacher forcing: one transformers forward over prompt and our answer. If every token of
ours is transformers' argmax given the tokens before it, then by induction `generate(do_sample=False)` gives the same
answer; where one is not, its logit must lie within the tie rule of the maximum.
"""

import copy

import pytest
import torch

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.loader import _read, load_model
from llmsys.engine.lora import HostAdapters
from llmsys.engine.named_weights import CODES, NamedWeights, build_decoder
from llmsys.engine.runner import Runner
from llmsys.engine.sequence import Chunk, Plan, Request, Sequence

pytestmark = pytest.mark.xdist_group("smollm2")
TIE = 1e-3
ALL_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEW_TOKENS = 64


def runner_for(model, *, slots=0):
    memory = HostAdapters(model.config, dtype=model.decoder.dtype, decoder=model.decoder)
    pool = AdapterPool(model.config, slots=slots, rank_max=64, dtype=model.decoder.dtype, memory=memory)
    return Runner.on_rows(model.decoder, pool, rows=48, max_len=512), pool


def first_plan(ids):
    return Plan(
        (Chunk(Sequence(0, Request(prompt=ids), list(ids), prompt_tokens=len(ids)), 0, len(ids), samples=True),)
    )


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


ADAPTERS = {
    "all": {"r": 8, "target_modules": ALL_TARGETS},
    "narrow": {"r": 3, "target_modules": ["q_proj", "v_proj"], "lora_alpha": 24},
    "stable": {"r": 16, "target_modules": ["o_proj", "down_proj"], "use_rslora": True},
    "dora": {"r": 6, "target_modules": ALL_TARGETS, "use_dora": True},
    "early": {"r": 12, "target_modules": ["gate_proj", "k_proj"], "layers_to_transform": [0, 1, 7]},
    "uneven": {
        "r": 4,
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"up_proj": 10},
        "alpha_pattern": {"layers.3.mlp.up_proj": 2},
    },
}


@pytest.fixture(scope="module")
def adapted(reference, tmp_path_factory):
    """PEFT's model with random adapters of different ranks, targets and scales, and the directory of each."""
    from peft import LoraConfig, PeftModel

    torch.manual_seed(5)
    root = tmp_path_factory.mktemp("peft")
    model = None
    for name, settings in ADAPTERS.items():
        config = LoraConfig(**settings, init_lora_weights=False, task_type="CAUSAL_LM")
        if model is None:
            model = PeftModel(copy.deepcopy(reference), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.mul_(0.1)
    model.save_pretrained(root)
    return model.eval(), root


def test_a_mixed_batch_of_adapters_equals_peft_one_by_one(smollm2, prompts, answers, adapted, greedy):
    model, root = adapted
    names = list(ADAPTERS)
    runner, pool = runner_for(smollm2, slots=8)
    for name in names:
        pool.register(name, root / name)
    slots = [pool.acquire(name) for name in names]

    mixed = greedy(
        runner, prompts[: len(names) + 1], new_tokens=24, eos_ids=smollm2.tokenizer.eos_ids, slots=[*slots, -1]
    )

    for name, prompt, answer in zip(names, prompts, mixed, strict=False):
        model.set_adapter(name)
        assert float(forced_gaps(model, prompt, answer).max()) < TIE, name
    assert answers[len(names)][: len(mixed[-1])] == mixed[-1]
    assert mixed[: len(names)] != [answer[:24] for answer in answers[: len(names)]]


@pytest.fixture(scope="module")
def half():
    """The model in bfloat16 without its 4-bit codes."""
    return load_model("smollm2", device=torch.device("cpu"), dtype=torch.bfloat16)


def test_bfloat16_answers_are_within_its_rounding_of_the_reference(half, smollm2, reference, prompts, greedy):
    found = greedy(runner_for(half)[0], prompts[:4], new_tokens=24, eos_ids=smollm2.tokenizer.eos_ids)

    gaps = [float(forced_gaps(reference, prompt, answer).max()) for prompt, answer in zip(prompts, found, strict=False)]
    assert max(gaps) < 0.25


def test_four_bit_codes_stay_near_the_weights_that_they_mean(half, smollm2, reference, prompts, greedy):
    few = load_model("smollm2", device=torch.device("cpu"), dtype=torch.bfloat16, four_bit=True)
    chosen, ends = prompts[:3], smollm2.tokenizer.eos_ids

    found = greedy(runner_for(few)[0], chosen, new_tokens=32, eos_ids=ends)

    gaps = [float(forced_gaps(reference, prompt, answer).max()) for prompt, answer in zip(chosen, found, strict=True)]
    assert max(gaps) < 0.15
    ids, plain = (runner_for(model)[0].execute(first_plan(prompts[0][:4])) for model in (few, half))
    assert not torch.equal(ids, plain)


@pytest.mark.parametrize("name", ["uneven", "dora"])
def test_logprobs_with_an_adapter_are_those_of_peft(smollm2, prompts, answers, adapted, name):
    model, root = adapted
    runner, pool = runner_for(smollm2, slots=1)
    pool.register(name, root / name)
    ids = prompts[1] + answers[1][:8]
    sequence = Sequence(0, Request(prompt=ids), ids, prompt_tokens=len(ids), adapter_slot=pool.acquire(name))
    ours = runner.execute(Plan((Chunk(sequence, 0, len(ids), samples=True, scores=True),))).log_softmax(dim=-1)
    model.set_adapter(name)
    with torch.inference_mode():
        theirs = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)

    likely = theirs.topk(1000).indices
    torch.testing.assert_close(ours.gather(1, likely), theirs.gather(1, likely), rtol=0, atol=1e-3)


def test_weights_quantised_on_request_answer_like_what_their_codes_mean(smollm2, reference, prompts, greedy, caplog):
    """quant="int4" on a file without codes, against transformers on the weights that the new codes mean."""
    path = smollm2.path
    values, tensors = _read(path, torch.bfloat16)
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(CODES)}
    decoder = build_decoder(
        smollm2.config, NamedWeights(path, plain, quantise=True), tied=values["tie_word_embeddings"]
    )
    meant = copy.deepcopy(reference)
    for index, layer in enumerate(meant.model.layers):
        for group, parts in (("qkv", "qkv"), ("gate_up", ("gate", "up")), ("o", "o"), ("down", ("down",))):
            modules = [getattr(layer.self_attn if len(part) == 1 else layer.mlp, f"{part}_proj") for part in parts]
            rows = decoder.projection(index, group).dense().float().split([module.out_features for module in modules])
            for module, weight in zip(modules, rows, strict=True):
                module.weight.data = weight
    pool = AdapterPool(smollm2.config, slots=0, rank_max=1, dtype=torch.bfloat16)
    runner = Runner.on_rows(decoder, pool, rows=4, max_len=256)

    found = greedy(runner, prompts[:3], new_tokens=24, eos_ids=smollm2.tokenizer.eos_ids)

    gaps = [float(forced_gaps(meant, prompt, answer).max()) for prompt, answer in zip(prompts, found, strict=False)]
    assert max(gaps) < 0.15
    assert "were quantised, which moved them by" in caplog.text


def test_logprobs_are_those_of_the_reference_forward(smollm2, reference, prompts, answers):
    runner, _ = runner_for(smollm2)
    ids = prompts[0] + answers[0][:8]
    sequence = Sequence(0, Request(prompt=ids), ids, prompt_tokens=len(ids))
    ours = runner.execute(Plan((Chunk(sequence, 0, len(ids), samples=True, scores=True),))).log_softmax(dim=-1)
    with torch.inference_mode():
        theirs = reference(torch.tensor([ids])).logits[0].log_softmax(dim=-1)

    likely = theirs.topk(1000).indices
    following = torch.tensor(ids[1:])[:, None]
    torch.testing.assert_close(ours.gather(1, likely), theirs.gather(1, likely), rtol=0, atol=1e-3)
    torch.testing.assert_close(ours[:-1].gather(1, following), theirs[:-1].gather(1, following), rtol=0, atol=1e-3)
