"""Drives a runner the way the engine does, without scheduler or sampler: prefill in one chunk, then greedy decoding."""

from llmsys.engine.sequence import Chunk, Plan, Request, Sequence

__all__ = ["decode_greedily"]


def decode_greedily(runner, prompts, *, new_tokens, eos_ids=frozenset(), slots=None, chunk_tokens=10_000):
    """Greedy continuations of all prompts in one batch: a list of token ids per prompt, ended by an eos token."""
    slots = slots or [-1] * len(prompts)
    sequences = [
        Sequence(
            id=index, request=Request(prompt=list(ids)), token_ids=list(ids), prompt_tokens=len(ids), adapter_slot=slot
        )
        for index, (ids, slot) in enumerate(zip(prompts, slots, strict=True))
    ]
    for sequence in sequences:
        while sequence.pending_tokens > 1:
            count = min(chunk_tokens, sequence.pending_tokens - 1)
            runner.execute(Plan((Chunk(sequence, sequence.computed_tokens, count, samples=False),)))
            sequence.computed_tokens += count
    live = list(sequences)
    for _ in range(new_tokens):
        plan = Plan(tuple(Chunk(s, s.computed_tokens, 1, samples=True) for s in live))
        chosen = runner.execute(plan).argmax(dim=-1).tolist()
        for sequence, token in zip(live, chosen, strict=True):
            sequence.computed_tokens += 1
            sequence.token_ids.append(token)
            if token in eos_ids:
                runner.release(sequence.id)
        live = [s for s in live if s.token_ids[-1] not in eos_ids]
        if not live:
            break
    for sequence in sequences:
        runner.release(sequence.id)
    return [sequence.token_ids[sequence.prompt_tokens :] for sequence in sequences]
