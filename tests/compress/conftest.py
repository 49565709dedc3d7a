"""Real weights, a small model on disk, and short ways to code an array."""

from pathlib import Path

import numpy as np
import pytest

from llmsys.compress.codecs import decode_all
from llmsys.compress.coded import Target, in_memory
from llmsys.compress.decoding import Archive
from llmsys.compress.requests import EncodeRequest
from llmsys.compress.tensor_encoder import encode_tq

FIXTURES = Path(__file__).parents[2] / "fixtures" / "compress"


@pytest.fixture(scope="session")
def k_proj():
    """A real key projection, [192, 576] float16."""
    return np.load(FIXTURES / "k_proj.npy")


def gap_db(nmse, bits):
    """Distance to the Gaussian bound, in dB."""
    return 10 * np.log10(nmse) + 6.0206 * bits


def code_to_bits(array, bits, *, trellis=8, jobs=1):
    """`tq` at so many bits of stream per value; the record is not counted."""
    size = int(bits * array.size / 8)
    target = Target(stored_bytes=size, slack_bytes=max(4, int(0.0035 * array.size / 8)))
    return encode_tq(in_memory(array), target, trellis=trellis, jobs=jobs)


def decoded(coded):
    """The values of a coded tensor as float32."""
    from llmsys.compress.number_formats import from_words

    return from_words(decode_all(coded.entry, coded.data, "test"), coded.entry.format).reshape(coded.entry.shape)


def encode_file(source, out, *, resume=False, **options):
    """Run an encode request on paths; the lines it gives."""
    return list(EncodeRequest(**options).prepare(Path(source)).encode(Path(out), resume=resume))


def read_back(path):
    """Every tensor of a compressed file or directory, as numpy has it."""
    with Archive(Path(path)) as archive:
        return {name: archive.array(name) for name in archive.names()}


@pytest.fixture
def model_dir(tmp_path):
    """A directory as transformers writes it: two matrices that are coded, a vector and small ones that are not."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type":"llama"}')
    tensors = {
        "a.weight": torch.randn(96, 128, generator=generator).bfloat16(),
        "b.weight": 3 * torch.randn(64, 200, generator=generator),
        "norm.weight": torch.randn(5000, generator=generator),
        "small.weight": torch.randn(8, 8, generator=generator),
        "ids": torch.arange(6000).reshape(60, 100),
    }
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path
