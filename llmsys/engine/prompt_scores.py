"""How likely the model finds the prompt it was given: log-probabilities of prompt tokens, chunk by chunk.

Needs the logits of every prompt token, where generating needs those of the last: only requests that ask pay for it.
Knows nothing of queues or memory.
"""

from collections.abc import Sequence as Items

from torch import Tensor

from llmsys.engine.draws import Report
from llmsys.engine.sequence import Chunk

__all__ = ["score_prompts"]


def score_prompts(logits: Tensor, chunks: Items[Chunk]) -> Tensor:
    """Note the scores of prompt tokens on their sequences; return the rows that sample, in the order of their chunks.

    logits: float32 [sum of chunk.rows, vocab], rows in the order of the chunks.
    """
    if not any(chunk.scores for chunk in chunks):
        return logits
    sampling, first = [], 0
    for chunk in chunks:
        if chunk.scores:
            _score(logits[first : first + chunk.rows], chunk)
        if chunk.samples:
            sampling.append(first + chunk.rows - 1)
        first += chunk.rows
    return logits[sampling]


def _score(rows: Tensor, chunk: Chunk) -> None:
    """Score what follows each of the chunk's tokens in the prompt; a chunk computed again replaces its scores."""
    sequence = chunk.sequence
    following = sequence.token_ids[chunk.start + 1 : min(chunk.start + chunk.count + 1, sequence.prompt_tokens)]
    count = sequence.request.sampling.prompt_logprobs or 0
    report = Report(rows, dict.fromkeys(range(len(following)), count)) if following else None
    found = report.of(dict(enumerate(following))) if report else {}
    sequence.prompt_scores[chunk.start :] = [found[row] for row in range(len(following))]
