"""How much of a parent's text a part sees: all of it, its first and last tokens, or none.

Knows nothing of plans or prompts.
"""

from dataclasses import dataclass
from typing import Literal

from llmsys.errors import UsageFault

__all__ = ["FULL", "TIGHT", "Forwarding"]

PIECE_CHARS = 4
"""Characters that a token of running text has; a backend's tokenizer is not asked."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """`full`, `none`, or `summary` with the first and last `tokens` tokens of about PIECE_CHARS characters."""

    kind: Literal["full", "summary", "none"] = "full"
    tokens: int = 0

    @classmethod
    def parse(cls, text: str) -> "Forwarding":
        """Read `full`, `none` or `summary:N`. Raises UsageFault for anything else.

        >>> Forwarding.parse("summary:16")
        Forwarding(kind='summary', tokens=16)
        """
        if text in ("full", "none"):
            return cls("full") if text == "full" else cls("none")
        kind, _, count = text.partition(":")
        if kind == "summary" and count.isdecimal() and int(count) > 0:
            return cls("summary", int(count))
        raise UsageFault(f"forward {text!r}; expected full, none or summary:N with N tokens, 1 or more")

    def of(self, text: str) -> str:
        """What is forwarded of a parent's text.

        >>> Forwarding("summary", 1).of("once upon a time")
        'once […] time'
        """
        keep = self.tokens * PIECE_CHARS
        if self.kind == "none":
            return ""
        if self.kind == "full" or len(text) <= 2 * keep:
            return text
        return f"{text[:keep].rstrip()} […] {text[-keep:].lstrip()}"


FULL = Forwarding()
TIGHT = Forwarding("summary", 48)
"""What is forwarded where a model's window has no room for all of it."""
