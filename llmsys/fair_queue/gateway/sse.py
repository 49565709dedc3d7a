"""What a stream of server-sent events tells a gateway that passes it on: how many events, and the usage at its end.

Bytes pass unchanged. With `strip` the one event that the gateway asked for and the client did not, the chunk that holds
usage and no choices, is left out; then an event leaves when it is whole. Knows no HTTP and no JSON: it looks for the
start of data lines and, only where the word `usage` stands in an event, for the counts behind it.
"""

import re
from typing import NamedTuple

__all__ = ["StreamMeter", "Usage", "usage_in"]

HOLD_LIMIT_BYTES = 1 << 16
LINE_START = b"\ndata:"
CARRY = len(LINE_START) - 1
ENDS = (b"\n\n", b"\r\n\r\n")

_BETWEEN_EVENTS = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
# Quotes inside a JSON string are escaped, so these match keys and never text.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,15})')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,15})')


class Usage(NamedTuple):
    """Tokens as the backend counted them."""

    prompt_tokens: int
    output_tokens: int


def usage_in(data: bytes) -> Usage | None:
    """The counts of the last usage object in `data`; None where there is none. Embeddings have no output tokens.

    >>> usage_in(b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}')
    Usage(prompt_tokens=7, output_tokens=2)
    """
    start = -1
    for found in _USAGE.finditer(data):
        start = found.end()
    if start < 0 or (prompt := _PROMPT.search(data, start)) is None:
        return None
    output = _OUTPUT.search(data, start)
    return Usage(int(prompt[1]), int(output[1]) if output else 0)


class StreamMeter:
    """Meters one stream as its bytes come, wherever they are split.

    `events` counts data lines that follow a line end, so neither an opening role event nor the first token: with the
    closing `[DONE]` that is one per token within two, until `usage` says it exactly.
    """

    __slots__ = ("_carry", "_held", "_strip", "events", "usage")

    def __init__(self, *, strip: bool) -> None:
        self.events = 0
        self.usage: Usage | None = None
        self._strip = strip
        self._held = b""
        self._carry = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes from the backend, return those to pass on."""
        window = self._carry + data
        self.events += window.count(LINE_START)
        self._carry = window[-CARRY:]
        whole = self._held + data if self._held else data
        if not whole.endswith(ENDS):
            whole = self._hold_back(whole)
        elif self._held:
            self._held = b""
        if b'"usage"' in whole:
            whole = self._inspect(whole)
        return whole if self._strip else data

    def end(self) -> bytes:
        """The stream is over: return what was held back of an unfinished event."""
        held, self._held = self._held, b""
        if b'"usage"' in held:
            held = self._inspect(held)
        return held if self._strip else b""

    def _hold_back(self, buffered: bytes) -> bytes:
        """Keep the unfinished event at the end; one over the limit is let go as it stands."""
        cut = max(found + len(end) if (found := buffered.rfind(end)) >= 0 else 0 for end in ENDS)
        if len(buffered) - cut > HOLD_LIMIT_BYTES:
            cut = len(buffered)
        self._held = buffered[cut:]
        return buffered[:cut]

    def _inspect(self, events: bytes) -> bytes:
        self.usage = usage_in(events) or self.usage
        if not self._strip:
            return events
        return b"".join(event for event in _BETWEEN_EVENTS.split(events) if not _is_usage_chunk(event))


def _is_usage_chunk(event: bytes) -> bool:
    return _USAGE.search(event) is not None and _NO_CHOICES.search(event) is not None
