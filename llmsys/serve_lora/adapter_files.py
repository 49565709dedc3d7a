"""Adapter directories as PEFT reads and writes them, plus one file of ours that says how an adapter was made.

    adapter_config.json  adapter_model.safetensors  training.json

A directory appears whole or not at all. Nothing is ever unpickled. Knows nothing of models; whether an adapter fits
one is `llmsys.engine`'s to say.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import orjson
from torch import Tensor

from llmsys.artifacts import name_beside, sync_directory
from llmsys.errors import BadInput, UsageFault

__all__ = [
    "CONFIG_FILE",
    "TRAINING_FILE",
    "WEIGHTS_FILE",
    "TrainingRecord",
    "find_adapters",
    "new_directory",
    "read_base_name",
    "read_training_record",
    "write_adapter",
]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TRAINING_FILE = "training.json"


class TrainingRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """How `adapters make` made an adapter: the task or the data file's name, the seed, and what it cost."""

    task: str = ""
    data: str = ""
    seed: int = 0
    steps: int = 0
    examples: int = 0
    final_loss: float = 0.0


class _BaseName(msgspec.Struct):
    base_model_name_or_path: str | None = None


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its name when the block ends; on an error it is gone.

    Raises UsageFault where something is at `path` already.
    """
    if path.exists():
        raise UsageFault(f"{path} exists; name a new directory or remove this one")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = name_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        sync_directory(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(path.parent)


def write_adapter(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object], record: TrainingRecord
) -> None:
    """Write an adapter directory; equal arguments give equal bytes. Raises UsageFault where `path` exists."""
    from safetensors.torch import save_file

    with new_directory(path) as directory:
        save_file(dict(sorted(tensors.items())), directory / WEIGHTS_FILE, metadata={"format": "pt"})
        (directory / WEIGHTS_FILE).chmod(0o644)
        indented = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        (directory / CONFIG_FILE).write_bytes(orjson.dumps(config, option=indented))
        (directory / TRAINING_FILE).write_bytes(orjson.dumps(msgspec.to_builtins(record), option=indented))


def read_training_record(adapter: Path) -> TrainingRecord | None:
    """How the adapter was made, or None where `adapters make` did not make it. Raises BadInput for a broken record."""
    file = adapter / TRAINING_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=TrainingRecord)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(str(file), str(error), "the record that `adapters make` wrote") from error


def read_base_name(adapter: Path) -> str:
    """The base model an adapter's configuration names, "" where it names none. Raises BadInput."""
    file = adapter / CONFIG_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=_BaseName).base_model_name_or_path or ""
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(str(file), str(error), "the adapter_config.json that PEFT writes") from error


def find_adapters(directory: Path) -> dict[str, Path]:
    """Name and path of every adapter in a directory: itself, or each sub-directory with a configuration.

    Raises BadInput where there is none.
    """
    if (directory / CONFIG_FILE).is_file():
        return {directory.resolve().name: directory}
    found = {}
    if directory.is_dir():
        inside = sorted(child for child in directory.iterdir() if not child.name.startswith("."))
        found = {child.name: child for child in inside if (child / CONFIG_FILE).is_file()}
    if not found:
        raise BadInput(str(directory), "no adapter is here", f"a directory with {CONFIG_FILE}, or a directory of such")
    return found
