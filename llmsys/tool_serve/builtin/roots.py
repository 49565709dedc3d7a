"""Paths that stay within a directory, whatever links and dots they are made of.

Names are resolved by the kernel below an open directory, so that nothing can be exchanged between check and use.
"""

import ctypes
import errno
import os
from pathlib import Path

from llmsys.errors import Unavailable
from llmsys.tool_serve.faults import ToolArgumentError

__all__ = ["open_within"]

SYS_OPENAT2 = 437
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_within(root: Path, name: str, flags: int, mode: int = 0o644) -> int:
    """A descriptor of `name` below root, as `openat2` with RESOLVE_IN_ROOT opens it: links cannot lead out.

    Raises ToolArgumentError for a name that cannot be opened, Unavailable on a kernel without openat2.
    """
    if "\0" in name:
        raise ToolArgumentError("$.path", "a NUL in a path")
    how = _OpenHow(flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        found = libc.syscall(SYS_OPENAT2, directory, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
    finally:
        os.close(directory)
    if found >= 0:
        return int(found)
    fault = ctypes.get_errno()
    if fault == errno.ENOSYS:
        raise Unavailable("this kernel has no openat2", "use Linux 5.6 or later for builtin:files")
    raise ToolArgumentError("$.path", f"{name!r}: {os.strerror(fault)}")
