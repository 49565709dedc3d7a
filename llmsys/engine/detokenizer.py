"""Token ids to text, piece by piece: never half a character, never the beginning of a stop string.

The pieces of one stream join to exactly the text of all its tokens, up to a stop string if one was found. Works with
any tokenizer whose text of a longer run of tokens extends the text of a shorter one, except for characters that are
still incomplete (U+FFFD at the end). Knows nothing about requests or models.
"""

from collections.abc import Callable, Sequence

__all__ = ["Detokenizer"]

_INCOMPLETE = "\ufffd"
_WINDOW = 24


class Detokenizer:
    """The text of one stream of tokens.

    decode: token ids to text. stop: strings that end the stream; their text is left out unless include_stop. A piece
    is held back as long as it could be the beginning of one, at most max(len(stop)) - 1 characters.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = (), *, include_stop: bool = False
    ) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._longest = max(map(len, self._stop), default=0)
        self._ids: list[int] = []
        self._start = 0
        self._seen = ""
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that is now certain; `stopped` tells whether a stop string came."""
        self._ids.append(token_id)
        window = self._decode(self._ids[self._start :])
        if window.endswith(_INCOMPLETE):
            return ""
        fresh, self._seen = window[len(self._seen) :], window
        if len(self._ids) - self._start >= _WINDOW:
            self._shift(keep=_WINDOW // 4)
        return self._filter(fresh)

    def flush(self) -> str:
        """Return the text that was held back, incomplete characters as U+FFFD; the stream is over."""
        window = self._decode(self._ids[self._start :])
        text = self._filter(window[len(self._seen) :])
        text, self._held = text + self._held, ""
        self._seen = window
        return text

    def _shift(self, keep: int) -> None:
        """Start the window later, at a token where both sides are whole characters, so that decoding stays cheap."""
        start = len(self._ids) - keep
        head = self._decode(self._ids[self._start : start])
        tail = self._decode(self._ids[start:])
        if not head.endswith(_INCOMPLETE) and head + tail == self._seen:
            self._start, self._seen = start, tail

    def _filter(self, fresh: str) -> str:
        """Pass text through the search for stop strings."""
        if not self._stop or self.stopped:
            return "" if self.stopped else fresh
        text = self._held + fresh
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found, key=lambda hit: (hit[0], -len(hit[1])))
            self.stopped, self._held = True, ""
            return text[: at + len(stop)] if self._include_stop else text[:at]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _possible_start(self, text: str) -> int:
        """Return the length of the longest end of the text that some stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
