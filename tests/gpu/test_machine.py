"""The one record of `llmsys doctor`."""

import pytest
import torch

from llmsys.errors import Unavailable, UsageFault
from llmsys.gpu import ENGINES, OPTIONAL, cuda_names, examine


@pytest.fixture(autouse=True)
def same_threads_after():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_record_holds_every_engine_and_every_package():
    found = examine("cpu", dtype="float32", threads=1)

    assert [verdict.engine for verdict in found.video_engines] == list(ENGINES)
    assert [state.name for state in found.packages] == [package.module for package in OPTIONAL]
    assert (found.dtype, found.threads, found.ceilings) == ("float32", 1, None)
    assert found.device.endswith("1 threads")
    assert found.gpus == tuple(cuda_names())


@pytest.mark.parametrize(("options", "fault"), [({"device": "tpu"}, UsageFault), ({"dtype": "int3"}, UsageFault)])
def test_a_wrong_option_is_refused_before_any_trial(options, fault):
    with pytest.raises(fault):
        examine(**options)


@pytest.mark.skipif(torch.cuda.device_count() > 9, reason="has that many GPUs")
def test_a_missing_gpu_is_unavailable():
    with pytest.raises(Unavailable):
        examine("cuda:9")
