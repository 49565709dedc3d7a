"""Lines in a file, for every test that reads JSON Lines."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def lines_file(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str | bytes, name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
        return path

    return write
