"""Video engines: targets are met, samples survive an independent look, and a damaged stream does no harm."""

import io
import os

import numpy as np
import pytest

from llmsys.compress.codecs import decode_all
from llmsys.compress.coded import Target, in_memory
from llmsys.compress.decoding import Archive
from llmsys.compress.errors import BadBitstream, EngineMissing, TargetUnreachable
from llmsys.compress.tensor_encoder import encode_tq
from llmsys.compress.video import VideoSettings, decode_video, encode_video
from llmsys.compress.video_engines import ENGINES, decode_frame, encode_frame, engine_named
from llmsys.errors import UsageFault
from tests.compress.conftest import decoded, encode_file, gap_db

SOFTWARE = ["x265", "x264", "svtav1"]


def coded_by(codec, array, target, **settings):
    return encode_video(in_memory(array), target, codec, VideoSettings(**settings))


@pytest.mark.parametrize("codec", ["x264", "svtav1"])
@pytest.mark.parametrize("bits", [1.5, 3.3])
def test_a_fractional_rate_is_met_from_below(k_proj, codec, bits):
    size = int(bits * k_proj.size / 8)
    entry = coded_by(codec, k_proj, Target(stored_bytes=size, slack_bytes=70)).entry

    assert size - 70 <= entry.stored_bytes <= size
    assert gap_db(entry.nmse, bits) < 3.5


def test_an_error_is_met_from_below(k_proj):
    entry = coded_by("svtav1", k_proj, Target(nmse=0.02)).entry

    assert 0.0198 <= entry.nmse <= 0.02


@pytest.mark.parametrize("codec", SOFTWARE)
def test_the_stated_error_is_that_of_the_decoded_values(k_proj, codec):
    coded = coded_by(codec, k_proj, Target(quality=20))
    gap = decoded(coded).astype(np.float64) - k_proj

    assert (gap**2).mean() / k_proj.astype(np.float64).var() == pytest.approx(coded.entry.nmse, rel=1e-6)


@pytest.mark.parametrize("codec", SOFTWARE)
def test_the_same_tensor_gives_the_same_bytes(k_proj, codec):
    first, second = (coded_by(codec, k_proj, Target(quality=30)) for _ in range(2))

    assert first == second


@pytest.mark.parametrize(
    ("codec", "depth", "chroma"),
    [
        ("x265", 8, "420"),
        ("x265", 10, "gray"),
        ("x265", 12, "420"),
        ("x264", 8, "gray"),
        ("x264", 10, "420"),
        ("svtav1", 8, "420"),
    ],
)
def test_the_finest_quality_keeps_samples_within_a_few(codec, depth, chroma):
    rng = np.random.default_rng(0)
    samples = np.clip(rng.normal(1 << (depth - 1), 12, (256, 264)), 0, (1 << depth) - 1).astype(np.uint16)
    engine = ENGINES[codec]
    quality = engine.qualities[0]
    stream = encode_frame(samples, engine, quality=quality, depth=depth, chroma=chroma, preset="")
    back = decode_frame(stream, engine.decoder, samples.shape, depth, "t")

    assert np.abs(back.astype(int) - samples).max() <= 4 << max(0, depth - 10)


@pytest.mark.parametrize("codec", SOFTWARE)
def test_constant_chroma_costs_next_to_nothing(k_proj, codec):
    """Against monochrome where the engine has it, else under 0.02 bits for a frame of one value."""
    engine = ENGINES[codec]
    if engine.monochrome:
        sizes = [
            coded_by(codec, k_proj, Target(quality=26), chroma=chroma).entry.stored_bytes for chroma in ("420", "gray")
        ]
        assert 8 * abs(sizes[0] - sizes[1]) / k_proj.size < 0.02
        return
    flat = np.full((256, 256), 512, np.uint16)
    stream = encode_frame(flat, engine, quality=30, depth=10, chroma="420", preset="")

    assert 8 * len(stream) / flat.size < 0.02


def test_a_container_of_ffmpeg_decodes_our_stream_to_the_same_samples(k_proj):
    """The demuxer finds codec and size by itself: nothing is passed to it but the bytes of an Annex B stream."""
    import av

    samples = np.clip(np.round(512 + 64 * k_proj.astype(float) / k_proj.std()), 0, 1023).astype(np.uint16)
    framed = np.pad(samples, ((0, 64), (0, 0)), mode="edge")
    stream = encode_frame(framed, ENGINES["x265"], quality=20, depth=10, chroma="420", preset="")
    ours = decode_frame(stream, "hevc", framed.shape, 10, "t")
    with av.open(io.BytesIO(stream), format="hevc") as opened:
        frame = next(opened.decode(video=0))
        plane = frame.planes[0]
        rows = np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)[: frame.height, : frame.width]

    assert np.array_equal(rows, ours)


@pytest.mark.parametrize("shape", [(5000,), (3, 7, 300), (70, 4200), (1, 9000), (9000, 9)])
def test_any_shape_comes_back(shape):
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    coded = coded_by("svtav1", array, Target(quality=10))
    values = decoded(coded)

    assert values.shape == shape
    assert coded.entry.nmse < 0.01


def test_outliers_and_nans_are_kept_exactly(k_proj):
    array = k_proj.astype(np.float32)
    array[3, 4], array[5, 6], array[7, 8] = 1e5, np.nan, -np.inf
    values = decoded(coded_by("svtav1", array, Target(quality=20)))

    assert values[3, 4] == 1e5
    assert np.isnan(values[5, 6])
    assert values[7, 8] == -np.inf


def test_tq_is_more_than_a_decibel_better_than_the_best_engine(k_proj):
    size = int(3 * k_proj.size / 8)
    target = Target(stored_bytes=size, slack_bytes=60)
    best = min(coded_by(codec, k_proj, target).entry.nmse for codec in ("x264", "svtav1"))
    ours = encode_tq(in_memory(k_proj), target).entry.nmse

    assert 10 * np.log10(best / ours) > 1.0


def test_a_rate_finer_than_the_engine_can_is_refused_with_the_range(k_proj):
    with pytest.raises(TargetUnreachable, match="reachable"):
        coded_by("svtav1", k_proj, Target(stored_bytes=40, slack_bytes=4))


@pytest.mark.parametrize("codec", SOFTWARE)
def test_a_damaged_stream_is_refused_or_decodes_to_its_size(k_proj, codec):
    coded = coded_by(codec, k_proj, Target(quality=40))
    payload, rng = coded.blobs[1], np.random.default_rng(0)
    for at in range(0, len(payload), max(1, len(payload) // 40)):
        damaged = bytearray(payload)
        damaged[at] ^= 1 << int(rng.integers(8))
        for data in (bytes(damaged), payload[:at]):
            try:
                words = decode_video(coded.entry, coded.blobs[0], data, coded.entry.chunks[0], "t")
            except BadBitstream:
                continue
            assert len(words) == k_proj.size


def test_a_stream_of_another_size_is_refused():
    engine = ENGINES["x264"]
    stream = encode_frame(np.zeros((256, 512), np.uint16), engine, quality=30, depth=10, chroma="420", preset="")

    with pytest.raises(BadBitstream, match=r"frames of sizes \[\(256, 512\)\]"):
        decode_frame(stream, engine.decoder, (256, 256), 10, "t")
    with pytest.raises(BadBitstream, match="samples of 10 bits"):
        decode_frame(stream, engine.decoder, (256, 512), 8, "t")


def test_video_is_decoded_only_where_it_is_allowed(k_proj, tmp_path):
    np.save(tmp_path / "w.npy", k_proj)
    encode_file(tmp_path / "w.npy", tmp_path / "w.safetensors", codec="x264", bits=3.0)

    with Archive(tmp_path / "w.safetensors") as archive, pytest.raises(UsageFault, match="--allow-video"):
        archive.array("w")
    with Archive(tmp_path / "w.safetensors", allow_video=True) as archive:
        assert archive.array("w").shape == k_proj.shape


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="this machine has a GPU")
def test_an_engine_that_is_not_here_is_named_with_those_that_are():
    with pytest.raises(EngineMissing, match=r"hevc_nvenc does not work here; .* libx265, libx264, libsvtav1"):
        engine_named("hevc_nvenc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "tq", "qp": 20}, "are a video engine's"),
        ({"codec": "x265", "qp": 60}, "expected 0 to 51 of x265"),
        ({"codec": "x264", "video": VideoSettings(depth=12)}, "x264 has 8, 10"),
        ({"codec": "svtav1", "video": VideoSettings(chroma="gray")}, "svtav1 has 420 alone"),
    ],
)
def test_settings_that_an_engine_lacks_are_refused(k_proj, tmp_path, options, message):
    np.save(tmp_path / "w.npy", k_proj)

    with pytest.raises(UsageFault, match=message):
        encode_file(tmp_path / "w.npy", tmp_path / "w.safetensors", **options)


def test_decoding_is_the_same_each_time(k_proj):
    coded = coded_by("svtav1", k_proj, Target(quality=30))

    assert decode_all(coded.entry, coded.data, "t").tobytes() == decode_all(coded.entry, coded.data, "t").tobytes()
