"""Adapters with magnitudes (DoRA) against PEFT's own modules, projection by projection, with and without bias."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from llmsys.engine.adapter_files import read_adapter
from llmsys.engine.device_lora import DeviceAdapters
from llmsys.engine.dora import fold_magnitudes
from llmsys.engine.errors import AdapterError
from llmsys.engine.factors import GROUPS, group_widths
from llmsys.engine.loader import load_decoder
from llmsys.engine.lora import HostAdapters, segments_of

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TARGETS = {"dora": [target for targets in GROUPS.values() for target in targets], "part": ["k_proj", "down_proj"]}
FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module", params=[LlamaConfig, Qwen2Config])
def adapted(request, tmp_path_factory):
    """PEFT's model with two DoRA adapters and a plain one, our decoder of its base, our readings of the three."""
    from peft import LoraConfig, PeftModel

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("dora")
    base = AutoModelForCausalLM.from_config(request.param(**SIZES)).eval()
    for name, parameter in base.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter)
    base.save_pretrained(root / "base")
    decoder = load_decoder(root / "base", device=CPU, dtype=torch.float32)
    model = None
    for name, targets in (*TARGETS.items(), ("plain", TARGETS["dora"])):
        config = LoraConfig(
            r=3, target_modules=targets, use_dora=name != "plain", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        if model is None:
            model = PeftModel(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
    model.save_pretrained(root)
    names = [*TARGETS, "plain"]
    return model.eval(), decoder, [read_adapter(root / name, decoder.config, rank_max=8) for name in names], names


def held_by(kind, decoder, files):
    long_rows = {"loop": 64, "matmul": 1}.get(kind)
    memory = (
        DeviceAdapters(decoder.config, dtype=torch.float32, device=CPU, decoder=decoder)
        if long_rows is None
        else HostAdapters(decoder.config, dtype=torch.float32, decoder=decoder, long_rows=long_rows)
    )
    return memory, [memory.place(file.rank, file.factors) for file in files]


def by_peft(model, name, layer, group, x):
    """What PEFT's modules of one fused group give, side by side."""
    model.set_adapter(name)
    block = model.base_model.model.model.layers[layer]
    home = block.mlp if group in ("gate_up", "down") else block.self_attn
    return torch.cat([getattr(home, target)(x) for target in GROUPS[group]], dim=1)


@pytest.mark.parametrize("kind", ["loop", "matmul", "device"])
@torch.no_grad()
def test_every_projection_of_a_mixed_batch_equals_pefts(adapted, kind):
    model, decoder, files, names = adapted
    memory, held = held_by(kind, decoder, files)
    rows = [0, 0, 1, 2, 2, 2, -1]
    step = memory.step([(segment, held[segment.slot]) for segment in segments_of(rows)])

    for layer in range(2):
        for group, (width, _) in group_widths(decoder.config).items():
            x = torch.randn(len(rows), width)
            plain = decoder.projection(layer, group)(x)
            found = step.add(plain.clone(), x, layer, group)

            for row, slot in enumerate(rows[:-1]):
                expected = by_peft(model, names[slot], layer, group, x[row : row + 1])[0]
                torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=1e-4)
            assert torch.equal(found[-1], plain[-1])


def test_the_memory_of_gains_is_counted(adapted):
    _, decoder, files, _ = adapted
    memory, (dora, _, plain) = held_by("loop", decoder, files)

    assert plain.bytes == memory.bytes_of(3)
    assert dora.bytes > plain.bytes


def test_magnitudes_without_the_base_model_are_no_silent_lora(adapted):
    _, _, files, _ = adapted

    with pytest.raises(ValueError, match="needs the base model's weights"):
        fold_magnitudes(files[0].factors, None)


def drop_one(tensors):
    del tensors[next(name for name in tensors if "magnitude" in name)]


def shorten_one(tensors):
    name = next(name for name in tensors if "magnitude" in name)
    tensors[name] = tensors[name].flatten()[:-1].clone()


def poison_one(tensors):
    tensors[next(name for name in tensors if "magnitude" in name)].view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [(drop_one, "has no magnitude"), (shorten_one, r"expected \[\d+\]"), (poison_one, "holds NaN or infinity")],
)
def test_magnitudes_that_do_not_fit_are_named_in_one_line(adapted, tmp_path, change, message):
    _, decoder, files, _ = adapted
    tensors = load_file(files[0].path / FILE)
    change(tensors)
    save_file(tensors, tmp_path / FILE)
    (tmp_path / "adapter_config.json").write_text((files[0].path / "adapter_config.json").read_text())

    with pytest.raises(AdapterError, match=message) as caught:
        read_adapter(tmp_path, decoder.config, rank_max=8)
    assert "\n" not in str(caught.value)


def test_a_magnitude_in_a_plain_lora_is_refused(adapted, tmp_path):
    _, decoder, files, _ = adapted
    (tmp_path / FILE).write_bytes((files[0].path / FILE).read_bytes())
    settings = json.loads((files[0].path / "adapter_config.json").read_text()) | {"use_dora": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))

    with pytest.raises(AdapterError, match="has a magnitude; expected one where use_dora is set"):
        read_adapter(tmp_path, decoder.config, rank_max=8)
