"""JSON's escapes in strings, character by character: what a backslash and what follows it stand for.

Knows no string and no stream.
"""

__all__ = ["resolved"]

_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = frozenset("0123456789abcdefABCDEF")
_FIRST, _SECOND, _END = 0xD800, 0xDC00, 0xE000
_LONE = "half of a surrogate pair without the other"


def resolved(escape: str) -> str | None:
    """The character of an escape that begins with a backslash; None while more has to come.

    Raises ValueError for what no escape begins with, and for half of a surrogate pair.

    >>> resolved(r"\\u00e9"), resolved(r"\\ud83d\\ude00"), resolved(r"\\ud83d")
    ('é', '😀', None)
    """
    if len(escape) == 1:
        return None
    if escape[1] != "u":
        if escape[1] not in _SHORT:
            raise ValueError(f"the escape {escape!r}; expected one of JSON's")
        return _SHORT[escape[1]]
    code = _code(escape[2:6])
    if code is None:
        return None
    if _SECOND <= code < _END:
        raise ValueError(f"{escape!r}, {_LONE}")
    if not _FIRST <= code < _SECOND:
        return chr(code)
    if escape[6:8] != "\\u"[: len(escape) - 6]:
        raise ValueError(f"{escape[:6]!r}, {_LONE}")
    second = _code(escape[8:12]) if len(escape) > 8 else None
    if second is None:
        return None
    if not _SECOND <= second < _END:
        raise ValueError(f"{escape[:6]!r}, {_LONE}")
    return chr(0x10000 + ((code - _FIRST) << 10) + (second - _SECOND))


def _code(digits: str) -> int | None:
    """The number of four hexadecimal digits; None while there are fewer."""
    if not set(digits) <= _HEX:
        raise ValueError(f"the escape '\\u{digits}'; expected four hexadecimal digits")
    return int(digits, 16) if len(digits) == 4 else None
