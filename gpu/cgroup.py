"""What Linux control groups let this process use: CPU time and memory, of version 1 or 2.

Reads files alone and knows nothing of torch. Outside Linux, and without limits, it finds none.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CgroupLimits", "read_limits"]

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED_BYTES = 1 << 60  # version 1 writes "no limit" as the largest page-aligned int64


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The tightest limits from the process's own group up to the root; None where nothing limits.

    cpus: CPU seconds per second. memory_bytes: the limit. memory_free_bytes: what is left under the tightest group.
    """

    cpus: float | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None


def read_limits(root: Path = ROOT, membership: Path = MEMBERSHIP) -> CgroupLimits:
    """Read the limits of the groups that `membership` (the format of /proc/self/cgroup) names under `root`."""
    cpus, limits, frees = [math.inf], [math.inf], [math.inf]
    for controllers, group in _groups(membership):
        for directory in _upwards(root, controllers, group):
            cpus.append(_cpus(directory))
            limit = _memory_limit(directory)
            limits.append(limit)
            frees.append(max(limit - _memory_used(directory), 0))
    return CgroupLimits(_finite(min(cpus)), _whole(min(limits)), _whole(min(frees)))


def _groups(membership: Path) -> Iterator[tuple[str, str]]:
    """Pairs (controllers, path) of the lines `number:controllers:path`; version 2 has no controllers."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            outside = ".." in Path(path).parts  # a group above the container's own root: only the mount can be read
            yield controllers, "" if outside else path.strip("/")


def _upwards(root: Path, controllers: str, group: str) -> Iterator[Path]:
    """The group's directory and its parents up to the mount, which is where a container sees its own group."""
    mounts = (root / controllers,) if controllers else (root, root / "unified")
    parts = Path(group).parts
    for mount in mounts:
        for depth in range(len(parts), -1, -1):
            yield mount.joinpath(*parts[:depth])


def _cpus(directory: Path) -> float:
    words = _words(directory / "cpu.max")
    if len(words) == 2:
        quota, period = _number(words[0]), _number(words[1])
    else:
        quota = _number(*_words(directory / "cpu.cfs_quota_us")[:1])
        period = _number(*_words(directory / "cpu.cfs_period_us")[:1])
    return quota / period if 0 < quota < math.inf and 0 < period < math.inf else math.inf


def _memory_limit(directory: Path) -> float:
    words = _words(directory / "memory.max") or _words(directory / "memory.limit_in_bytes")
    limit = _number(*words[:1])
    return limit if limit < UNLIMITED_BYTES else math.inf


def _memory_used(directory: Path) -> float:
    """Bytes in use less the page cache that the kernel can drop at once."""
    words = _words(directory / "memory.current") or _words(directory / "memory.usage_in_bytes")
    used = _number(*words[:1])
    if used == math.inf:
        return 0.0
    statistics = _words(directory / "memory.stat")
    table = dict(zip(statistics[::2], statistics[1::2], strict=False))
    droppable = _number(table.get("total_inactive_file") or table.get("inactive_file", "0"))
    return max(used - droppable, 0.0)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []


def _number(word: str = "max") -> float:
    """The number in a control file; `max`, an absent file and anything unreadable count as no limit."""
    try:
        return float(word)
    except ValueError:
        return math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _whole(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None
