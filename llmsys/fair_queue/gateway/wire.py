"""Heads of HTTP/1.1 messages as bytes: what a gateway writes to either side, and which headers it passes on.

Parsing is httptools'; this only writes. Knows no connection.
"""

from collections.abc import Iterable
from http import HTTPStatus

import orjson

__all__ = [
    "CONTINUE",
    "LAST_CHUNK",
    "Header",
    "chunk",
    "error_body",
    "reason_of",
    "request_head",
    "response_head",
    "whole_response",
]

Header = tuple[bytes, bytes]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
# RFC 9110, 7.6.1: these concern one connection. Lengths and encodings are written anew.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length".split()
)
NOT_FORWARDED = HOP_BY_HOP | frozenset(b"host authorization proxy-authorization expect accept-encoding".split())
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES = {code: b"HTTP/1.1 %d %s\r\n" % (code, phrase) for code, phrase in _REASONS.items()}


def reason_of(status: int) -> str:
    """The standard phrase of a status code."""
    return _REASONS.get(status, b"Unknown").decode()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `data` must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def request_head(
    method: bytes, target: bytes, *, host: bytes, headers: Iterable[Header], length: int | None, extra: bytes
) -> bytes:
    """A request head for a backend: the client's headers without those of its connection and its credentials.

    Header names come in lower case.
    The body is asked for uncompressed, because tokens are counted in it. `extra` is finished header lines.
    """
    lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n%b" % (method, target, host, extra)]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in NOT_FORWARDED]
    lines.append(b"\r\n" if length is None else b"content-length: %d\r\n\r\n" % length)
    return b"".join(lines)


def response_head(status: int, headers: Iterable[Header], framing: bytes, *, close: bool) -> bytes:
    """A response head for a client; `framing` is the finished header line that says how the body ends."""
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0].lower() not in HOP_BY_HOP]
    lines += (framing, b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)


def whole_response(
    status: int, body: bytes, *, kind: bytes, extra: Iterable[Header] = (), close: bool = False
) -> bytes:
    """Head and body of an answer that the gateway gives itself."""
    headers = [(b"content-type", kind), *extra]
    return response_head(status, headers, b"content-length: %d\r\n" % len(body), close=close) + body


def error_body(message: str, kind: str, code: str | None = None) -> bytes:
    """An error as OpenAI's API words it, so that its clients raise their own exceptions."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
