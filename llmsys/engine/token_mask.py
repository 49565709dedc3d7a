"""Which tokens a grammar lets an answer go on with, made into a row of logits.

llguidance writes one bit per token; they are spread by numpy. Its own module for torch is not imported: that imports
torch's compiler, of which two threads that import it at once each see half. Knows nothing of grammars.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Matcher", "TokenMask"]


class Matcher(Protocol):
    """What is asked of `llguidance.LLMatcher`: bits of the tokens that may come next."""

    def unsafe_compute_mask_ptr(self, trg_pointer: int, trg_bytes: int) -> None:
        """Write one bit per token, the lowest first, to so many bytes of memory, a multiple of 4."""


class TokenMask:
    """Room for the bits of one answer over a vocabulary of `vocab` tokens."""

    def __init__(self, vocab: int) -> None:
        self._words = np.zeros(-(-vocab // 32), dtype="<u4")

    def apply(self, matcher: Matcher, logits: "Tensor") -> None:
        """Set every token that the matcher forbids to minus infinity: logits [vocab], on any device, changed in place.

        Raises ValueError for a row that is longer than the mask.
        """
        import torch

        room = 32 * self._words.size
        if logits.shape[0] > room:
            raise ValueError(f"a row of {logits.shape[0]} logits; expected at most {room}, the mask's tokens")
        matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        allowed = np.unpackbits(self._words.view(np.uint8), count=logits.shape[0], bitorder="little")
        logits.masked_fill_(torch.from_numpy(allowed == 0).to(logits.device), -torch.inf)
