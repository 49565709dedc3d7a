"""Files that appear whole or not at all: written beside their place, synced, renamed.

Knows nothing of what is written. A kill at any instruction leaves the old file as it was (and perhaps a `.NAME.*.tmp`
beside it); two writers of one place leave the whole file of the later one. What is no regular file (/dev/stdout, a
named pipe) cannot be renamed over and is written directly.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["name_beside", "replace_file", "replace_path", "sync_directory"]

NAMELESS_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary stream whose content becomes `path` when the block ends; an exception leaves `path` untouched.

    A link keeps pointing where it points; an existing file keeps its permission bits. Raises OSError that names `path`
    where it cannot be written, a full disk included.
    """
    target = Path(os.path.realpath(path))
    if _is_replaceable(target):
        with _beside(target, path) as temporary, temporary.open("r+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    else:
        with _naming(path, target), target.open("wb") as stream:
            yield stream


@contextmanager
def replace_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` for a library that opens its files itself; it becomes `path` when the block ends.

    The file exists already, empty; a library that puts a file of its own there (safetensors does, readable by its
    owner alone) does not change the permission bits. Raises as `replace_file` does.
    """
    with _beside(Path(os.path.realpath(path)), path) as temporary:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: what was renamed into it stays after a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def name_beside(target: Path) -> Path:
    """A name in the same directory that nobody else has."""
    return target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}.tmp"


@contextmanager
def _beside(target: Path, path: Path) -> Iterator[Path]:
    """A new empty file beside `target`, renamed over it at the end, removed on an exception; errors name `path`."""
    temporary = name_beside(target)
    with _naming(path, temporary):
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        try:
            with suppress(FileNotFoundError):
                mode = target.stat().st_mode
            yield temporary
            temporary.chmod(stat.S_IMODE(mode))
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)


def _is_replaceable(target: Path) -> bool:
    """Whether a rename may put a file there: nothing is there yet, or a regular file. A directory raises."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    return stat.S_ISREG(mode)


@contextmanager
def _naming(path: Path, written: Path) -> Iterator[None]:
    """Let an OSError name the file that was asked for: the temporary's name means nothing, a full disk gives none."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in NAMELESS_FAULTS
        if nameless or str(error.filename) == str(written):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
