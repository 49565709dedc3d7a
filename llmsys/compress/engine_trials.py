"""What can encode and decode here, found by trial: every video engine and `tq`, with its speed on real work.

Speeds are MB/s of bfloat16 input on one frame of noise at a middle quality; they say which engine is worth its time on
this machine and no more. Knows no file.
"""

import time
from collections.abc import Iterator

import msgspec
import numpy as np

from llmsys.compress.codecs import decode_all
from llmsys.compress.coded import Target, in_memory
from llmsys.compress.tensor_encoder import encode_tq
from llmsys.compress.video import VideoSettings, encode_video
from llmsys.compress.video_engines import ENGINES
from llmsys.gpu import ENGINES as PROBED
from llmsys.gpu import Verdict, probe_engines

__all__ = ["EngineLine", "try_engines"]

SIDE = 512


class EngineLine(msgspec.Struct, frozen=True):
    """One engine: whether it works here, why not, and MB/s of bfloat16 values encoded and decoded by one thread."""

    engine: str
    works: bool
    why: str
    hardware: bool
    encode_mb_s: float | None = None
    decode_mb_s: float | None = None


def try_engines() -> Iterator[EngineLine]:
    """A line for every engine of this package, those that do not work here with the reason."""
    values = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    yield EngineLine("tq", True, "", False, *_speed("tq", values))
    verdicts = {verdict.engine.name: verdict for verdict in probe_engines(PROBED)}
    for name, engine in ENGINES.items():
        both = [verdicts[engine.encoder], verdicts[engine.decoder]]
        if all(one.works for one in both):
            yield EngineLine(name, True, "", both[0].engine.hardware, *_speed(name, values))
        else:
            yield EngineLine(name, False, _why(both), both[0].engine.hardware)


def _why(verdicts: list[Verdict]) -> str:
    return "; ".join(f"{one.engine.name}: {one.why}" for one in verdicts if not one.works)


def _speed(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[float, float]:
    """MB/s of encoding and of decoding, the better of two runs, so that compilation does not count."""
    numbers, best = in_memory(values), [0.0, 0.0]
    for _ in range(2):
        started = time.perf_counter()
        if name == "tq":
            coded = encode_tq(numbers, Target(step=0.35))
        else:
            low, high = ENGINES[name].qualities
            coded = encode_video(
                numbers, Target(quality=(low + high) // 2), name, VideoSettings(ENGINES[name].depths[-1])
            )
        encoded = time.perf_counter()
        decode_all(coded.entry, coded.data, name)
        ended = time.perf_counter()
        megabytes = 2 * values.size / 1e6
        best = [max(best[0], megabytes / (encoded - started)), max(best[1], megabytes / (ended - encoded))]
    return round(best[0], 2), round(best[1], 2)
