"""Devices: chosen from names, never replaced in silence, described in one line."""

import pytest
import torch

from llmsys.errors import Unavailable, UsageFault
from llmsys.gpu import choose_device, cuda_names, describe
from llmsys.gpu.device import _cpu_name


@pytest.fixture
def two_gpus(monkeypatch):
    """A driver that reports two GPUs: what lies outside the process, replaced."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ["H100", "L4"][index])


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_gpu_auto_and_cpu_are_the_cpu(no_gpu, name):
    assert choose_device(name) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "chosen"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_with_gpus_names_and_auto_find_them(two_gpus, name, chosen):
    assert choose_device(name) == torch.device(chosen)


def test_cpu_stays_the_cpu_beside_gpus(two_gpus):
    assert choose_device("cpu") == torch.device("cpu")
    assert cuda_names() == ["H100", "L4"]


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_named_gpu_that_is_missing_is_unavailable_and_says_what_is_there(no_gpu, name):
    with pytest.raises(Unavailable) as caught:
        choose_device(name)

    assert caught.value.exit_code == 69
    assert f"device {name} is not there" in str(caught.value)
    assert "no GPU, only cpu" in str(caught.value)
    assert "--device cpu" in caught.value.remedy


def test_a_gpu_past_the_last_names_the_ones_there_are(two_gpus):
    with pytest.raises(Unavailable, match="cuda:0 H100, cuda:1 L4; use --device auto or cpu"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["", "tpu", "CPU", "cuda:", "cuda:-1", "cuda:one", "cuda:²", "cpu:0", "cuda:0:1"])
def test_a_name_that_is_no_device_is_a_usage_fault(name):
    with pytest.raises(UsageFault, match="expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_describing_the_cpu_names_processor_instructions_and_threads():
    threads = torch.get_num_threads()

    assert describe() == describe(torch.device("cpu"))
    assert describe().startswith("cpu ")
    assert describe().endswith(f", {threads} threads")
    assert torch.backends.cpu.get_cpu_capability() in describe()


def test_the_processor_name_is_read_from_cpuinfo_or_falls_back_to_the_architecture(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Made Up: 9\nmodel name\t: other\n")

    assert _cpu_name(cpuinfo) == "Made Up: 9"
    assert _cpu_name(tmp_path / "missing") != ""


@pytest.mark.gpu
def test_describing_a_gpu_names_it(device):
    assert torch.cuda.get_device_name(device) in describe(device)
