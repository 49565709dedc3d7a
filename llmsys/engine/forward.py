"""Plan a step and run it; when the device runs out of memory, do with less instead of dying.

A step that does not fit is planned again with half the tokens and one sequence fewer, until a single token of a single
sequence does not fit: then that sequence ends with an error. Knows nothing about sampling or text.
"""

import logging

from torch import Tensor

from llmsys.engine.parts import Executor
from llmsys.engine.scheduler import Scheduler, Turn
from llmsys.gpu import is_out_of_memory

__all__ = ["run_forward"]

_log = logging.getLogger(__name__)


def run_forward(runner: Executor, scheduler: Scheduler, now_s: float) -> tuple[Turn, Tensor | None]:
    """Return the step's decisions and the logits [sum of chunk.rows, vocab], None if nothing was computed."""
    turn = scheduler.plan(now_s)
    while turn.chunks:
        try:
            return turn, runner.execute(turn.plan)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("out of memory in a step of %d tokens, trying with less: %s", turn.plan.tokens, error)
        if not scheduler.relieve(turn) and turn.limit == 1:
            for chunk in turn.chunks:
                chunk.sequence.error = f"out of memory at {len(chunk.sequence.token_ids)} tokens, nothing left to free"
                turn.failed.append(chunk.sequence)
            turn.chunks.clear()
            break
        turn = scheduler.replan(turn)
    return turn, None
