"""Directories that appear whole or not at all, with a `manifest.json` of what is in them and its checksums.

For an index, a sketch, a checkpoint. Knows nothing of their files. The manifest is
`{"kind","version","files":{NAME:{"bytes","blake2b"}}}`, names relative with forward slashes.
"""

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from llmsys.artifacts.atomic import name_beside, sync_directory
from llmsys.artifacts.jsonl import decode_record
from llmsys.artifacts.trace import Name
from llmsys.errors import BadInput

__all__ = ["MANIFEST_NAME", "FileEntry", "Manifest", "open_directory", "write_directory"]

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
DIGEST_BYTES = 32
READ_BYTES = 2**20
AT_FDCWD = -100
RENAME_EXCHANGE = 2


class FileEntry(msgspec.Struct, frozen=True):
    """Size and blake2b-256 checksum (hexadecimal) of one file."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    blake2b: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True):
    """What a directory is, in which version of its format, and which files it consists of."""

    kind: Name
    version: Annotated[int, msgspec.Meta(ge=1)]
    files: dict[str, FileEntry]


@contextmanager
def write_directory(
    path: Path, *, kind: str, version: int, overwrite: bool = False, unlisted: Sequence[str] = ()
) -> Iterator[Path]:
    """Yield an empty directory beside `path`; fill it, and it becomes `path` when the block ends.

    Files whose name matches a pattern of `unlisted` (logs that grow later) stay out of the manifest. Raises
    FileExistsError where `path` is there already; with `overwrite` a directory of the same `kind` is replaced, in one
    step on Linux, and anything else still raises. An exception leaves `path` as it was.
    """
    target = Path(os.path.realpath(path))
    _refuse_occupied(target, kind, overwrite=overwrite)
    temporary = name_beside(target)
    try:
        temporary.mkdir()
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        yield temporary
        _seal(temporary, kind, version, unlisted)
        _refuse_occupied(target, kind, overwrite=overwrite)
        _put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(target.parent)


def open_directory(
    path: Path, *, kind: str, version: int, verify: bool = True, unlisted: Sequence[str] = ()
) -> Manifest:
    """The manifest of a directory whose files are all there, and no others, with the sizes and checksums it names.

    Versions 1 to `version` open; which one it is, the manifest says. Without `verify` contents are not read, only
    sizes. Files matching `unlisted` may be there. Raises BadInput that names the file at fault.
    """
    manifest = _read_manifest(path)
    where = str(path / MANIFEST_NAME)
    if manifest.kind != kind:
        raise BadInput(where, f"kind {manifest.kind!r}", repr(kind))
    if manifest.version > version:
        raise BadInput(where, f"version {manifest.version} of a newer llmsys", f"at most version {version}")
    present = {name for name in _file_names(path) if not _matches(name, unlisted)} - {MANIFEST_NAME}
    for name in sorted(present - manifest.files.keys()):
        raise BadInput(str(path / name), "not in the manifest", "only files that it lists")
    for name, entry in manifest.files.items():
        if name not in present:
            raise BadInput(str(path / name), "missing", "every file that the manifest lists")
        _check_file(path / name, entry, verify=verify)
    return manifest


def _read_manifest(path: Path) -> Manifest:
    where = path / MANIFEST_NAME
    try:
        with where.open("rb") as stream:
            text = stream.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise BadInput(str(path), f"no {MANIFEST_NAME}", "a directory that llmsys wrote") from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise BadInput(str(where), f"over {MAX_MANIFEST_BYTES} bytes", "a manifest")
    manifest = decode_record(text, msgspec.json.Decoder(Manifest), str(where))
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if (
            not parts
            or name != "/".join(parts)
            or name == MANIFEST_NAME
            or not {"..", "/"}.isdisjoint(parts)
            or "\0" in name
        ):
            raise BadInput(str(where), f"file name {name!r}", "a plain path inside the directory")
    return manifest


def _is_plain(name: str) -> bool:
    """Whether a manifest's file name stays inside its directory, and is spelled the one way it is written."""
    parts = PurePosixPath(name).parts
    return name == "/".join(parts) and {"", "/", "..", MANIFEST_NAME}.isdisjoint((name, *parts)) and "\0" not in name


def _check_file(path: Path, entry: FileEntry, *, verify: bool) -> None:
    size = path.stat().st_size
    if size != entry.bytes:
        raise BadInput(str(path), f"{size} bytes", f"{entry.bytes}, as the manifest says")
    if verify and (digest := _digest(path)) != entry.blake2b:
        raise BadInput(str(path), f"checksum {digest[:16]}…", f"{entry.blake2b[:16]}…, as the manifest says")


def _seal(directory: Path, kind: str, version: int, unlisted: Sequence[str]) -> None:
    """Write the manifest and make everything durable."""
    entries = {}
    for name in sorted(_file_names(directory)):
        if name == MANIFEST_NAME:
            raise ValueError(f"{MANIFEST_NAME} was written into the directory; it is the one file that comes by itself")
        if not _matches(name, unlisted):
            entries[name] = FileEntry((directory / name).stat().st_size, _digest(directory / name))
    manifest = msgspec.json.encode(Manifest(kind, version, entries))
    (directory / MANIFEST_NAME).write_bytes(msgspec.json.format(manifest, indent=2) + b"\n")
    for parent, _, names in os.walk(directory):
        for name in names:
            with Path(parent, name).open("rb") as stream:
                os.fsync(stream.fileno())
        sync_directory(Path(parent))


def _file_names(directory: Path) -> Iterator[str]:
    """The files below a directory, relative to it. Raises BadInput for a link or a device: only files are data."""
    for parent, folders, names in os.walk(directory):
        for name in (*folders, *names):
            entry = Path(parent, name)
            mode = entry.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise BadInput(str(entry), "a link or a device", "regular files")
            if stat.S_ISREG(mode):
                yield entry.relative_to(directory).as_posix()


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _digest(path: Path) -> str:
    digest = blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _refuse_occupied(target: Path, kind: str, *, overwrite: bool) -> None:
    """Raise FileExistsError unless the place is free, or holds what may be replaced."""
    if not os.path.lexists(target):
        return
    reason = "is there already"
    if overwrite:
        try:
            if _read_manifest(target).kind == kind:
                return
            reason = "is of another kind and stays"
        except BadInput:
            reason = f"was not written by llmsys as {kind!r} and stays"
    raise FileExistsError(errno.EEXIST, reason, str(target))


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename over nothing, or exchange with what is there; `temporary` then holds the old directory."""
    if not target.exists():
        try:
            temporary.rename(target)
        except OSError as error:  # somebody was faster
            raise FileExistsError(errno.EEXIST, "is there already", str(target)) from error
    elif not _exchange(temporary, target):
        # Without renameat2 there is a moment with nothing in place; the old directory survives a kill beside it.
        old = name_beside(target)
        target.rename(old)
        temporary.rename(target)
        old.rename(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step (Linux renameat2); False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), str(other))
