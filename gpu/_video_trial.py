"""One trial of one video engine, run as a program of its own: `_video_trial.py encode|decode ENGINE FORMAT`.

Encodes a small frame, decodes it again and compares; prints one JSON object {"works", "why"}. A codec that crashes
takes only this process along. Imports the standard library and PyAV alone, so that it starts fast.
"""

import json
import sys
from typing import Any

__all__ = ["main"]

SIDE = 256  # hardware encoders refuse frames below about 145 pixels
ENCODERS = {"hevc": "libx265", "h264": "libx264", "av1": "libsvtav1"}
DECODERS = {"hevc": "hevc", "h264": "h264", "av1": "libdav1d"}
MEAN_ERROR = 8.0  # of 255; a wrong frame is off by 60 and more


def _picture() -> Any:  # noqa: ANN401
    """A yuv420p frame with a diagonal ramp in luma and constant chroma."""
    import av

    frame = av.VideoFrame(SIDE, SIDE, "yuv420p")
    for plane, pixel in zip(frame.planes, (_luma, _chroma, _chroma), strict=True):
        rows = bytearray(plane.buffer_size)
        for y in range(plane.height):
            start = y * plane.line_size
            rows[start : start + plane.width] = bytes(pixel(x, y) for x in range(plane.width))
        plane.update(bytes(rows))
    frame.pts = 0
    return frame


def _luma(x: int, y: int) -> int:
    return (x + y) // 2 % 256


def _chroma(_x: int, _y: int) -> int:
    return 128


def _encode(engine: str) -> list[bytes]:
    """The packets of one frame."""
    import av

    context: Any = av.CodecContext.create(engine, "w")
    context.width = context.height = SIDE
    context.pix_fmt = "yuv420p"
    context.framerate = 25
    context.thread_count = 1
    packets = [*context.encode(_picture()), *context.encode(None)]
    return [bytes(packet) for packet in packets]


def _decode(engine: str, packets: list[bytes]) -> list[Any]:
    """The frames in the packets, as system-memory frames."""
    import av

    context: Any = av.CodecContext.create(engine, "r")
    context.thread_count = 1
    frames = [frame for packet in packets for frame in context.decode(av.Packet(packet))]
    return [*frames, *context.decode(None)]


def _error_of(frame: Any) -> float:  # noqa: ANN401
    """Mean absolute error of the luma plane against the picture."""
    plane = frame.planes[0]
    data, width = bytes(plane), int(plane.line_size)
    wrong = sum(abs(data[y * width + x] - _luma(x, y)) for y in range(SIDE) for x in range(SIDE))
    return wrong / SIDE**2


def _try(role: str, engine: str, stream: str) -> dict[str, object]:
    encoder = engine if role == "encode" else ENCODERS[stream]
    decoder = engine if role == "decode" else DECODERS[stream]
    frames = _decode(decoder, _encode(encoder))
    if len(frames) != 1 or (frames[0].width, frames[0].height) != (SIDE, SIDE):
        return {"works": False, "why": f"one {SIDE}x{SIDE} frame went in, {len(frames)} came out of another shape"}
    error = _error_of(frames[0])
    if error > MEAN_ERROR:
        return {"works": False, "why": f"the decoded frame is off by {error:.1f} of 255 on average"}
    return {"works": True, "why": ""}


def main(role: str, engine: str, stream: str) -> None:
    """Run the trial and print its verdict; whatever the codec raises becomes the reason, with FFmpeg's own words."""
    said: list[tuple[int, str, str]] = []
    try:
        import av.logging

        av.logging.set_level(av.logging.ERROR)
        with av.logging.Capture() as said:
            verdict = _try(role, engine, stream)
    except Exception as error:
        words = "; ".join(line.strip() for _, _, line in said[-2:])
        verdict = {"works": False, "why": words or f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(verdict) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
