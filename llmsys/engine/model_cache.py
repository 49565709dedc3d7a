"""What was converted once, kept: directories by key under the user's cache, checked when opened, bounded in size.

An entry appears whole or not at all. Its small files are checked by the directory's manifest, weights (`*.safetensors`)
by xxh3-128, which reads as fast as memory does. What is damaged is removed and made anew. The least recently used
entries go first when the limit is passed. Knows nothing of what the entries hold.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xxhash

from llmsys.artifacts import open_directory, write_directory
from llmsys.errors import BadInput

__all__ = ["ModelCache", "identify"]

_log = logging.getLogger(__name__)
_KIND, _VERSION = "engine-model-cache", 1
_BULK, _SUMS = "*.safetensors", "sums.json"
_HEAD_BYTES = 1 << 20
_WRITERS = ("gguf.py", "int4.py", "loader.py", "named_weights.py", "tokens.py")
"""Modules whose code decides what an entry holds: another text of theirs is another key."""


def identify(source: Path, *facts: str) -> str:
    """Key of what is made of a model file or directory: names, sizes, times, the first MiB, and who converts it how.

    Hexadecimal, 32 digits. facts: what else decides the result, such as a dtype. Raises OSError for a missing source.
    """
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        status = file.stat()
        digest.update(repr((file.name, status.st_size, status.st_mtime_ns)).encode())
    if source.is_file():
        with source.open("rb") as stream:
            digest.update(stream.read(_HEAD_BYTES))
    code = [hashlib.blake2b((Path(__file__).parent / name).read_bytes()).hexdigest() for name in _WRITERS]
    digest.update(repr((facts, code, version("transformers"))).encode())
    return digest.hexdigest()


class ModelCache:
    """Entries below `root`, at most `limit_bytes` of them beside the one written last."""

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes

    @classmethod
    def of_user(cls, *, limit_bytes: int) -> "ModelCache":
        """The cache below $XDG_CACHE_HOME/llmsys, or ~/.cache/llmsys."""
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return cls(Path(home) / "llmsys" / "models", limit_bytes=limit_bytes)

    def find(self, key: str) -> Path | None:
        """The directory of an entry whose contents are what was written; None where there is none."""
        entry = self._root / key
        try:
            open_directory(entry, kind=_KIND, version=_VERSION, unlisted=(_BULK,))
            sums = json.loads((entry / _SUMS).read_bytes())
            if sums != _sums(entry):
                raise BadInput(str(entry), "weights of another checksum", "those that were written")
        except FileNotFoundError:
            return None
        except (BadInput, OSError) as error:
            _log.warning("the cached model is damaged and is made anew: %s", error)
            self.drop(key)
            return None
        with suppress(OSError):
            os.utime(entry)
        return entry

    @contextmanager
    def keep(self, key: str) -> Iterator[Path]:
        """Yield an empty directory to fill, which becomes the entry; older entries make room for it.

        Raises OSError where the cache cannot be written; the entry does not exist then.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        entry = self._root / key
        with write_directory(entry, kind=_KIND, version=_VERSION, overwrite=True, unlisted=(_BULK,)) as place:
            yield place
            (place / _SUMS).write_text(json.dumps(_sums(place)), encoding="utf-8")
        self._trim(entry)

    def drop(self, key: str) -> None:
        """Remove an entry; one that is not there is no fault."""
        shutil.rmtree(self._root / key, ignore_errors=True)

    def _trim(self, newest: Path) -> None:
        """Remove entries, and what a killed writer left, least recently used first, down to the limit."""
        entries = sorted((path for path in self._root.iterdir() if path != newest), key=_last_use)
        total = sum(map(_bytes_of, entries)) + _bytes_of(newest)
        for entry in entries:
            if total <= self._limit_bytes:
                return
            total -= _bytes_of(entry)
            shutil.rmtree(entry, ignore_errors=True)


def _sums(directory: Path) -> dict[str, str]:
    """Checksum of every weight file of an entry, read through the page cache without a copy."""
    found = {}
    for file in sorted(directory.glob(_BULK)):
        found[file.name] = xxhash.xxh3_128_hexdigest(np.memmap(file, np.uint8, "r").data)
    return found


def _last_use(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _bytes_of(directory: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in directory.iterdir())
    return 0
