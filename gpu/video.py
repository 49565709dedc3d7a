"""Which video engines work here, found by trial: one small frame through each encoder and decoder.

Never by name: wheels of PyAV list NVENC on machines without a GPU. Each trial is a process of its own with a time
limit, so a codec that raises, crashes or hangs is a verdict and not the end of the caller. Knows nothing of tensors.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmsys.gpu.threads import usable_cpus

__all__ = ["ENGINES", "Engine", "Verdict", "probe_engine", "probe_engines"]

TRIAL = Path(__file__).with_name("_video_trial.py")
LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Engine:
    """A codec by FFmpeg's name, what it does, the stream it writes or reads, and whether it is silicon of a GPU."""

    name: str
    role: Literal["encode", "decode"]
    stream: Literal["hevc", "h264", "av1"]
    hardware: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the trial of an engine found; `why` is empty where it works."""

    engine: Engine
    works: bool
    why: str


ENGINES = (
    Engine("libx265", "encode", "hevc"),
    Engine("libx264", "encode", "h264"),
    Engine("libsvtav1", "encode", "av1"),
    Engine("hevc_nvenc", "encode", "hevc", hardware=True),
    Engine("h264_nvenc", "encode", "h264", hardware=True),
    Engine("av1_nvenc", "encode", "av1", hardware=True),
    Engine("hevc", "decode", "hevc"),
    Engine("h264", "decode", "h264"),
    Engine("libdav1d", "decode", "av1"),
    Engine("hevc_cuvid", "decode", "hevc", hardware=True),
    Engine("h264_cuvid", "decode", "h264", hardware=True),
    Engine("av1_cuvid", "decode", "av1", hardware=True),
)


def probe_engines(engines: Iterable[Engine] = ENGINES, *, timeout_s: float = 20.0) -> list[Verdict]:
    """Try every engine, as many at once as the process may use CPUs; verdicts in the order given."""
    with ThreadPoolExecutor(max_workers=usable_cpus()) as pool:
        return list(pool.map(lambda engine: probe_engine(engine, timeout_s=timeout_s), engines))


def probe_engine(engine: Engine, *, timeout_s: float = 20.0, trial: Path = TRIAL) -> Verdict:
    """Run the program `trial` with the engine's role, name and stream, and judge what came of it.

    The program prints, as its last line, {"works": bool, "why": str}; anything else is a verdict against the engine.
    """
    command = [sys.executable, "-P", str(trial), engine.role, engine.name, engine.stream]
    try:
        ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(engine, works=False, why=f"no answer within {timeout_s:g} s")
    if ended.returncode != 0:
        return Verdict(engine, works=False, why=_death(ended.returncode, ended.stderr))
    return _read(engine, ended.stdout)


def _read(engine: Engine, stdout: bytes) -> Verdict:
    try:
        found = json.loads(stdout.splitlines()[-1])
        works, why = found["works"], found["why"]
    except (IndexError, ValueError, KeyError, TypeError):
        return Verdict(engine, works=False, why="the trial ended without a verdict")
    return Verdict(engine, works=works is True, why=str(why)[:LONGEST_REASON])


def _death(code: int, stderr: bytes) -> str:
    """How the trial died: the signal's name, or the exit code and the last line of stderr."""
    if code < 0:
        known = {member.value: member.name for member in signal.Signals}
        return f"the codec crashed with {known.get(-code, f'signal {-code}')}"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return f"the trial ended with code {code}: {lines[-1] if lines else 'it said nothing'}"[:LONGEST_REASON]
