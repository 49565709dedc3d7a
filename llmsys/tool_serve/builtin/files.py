"""`read_file`, `list_files` (pure) and `write_file` (staged) below one directory.

A write goes to a file beside its place and is renamed into it when the model's message has ended.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsys.tool_serve.builtin.roots import open_within
from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.faults import ToolArgumentError
from llmsys.tool_serve.results import OUTPUT_BYTES, HeadTail, ToolResult
from llmsys.tool_serve.tools import CallContext, PartialTool, Tool

__all__ = ["file_tools"]

PATH = {"type": "string", "minLength": 1, "description": "Path relative to the root"}
MAX_LISTED = 1000


def _schema(**properties: object) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def file_tools(root: Path) -> list[Tool]:
    """The three tools. A read sees the writes before it: all are ordered, since one file has many names."""
    root = root.resolve(strict=True)
    key = f"files:{root}"
    text = {"type": "string"}
    return [
        Tool("read_file", "Read a text file.", _schema(path=PATH), lambda: _Read(root), Effect.PURE, resource=key),
        Tool("list_files", "List a directory.", _schema(path=PATH), lambda: _List(root), Effect.PURE, resource=key),
        Tool(
            "write_file",
            "Write a text file, whole.",
            _schema(path=PATH, text=text),
            lambda: _Write(root),
            Effect.STAGED,
            resource=key,
        ),
    ]


class _Read(PartialTool):
    def __init__(self, root: Path) -> None:
        self._root = root

    def finish(self, args: dict[str, Any]) -> ToolResult:
        kept = HeadTail(OUTPUT_BYTES)
        with os.fdopen(open_within(self._root, args["path"], os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            while some := stream.read(2**16):
                kept.add(some)
        return ToolResult(kept.text())


class _List(PartialTool):
    def __init__(self, root: Path) -> None:
        self._root = root

    def finish(self, args: dict[str, Any]) -> ToolResult:
        descriptor = open_within(self._root, args["path"], os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(descriptor) as entries:
                names = sorted(one.name + "/" * one.is_dir(follow_symlinks=False) for one in entries)
        finally:
            os.close(descriptor)
        shown = names[:MAX_LISTED]
        if len(names) > MAX_LISTED:
            shown.append(f"[... {len(names) - MAX_LISTED} more ...]")
        return ToolResult("".join(f"{name}\n" for name in shown))


class _Write(PartialTool):
    """One write: `finish` writes beside the place, `commit` renames."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ctx: CallContext | None = None
        self._scratch: Path | None = None
        self._target = ""

    async def begin(self, ctx: CallContext) -> None:
        self._ctx = ctx

    def finish(self, args: dict[str, Any]) -> ToolResult:
        assert self._ctx is not None
        parent, _, name = args["path"].rpartition("/")
        if name in ("", ".", ".."):
            raise ToolArgumentError("$.path", f"{args['path']!r}; expected the path of a file")
        descriptor = open_within(self._root, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            self._target = str(place / name)
            if os.path.isdir(self._target):
                raise ToolArgumentError("$.path", f"{args['path']!r} is a directory")
            scratch = place / f".{name}.{os.urandom(6).hex()}.staged"
            self._ctx.remember(scratch=str(scratch))
            self._scratch = scratch
            raw = args["text"].encode("utf-8", "replace")
            with os.fdopen(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644), "wb") as out:
                out.write(raw)
                out.flush()
                os.fsync(out.fileno())
        finally:
            os.close(descriptor)
        return ToolResult(f"wrote {len(raw)} bytes to {args['path']}")

    def commit(self) -> None:
        assert self._scratch is not None
        os.replace(self._scratch, self._target)

    def rollback(self, reason: str) -> None:
        if self._scratch is not None:
            self._scratch.unlink(missing_ok=True)

    def recover(self, ctx: CallContext) -> None:
        if "scratch" in ctx.memory:
            Path(ctx.memory["scratch"]).unlink(missing_ok=True)
