"""What adapters a directory holds, and whether each fits the base model.

The reading and the checks are the engine's, so that what passes here loads there. Knows nothing of slots or serving.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmsys.engine.adapter_files import AdapterFile, read_adapter
from llmsys.engine.errors import AdapterError
from llmsys.engine.factors import group_widths
from llmsys.engine.model import ModelConfig
from llmsys.serve_lora.adapter_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_adapters,
    read_base_name,
    read_training_record,
)

__all__ = [
    "NAME_SHAPE",
    "RANK_MAX",
    "AdapterReport",
    "check_adapters",
    "check_name",
    "checked_reader",
    "raise_first_fault",
]

RANK_MAX = 256
HEADER_BYTES = 16 << 20
CONFIG_BYTES = 1 << 20
NAME_SHAPE = re.compile(r"[A-Za-z0-9._+-]{1,128}")


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """One adapter: what is in it, or why it is `broken`. load_ms: time to read and check it, on this machine."""

    name: str
    state: str
    rank: int = 0
    targets: str = ""
    parameters: int = 0
    file_bytes: int = 0
    digest: str = ""
    base: str = ""
    task: str = ""
    load_ms: float = 0.0
    fault: str = ""

    def as_row(self) -> dict[str, str | int | float]:
        """Cells of a table."""
        return {
            "adapter": self.name,
            "state": self.state,
            "rank": self.rank,
            "targets": self.targets,
            "MB": self.file_bytes / 1e6,
            "digest": self.digest[:12],
            "task": self.task,
            "load_ms": self.load_ms,
            "fault": self.fault,
        }


def check_adapters(directory: Path, config: ModelConfig, *, rank_max: int = RANK_MAX) -> list[AdapterReport]:
    """A report of every adapter in a directory, in order of name. Raises BadInput where there is none."""
    read = checked_reader(config, rank_max=rank_max)
    return [_check(name, path, read) for name, path in find_adapters(directory).items()]


def raise_first_fault(reports: list[AdapterReport]) -> None:
    """Raise AdapterError (exit 65) for the first broken adapter, and say how many more there are."""
    faults = [report.fault for report in reports if report.state != "ok"]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise AdapterError(faults[0] + more)


def check_name(name: str) -> str | None:
    """Why a name cannot name an adapter, or None: letters, digits and ._+- only, at most 128."""
    return None if NAME_SHAPE.fullmatch(name) else f"name {name!r} has other than 1 to 128 of A-Z a-z 0-9 . _ + -"


def checked_reader(config: ModelConfig, *, rank_max: int) -> Callable[[Path], AdapterFile]:
    """A function that reads and checks an adapter whose files are of a size that such an adapter can have.

    It raises AdapterError for what does not fit.
    """
    widths = group_widths(config).values()
    numbers = config.layers * rank_max * sum(width * len(outs) + sum(outs) for width, outs in widths)
    limits = {CONFIG_FILE: CONFIG_BYTES, WEIGHTS_FILE: 8 * numbers + HEADER_BYTES}

    def read(path: Path) -> AdapterFile:
        for name, limit in limits.items():
            if (size := _size(path / name)) > limit:
                raise AdapterError(f"{path / name}: {size} bytes; expected at most {limit}")
        return read_adapter(path, config, rank_max=rank_max)

    return read


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _check(name: str, path: Path, read: Callable[[Path], AdapterFile]) -> AdapterReport:
    started_s = time.perf_counter()
    try:
        file = read(path)
        load_ms = (time.perf_counter() - started_s) * 1e3
        if fault := check_name(name):
            raise AdapterError(f"{path}: {fault}")
        return _sound(name, path, file, load_ms)
    except AdapterError as error:
        return AdapterReport(name, "broken", fault=str(error))


def _sound(name: str, path: Path, file: AdapterFile, load_ms: float) -> AdapterReport:
    record = read_training_record(path)
    return AdapterReport(
        name=name,
        state="ok",
        rank=file.rank,
        targets=",".join(target.removesuffix("_proj") for target in file.targets),
        parameters=file.parameters,
        file_bytes=(path / WEIGHTS_FILE).stat().st_size,
        digest=file.digest.hex(),
        base=read_base_name(path),
        task=record.task if record else "",
        load_ms=round(load_ms, 3),
    )
