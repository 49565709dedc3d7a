"""What is done to logits before a token is chosen: penalties, bias, allowed tokens, a grammar's mask.

Order as in transformers' logits processors: repetition, presence and frequency penalty, bias, minimum length, allowed
tokens, the caller's processor. Temperature and the cuts (top-k, top-p, min-p) belong to the sampler. Knows nothing
about models or randomness.
"""

from collections import Counter
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from llmsys.engine.sequence import SamplingParams, Sequence

__all__ = ["changes_logits", "end_tokens", "transform_logits"]


def changes_logits(sequence: Sequence) -> bool:
    """Whether `transform_logits` would do anything to this sequence's row."""
    params = sequence.request.sampling
    return bool(
        params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or params.allowed_token_ids is not None
        or params.logits_processor
        or sequence.output_tokens < params.min_tokens
    )


def end_tokens(params: SamplingParams, eos_ids: frozenset[int]) -> frozenset[int]:
    """Return the tokens that end an answer under these parameters."""
    return frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_ids)


def transform_logits(logits: Tensor, sequences: Items[Sequence], eos_ids: frozenset[int]) -> None:
    """Apply every sequence's own transforms to its row, in place.

    Shapes: logits [n, vocab] float32, one row per sequence. Token ids outside the vocabulary are ignored in biases.
    """
    _penalise(logits, sequences)
    _add_bias(logits, sequences)
    for row, sequence in enumerate(sequences):
        params = sequence.request.sampling
        if sequence.output_tokens < params.min_tokens:
            logits[row, _index(sorted(end_tokens(params, eos_ids)), logits)] = -torch.inf
        if params.allowed_token_ids is not None:
            allowed = _index(params.allowed_token_ids, logits)
            kept = logits[row, allowed]
            logits[row] = -torch.inf
            logits[row, allowed] = kept
        if params.logits_processor is not None:
            params.logits_processor(tuple(sequence.token_ids), logits[row])


def _penalise(logits: Tensor, sequences: Items[Sequence]) -> None:
    """Repetition over prompt and output (divide if positive, else multiply); presence and frequency over the output."""
    drawn = [(sequence, sequence.request.sampling) for sequence in sequences]
    rows, tokens, strength, _ = _occurrences(
        logits, [(s.token_ids, p.repetition_penalty, p.repetition_penalty != 1) for s, p in drawn]
    )
    values = logits[rows, tokens]
    logits[rows, tokens] = torch.where(values > 0, values / strength, values * strength)
    outputs = [(s.token_ids[s.prompt_tokens :] if p.presence_penalty or p.frequency_penalty else []) for s, p in drawn]
    rows, tokens, strength, _ = _occurrences(
        logits, [(ids, p.presence_penalty, True) for ids, (_, p) in zip(outputs, drawn, strict=True)]
    )
    logits[rows, tokens] -= strength
    rows, tokens, strength, counts = _occurrences(
        logits, [(ids, p.frequency_penalty, True) for ids, (_, p) in zip(outputs, drawn, strict=True)]
    )
    logits[rows, tokens] -= strength * counts


def _occurrences(logits: Tensor, wanted: list[tuple[list[int], float, bool]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (row, token, strength, count) of every distinct token of every row that wants it, flat."""
    rows: list[int] = []
    tokens: list[int] = []
    strengths: list[float] = []
    counts: list[int] = []
    for row, (ids, strength, wants) in enumerate(wanted):
        found = Counter(ids) if wants else {}
        tokens.extend(found.keys())
        counts.extend(found.values())
        rows.extend([row] * len(found))
        strengths.extend([strength] * len(found))
    device = logits.device
    return (
        torch.tensor(rows, dtype=torch.long, device=device),
        torch.tensor(tokens, dtype=torch.long, device=device),
        torch.tensor(strengths, dtype=torch.float32, device=device),
        torch.tensor(counts, dtype=torch.float32, device=device),
    )


def _add_bias(logits: Tensor, sequences: Items[Sequence]) -> None:
    for row, sequence in enumerate(sequences):
        bias = {t: b for t, b in sequence.request.sampling.logit_bias.items() if 0 <= t < logits.shape[1]}
        if bias:
            logits[row, list(bias)] += torch.tensor(list(bias.values()), dtype=torch.float32, device=logits.device)


def _index(tokens: Items[int], logits: Tensor) -> Tensor:
    """Return those tokens that are in the vocabulary, as an index."""
    return torch.tensor([t for t in tokens if 0 <= t < logits.shape[1]], dtype=torch.long, device=logits.device)
