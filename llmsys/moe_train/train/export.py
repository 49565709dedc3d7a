"""A checkpoint as a model directory with Mixtral's names, which transformers loads where the architecture is Mixtral's.

That is the case for `swiglu`, `norm_topk`, a mixture in every layer and no balance bias; other models get the same
names for what they have and a `model_type` that nobody else claims. Knows no training.
"""

from collections.abc import Iterator
from pathlib import Path

import orjson
from torch import Tensor

from llmsys.artifacts import write_tensors
from llmsys.moe_train.train.checkpoint import Checkpoint
from llmsys.moe_train.train.model import EPSILON, ROPE_BASE, expert_name
from llmsys.moe_train.train.shape import ModelShape

__all__ = ["export_model", "is_mixtral"]

ATTENTION = ("q", "k", "v", "o")


def is_mixtral(shape: ModelShape) -> bool:
    """Whether transformers' Mixtral computes the same."""
    return shape.act == "swiglu" and shape.norm_topk and shape.moe_every == 1 and shape.balance == "loss"


def export_model(checkpoint: Checkpoint, out: Path) -> int:
    """Write `config.json` and `model.safetensors` into the directory `out`; returns the number of parameters.

    Raises FileExistsError where `out` is there already.
    """
    shape = checkpoint.note.identity.model
    tensors = dict(_renamed(checkpoint, shape))
    out.mkdir(parents=True, exist_ok=False)
    write_tensors(out / "model.safetensors", tensors)
    (out / "config.json").write_bytes(orjson.dumps(_config(checkpoint), option=orjson.OPT_INDENT_2))
    return sum(one.numel() for one in tensors.values())


def _renamed(checkpoint: Checkpoint, shape: ModelShape) -> Iterator[tuple[str, Tensor]]:
    """Mixtral's name and layout of every tensor: matrices [out, in]."""
    yield "model.embed_tokens.weight", checkpoint.tensor("embedding.weight")
    for layer in range(shape.layers):
        here, there = f"blocks.{layer}.", f"model.layers.{layer}."
        yield there + "input_layernorm.weight", checkpoint.tensor(here + "before_attention.weight")
        yield there + "post_attention_layernorm.weight", checkpoint.tensor(here + "before_feed_forward.weight")
        for part in ATTENTION:
            yield f"{there}self_attn.{part}_proj.weight", checkpoint.tensor(f"{here}attention.{part}.weight")
        if layer not in shape.mixtures:
            for name, *_ in shape.matrices:
                matrix = checkpoint.tensor(f"{here}feed_forward.bank.{name}")[0]
                yield f"{there}mlp.{name}.weight", matrix.t().contiguous()
            continue
        yield there + "block_sparse_moe.gate.weight", checkpoint.tensor(here + "mixture.router.weight")
        if shape.balance == "bias":
            yield there + "block_sparse_moe.gate.bias", checkpoint.tensor(here + "mixture.bias")
        mixture = shape.mixtures.index(layer)
        for expert in range(shape.experts):
            for name, *_ in shape.matrices:
                matrix = checkpoint.tensor(expert_name(mixture, expert, name))
                yield f"{there}block_sparse_moe.experts.{expert}.{name}.weight", matrix.t().contiguous()
    yield "model.norm.weight", checkpoint.tensor("last_norm.weight")
    yield "lm_head.weight", checkpoint.tensor("head.weight")


def _config(checkpoint: Checkpoint) -> dict[str, object]:
    identity = checkpoint.note.identity
    shape = identity.model
    fits = is_mixtral(shape)
    known = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    own = {"model_type": "llmsys-moe", "act": shape.act, "norm_topk": shape.norm_topk, "moe_every": shape.moe_every}
    return (known if fits else own) | {
        "hidden_act": "silu" if shape.act == "swiglu" else "gelu",
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.d_model // shape.heads,
        "num_local_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "vocab_size": shape.vocab,
        "max_position_embeddings": identity.seq,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_BASE,
        "tie_word_embeddings": False,
        "dtype": identity.dtype,
    }
