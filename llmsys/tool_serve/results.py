"""What a call gives back to the model: text of bounded size, whatever the tool returned.

Knows no tool and no format of messages.
"""

from dataclasses import dataclass

__all__ = ["OUTPUT_BYTES", "HeadTail", "ToolResult"]

OUTPUT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The content of the tool's message; `error` is the kind of fault (timeout, crashed, …) or None.

    `data` stays outside of the model's sight: facts for the log, such as the sandbox that was used.
    """

    content: str
    error: str | None = None
    data: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, value: object) -> "ToolResult":
        """Any value as a result: text as it is, bytes as UTF-8 with replacements, NaN and infinities as null.

        >>> ToolResult.of({"a": float("nan"), "b": [1, 2]}).content
        '{"a":null,"b":[1,2]}'
        """
        if isinstance(value, ToolResult):
            return value
        if isinstance(value, str):
            return cls(value.encode("utf-8", "replace").decode())
        if isinstance(value, bytes | bytearray):
            return cls(bytes(value).decode("utf-8", "replace"))
        if value is None:
            return cls("")
        import orjson

        flags = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        try:
            return cls(orjson.dumps(value, default=str, option=flags).decode())
        except TypeError:  # what JSON cannot hold: integers over 64 bits, lone surrogates, circles
            return cls(repr(value).encode("utf-8", "replace").decode())

    def capped(self, limit_bytes: int) -> "ToolResult":
        """The same with its content cut to head and tail of together `limit_bytes`."""
        raw = self.content.encode("utf-8", "replace")
        if len(raw) <= limit_bytes:
            return self
        kept = HeadTail(limit_bytes)
        kept.add(raw)
        return ToolResult(kept.text(), self.error, self.data)


class HeadTail:
    """Bytes as they come, of which the first and the last `limit_bytes / 2` are kept."""

    def __init__(self, limit_bytes: int = OUTPUT_BYTES) -> None:
        self._half = limit_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0

    def add(self, some: bytes) -> None:
        """Take some more; memory stays within twice the limit."""
        self.total_bytes += len(some)
        room = self._half - len(self._head)
        if room > 0:
            self._head += some[:room]
            some = some[room:]
        self._tail += some[-self._half :] if self._half else b""
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        """What was kept, as UTF-8 with replacements; a line in the middle says how much is missing."""
        tail = bytes(self._tail[-self._half :]) if self._half else b""
        missing = self.total_bytes - len(self._head) - len(tail)
        if missing <= 0:
            return bytes(self._head + tail).decode("utf-8", "replace")
        head = bytes(self._head).decode("utf-8", "replace")
        return f"{head}\n[... {missing} bytes left out ...]\n{tail.decode('utf-8', 'replace')}"
