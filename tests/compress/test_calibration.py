"""Moments of a model against autograd's own, their file, and what it refuses."""

import numpy as np
import pytest
import torch

from llmsys.artifacts import write_tensors
from llmsys.compress.calibration import calibrate, measure_statistics
from llmsys.compress.evaluation import logits_of
from llmsys.compress.original_model import load_original
from llmsys.compress.sensitivity import read_statistics
from llmsys.errors import BadInput, UsageFault
from tests.compress.test_codec import write_wide_model

TEXT = "The river ran below the old mill, and the miller counted sacks until the lamp went out. " * 3


def told_nothing(done):
    pass


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A small model's directory, its text, and the moments of 200 tokens."""
    directory = tmp_path_factory.mktemp("calibrated")
    write_wide_model(directory / "model")
    (directory / "text.txt").write_text(TEXT)
    found = calibrate(directory / "model", directory / "text.txt", tokens=200, seed=3, advance=told_nothing)
    return directory, *found


def reference_moments(directory, ids, seed):
    """The same by hooks on transformers' model: inputs and squared output gradients of q and down of layer 1."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    block = model.model.layers[1]
    kept = {}

    def keep(name):
        def hook(_module, inputs, output):
            output.retain_grad()
            kept[name] = (inputs[0][0].detach(), output)

        return hook

    block.self_attn.q_proj.register_forward_hook(keep("q"))
    block.mlp.down_proj.register_forward_hook(keep("down"))
    logits = model(torch.tensor([ids])).logits[0]
    labels = torch.multinomial(torch.softmax(logits.detach(), -1), 1, generator=torch.Generator().manual_seed(seed))[
        :, 0
    ]
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    return {name: (x.T @ x / len(ids), y.grad[0].square().mean(0)) for name, (x, y) in kept.items()}


@pytest.mark.parametrize(("short", "name"), [("q", "self_attn.q_proj"), ("down", "mlp.down_proj")])
def test_moments_are_those_of_hooks_on_another_implementation(calibrated, short, name):
    from llmsys.compress.evaluation import text_ids

    directory, statistics, line = calibrated
    ids = text_ids(directory / "model", directory / "text.txt", 200)
    inputs, outputs = reference_moments(directory / "model", ids, 3)[short]
    shape = (len(outputs), len(inputs))
    found = statistics.of(f"model.layers.1.{name}.weight", shape)

    assert line.tokens == len(ids) == 200
    assert np.allclose(found.inputs, inputs, rtol=2e-3, atol=1e-5)
    # a label drawn at the edge between two tokens may differ, so rows are compared as a whole
    assert np.corrcoef(found.outputs, outputs)[0, 1] > 0.99
    assert found.outputs.mean() == pytest.approx(float(outputs.mean()), rel=0.05)


def test_the_loss_is_the_entropy_of_the_models_own_predictions(calibrated):
    from llmsys.compress.evaluation import text_ids

    directory, _, line = calibrated
    ids = text_ids(directory / "model", directory / "text.txt", 200)
    chances = torch.log_softmax(logits_of(load_original(directory / "model"), ids), -1)
    entropy = -(chances.exp() * chances).sum(-1)

    assert line.loss == pytest.approx(float(entropy.mean()), abs=5 * float(chances.std()) / 200**0.5)


def test_parts_of_a_fused_projection_share_inputs_and_divide_outputs(calibrated):
    _, statistics, line = calibrated
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    q, k, v = (statistics.of(name, (rows, 128)) for name, rows in zip(names, (128, 64, 64), strict=True))

    assert line.matrices == 14
    assert q.inputs is k.inputs is v.inputs
    assert [len(one.outputs) for one in (q, k, v)] == [128, 64, 64]
    assert not np.array_equal(k.outputs, v.outputs)


def test_the_file_gives_back_what_was_written_and_the_same_bytes(calibrated, tmp_path):
    _, statistics, _ = calibrated
    statistics.write(tmp_path / "a.safetensors")
    read = read_statistics(tmp_path / "a.safetensors")
    read.write(tmp_path / "b.safetensors")

    assert read.places == statistics.places
    assert all(np.array_equal(read.inputs[group], statistics.inputs[group]) for group in statistics.inputs)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert read.checksum() == statistics.checksum()


def test_the_same_seed_gives_the_same_moments_and_another_does_not(calibrated):
    from llmsys.compress.evaluation import text_ids

    directory, statistics, _ = calibrated
    ids = text_ids(directory / "model", directory / "text.txt", 200)
    decoder = load_original(directory / "model")
    again = measure_statistics(decoder, ids, seed=3, advance=told_nothing)[0]
    other = measure_statistics(decoder, ids, seed=4, advance=told_nothing)[0]

    assert again.checksum() == statistics.checksum()
    assert np.array_equal(other.inputs["layers.0.o"], statistics.inputs["layers.0.o"])
    assert not np.array_equal(other.outputs["layers.0.o"], statistics.outputs["layers.0.o"])


def test_a_tensor_that_was_not_measured_has_no_sensitivity_and_a_wrong_shape_is_refused(calibrated):
    _, statistics, _ = calibrated

    assert statistics.of("model.embed_tokens.weight", (258, 128)) is None
    with pytest.raises(BadInput, match=r"shape \(3, 128\)"):
        statistics.of("model.layers.0.self_attn.q_proj.weight", (3, 128))


def test_too_short_a_text_is_refused(calibrated, tmp_path):
    directory, _, _ = calibrated
    (tmp_path / "short.txt").write_text("Too short.")

    with pytest.raises(UsageFault, match="expected 32 or more"):
        calibrate(directory / "model", tmp_path / "short.txt", tokens=100, seed=0, advance=told_nothing)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: {**one, "layers.0.o.inputs": one["layers.0.o.inputs"][:5]},
        lambda one: {**one, "layers.0.o.outputs": -one["layers.0.o.outputs"]},
        lambda one: {**one, "layers.0.o.inputs": one["layers.0.o.inputs"] * np.float32(np.nan)},
        lambda one: {**one, "layers.0.qkv.outputs": one["layers.0.qkv.outputs"][:9]},
        lambda one: {name: array for name, array in one.items() if name != "layers.0.o.inputs"},
    ],
    ids=["not square", "negative", "no number", "too short", "missing"],
)
def test_moments_that_cannot_be_are_refused(calibrated, tmp_path, spoil):
    _, statistics, _ = calibrated
    arrays = {f"{name}.inputs": one for name, one in statistics.inputs.items()}
    arrays |= {f"{name}.outputs": one for name, one in statistics.outputs.items()}
    write_tensors(tmp_path / "bad.safetensors", spoil(arrays), document=statistics.places)

    with pytest.raises(BadInput):
        read_statistics(tmp_path / "bad.safetensors")


def test_a_file_of_something_else_is_refused(tmp_path):
    write_tensors(tmp_path / "other.safetensors", {"a": np.zeros((4, 4), np.float32)})

    with pytest.raises(BadInput):
        read_statistics(tmp_path / "other.safetensors")
