"""The files around a batch: adapters by name, and the results of an earlier run that this one goes on from.

Knows nothing of engines.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from llmsys.artifacts import BatchRequest, BatchResult, read_requests
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.adapter_check import check_name
from llmsys.serve_lora.adapter_files import find_adapters

__all__ = ["adapter_paths", "finished_ids", "pending_lines"]


def adapter_paths(directory: Path | None, named: Iterable[str]) -> dict[str, Path]:
    """Adapters of a directory, and those given as NAME=PATH, which win. Raises BadInput, UsageFault."""
    paths = find_adapters(directory) if directory is not None else {}
    for item in named:
        name, equals, path = item.partition("=")
        if not equals or not path:
            raise UsageFault(f"--adapter {item!r} names no path; expected NAME=PATH")
        if fault := check_name(name):
            raise UsageFault(f"--adapter {fault}")
        paths[name] = Path(path)
    return paths


def pending_lines(
    source: str | Path, resume: Path | None, *, on_error: str, on_skip: Callable[[BadInput], None]
) -> Iterator[BatchRequest]:
    """Requests of a source that the results file `resume` does not answer. Raises as `read_requests` does."""
    done = finished_ids(resume) if resume is not None else set()
    requests = read_requests(source, on_error=on_error, on_skip=on_skip)
    return (line for line in requests if line.custom_id not in done)


def finished_ids(path: Path) -> set[str]:
    """custom_ids that a results file answers; lines with an error are to be run again.

    A last line that a kill has cut is taken off the file, so that what is appended starts a line of its own. Raises
    BadInput for a line that is no result. A file that does not exist yet answers nothing.
    """
    if not path.exists():
        return set()
    done = set()
    decoder = msgspec.json.Decoder(BatchResult)
    with path.open("rb+") as stream:
        whole = 0
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                result = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise BadInput(f"{path}:{number}", str(error), "a result line of `serve-lora run`") from error
            if result.response is not None:
                done.add(result.custom_id)
        if stream.seek(0, os.SEEK_END) > whole:
            stream.truncate(whole)
    return done
