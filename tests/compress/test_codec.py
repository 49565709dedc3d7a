"""The door: blobs of any tensor, files opened lazily, models decoded at once or layer by layer with the same logits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.compress import codec
from llmsys.compress.evaluation import compare_models, logits_of
from llmsys.compress.original_model import load_original
from tests.compress.conftest import encode_file

pytestmark = pytest.mark.xdist_group("compress-model")  # one worker, so that the model is made once
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.int16, torch.bool]


def write_wide_model(path):
    """A random llama whose matrices are large enough to be coded."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.serve_lora.conftest import write_tiny_model

    write_tiny_model(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A random model and the directory of its coded form at 6 bits."""
    path = tmp_path_factory.mktemp("model")
    write_wide_model(path / "plain")
    encode_file(path / "plain", path / "coded", bits=6.0)
    return path


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), max_size=3), st.sampled_from(DTYPES), st.integers(0, 99))
def test_a_tensor_of_any_shape_and_type_comes_back(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(shape, generator=generator)).to(dtype)
    blob = codec.TensorCodec(step=0.05).encode(x)
    y = codec.decode(blob)

    assert (blob.shape, y.shape) == (tuple(shape), tuple(shape))
    expected = x.float().numpy() if x.is_floating_point() else x.numpy()
    assert np.abs(y.astype(np.float64) - expected).max(initial=0) <= (1.5 if dtype == torch.float8_e4m3fn else 0.25)


def test_a_transposed_tensor_is_coded_as_it_reads(k_proj):
    x = torch.from_numpy(k_proj).T

    assert np.array_equal(codec.decode(codec.TensorCodec("lossless").encode(x)), k_proj.T)
    assert np.array_equal(codec.decode(codec.TensorCodec("lossless").encode(k_proj[::2, 1:])), k_proj[::2, 1:])


def test_a_rate_is_met_and_rows_are_those_of_the_whole(k_proj):
    blob = codec.TensorCodec(bits=3.0).encode(k_proj)
    whole = codec.decode(blob)
    out = np.zeros((10, 576), np.float16)

    assert 2.99 < blob.bits < 3.03
    assert 0.012 < blob.nmse < 0.02
    assert codec.decode(blob, rows=slice(5, 15), out=out) is out
    assert np.array_equal(out, whole[5:15])


def test_a_blob_survives_a_wire_and_not_a_changed_bit(k_proj):
    blob = codec.TensorCodec(nmse=0.01).encode(k_proj)
    data = bytearray(blob)

    assert np.array_equal(codec.decode(bytes(data)), codec.decode(blob))
    rng = np.random.default_rng(0)
    for at in [*range(200), *rng.integers(0, len(data), 40)]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(codec.BadBitstream):
            codec.decode(bytes(damaged))
    for length in (0, 5, 19, 100, len(data) - 1):
        with pytest.raises(codec.BadBitstream):
            codec.decode(bytes(data[:length]))


def test_what_is_no_tensor_or_no_target_is_refused(k_proj):
    with pytest.raises(ValueError, match="complex64"):
        codec.TensorCodec().encode(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="2 targets"):
        codec.TensorCodec(bits=3.0, nmse=0.1)
    with pytest.raises(codec.TargetUnreachable):
        codec.TensorCodec(bits=9.0)
    with pytest.raises(ValueError, match="out of shape"):
        codec.decode(codec.TensorCodec().encode(k_proj), out=np.zeros(3))


def test_errors_of_the_door_are_value_errors():
    for kind in (codec.BadBitstream, codec.EngineMissing, codec.TargetUnreachable, codec.UnsupportedValues):
        assert issubclass(kind, ValueError)
        assert issubclass(kind, codec.CodecError)


def test_a_file_is_read_tensor_by_tensor(small_model):
    with codec.open(small_model / "coded") as opened:
        weight = opened["model.layers.0.mlp.up_proj.weight"]
        again = codec.decode(opened.blob("model.layers.0.mlp.up_proj.weight"))

    assert weight.shape == (192, 128)
    assert np.array_equal(weight.float().numpy(), again)


def test_the_engine_loads_a_coded_directory_and_predicts_nearly_the_same(small_model):
    original, coded = load_original(small_model / "plain"), codec.load_model(small_model / "coded")
    score = compare_models(original, coded, list(range(2, 200)), advance=lambda _: None)

    assert 0 < score.kl < 0.02
    assert score.top1 > 0.8
    assert score.kl_se < score.kl
    assert score.perplexity == pytest.approx(score.perplexity_original * np.exp(score.log_ratio), rel=1e-4)


def test_layers_that_stay_coded_give_the_same_logits_bit_for_bit(small_model):
    ids = list(range(2, 80))
    decoded = codec.load_model(small_model / "coded")
    resident = codec.load_model(small_model / "coded", resident="compressed")

    assert torch.equal(logits_of(decoded, ids), logits_of(resident, ids))
    assert resident.layers[0].down.stored_bytes < 0.9 * 128 * 192
    with pytest.raises(ValueError, match="resident is 'half'"):
        codec.load_model(small_model / "coded", resident="half")


def test_the_same_model_has_no_divergence_from_itself(small_model):
    model = load_original(small_model / "plain")
    score = compare_models(model, model, list(range(2, 100)), advance=lambda _: None)

    assert (score.kl, score.top1, score.log_ratio) == (0.0, 1.0, 0.0)


def test_the_engine_s_logits_are_those_of_transformers(small_model):
    from transformers import AutoModelForCausalLM

    ids = list(range(2, 60))
    reference = AutoModelForCausalLM.from_pretrained(small_model / "plain")(torch.tensor([ids])).logits[0]

    torch.testing.assert_close(logits_of(load_original(small_model / "plain"), ids), reference, rtol=1e-4, atol=1e-4)
