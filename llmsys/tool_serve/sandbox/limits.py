"""What a sandboxed process may use, and the seam that every kind of sandbox fits."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

__all__ = ["INSIDE", "ProcessLimits", "Sandbox", "entry", "fresh_uid", "places_of"]

INSIDE = Path(__file__).resolve().parents[1] / "inside"
FIRST_UID, UIDS = 2_000_000_000, 1_000_000  # past what user databases and subordinate ranges give out


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Bounds of one sandbox: address space of each process, CPU seconds, processes and threads, files."""

    memory_bytes: int = 512 * 2**20
    cpu_s: int = 30
    processes: int = 64
    file_bytes: int = 64 * 2**20
    open_files: int = 256

    def rlimits(self) -> dict[str, int]:
        """By the names of resource.RLIMIT_*."""
        return {
            "AS": self.memory_bytes,
            "CPU": self.cpu_s,
            "NPROC": self.processes,
            "FSIZE": self.file_bytes,
            "NOFILE": self.open_files,
        }


class Sandbox(Protocol):
    """A way to start a program so that it cannot reach out."""

    @property
    def name(self) -> str:
        """What the output calls it."""

    def command(self, program: Sequence[str]) -> list[str]:
        """The command that starts the program inside, with an empty environment."""


def fresh_uid(number: int) -> int:
    """A user that nothing else runs as: the kernel counts processes per user, and bounds no process of root."""
    return FIRST_UID + (os.getpid() * 257 + number) % UIDS


def places_of(*packages: str) -> list[str]:
    """Where packages lie that are installed; what starts inside has no other way to find them."""
    origins = [Path(spec.origin) for spec in map(find_spec, packages) if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(str(one.parent.parent if one.name == "__init__.py" else one.parent) for one in origins))


def entry(
    program: Sequence[str],
    limits: ProcessLimits,
    *,
    uid: int | None,
    bind: bool,
    packages: Sequence[str] = (),
    landlock: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """The command inside: `enter.py` bounds the process, then becomes the program."""
    settings = json.dumps(
        {"uid": uid, "limits": limits.rlimits(), "bind": bind, "packages": packages, "landlock": landlock}
    )
    return [sys.executable, "-I", "-S", str(INSIDE / "enter.py"), settings, *program]
