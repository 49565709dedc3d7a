import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.errors import AdapterBusy, AdapterError, CapacityError, EngineError, ModelError, RequestError

ENGINE = Path(__file__).parents[2] / "llmsys/engine"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("block_tokens", 0, "block_tokens is 0; expected 1 or more"),
        ("quant", "int3", "quant is 'int3'; expected one of auto, none, int4"),
        ("max_len", 1, "max_len is 1; expected 2 or more"),
        ("kv_memory_bytes", 0, "kv_memory_bytes is 0"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(field, value, message):
    with pytest.raises(RequestError, match=message):
        EngineConfig(**{field: value})


@pytest.mark.parametrize("name", ["compile"])
def test_a_setting_that_nothing_obeys_is_not_accepted(name):
    with pytest.raises(TypeError, match=name):
        EngineConfig(**{name: 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant": "int4", "dtype": "float32"}, "quant int4 is not offered in torch.float32 on cpu; expected dtype bf"),
        ({"memory_bytes": 10}, "memory_bytes is 10; expected"),
    ],
)
def test_what_a_model_cannot_have_is_refused_when_it_is_loaded(settings, message):
    with pytest.raises(RequestError, match=message):
        Engine.load("smollm2", config=EngineConfig(**settings))


def test_every_setting_is_read_by_the_engine():
    source = "".join(path.read_text() for path in ENGINE.glob("*.py") if path.name != "config.py")
    by_property = {"max_batch_tokens", "spare_rows"}

    unread = {item.name for item in fields(EngineConfig) if f"config.{item.name}" not in source}

    assert unread == by_property


def test_the_budget_of_a_step_depends_on_the_device_unless_it_is_given():
    assert EngineConfig().batch_tokens("cpu") == 256
    assert EngineConfig().batch_tokens("cuda") == 512
    assert EngineConfig(max_batch_tokens=7).batch_tokens("cpu") == 7


def test_two_configurations_never_share_a_policy():
    assert EngineConfig().policy is not EngineConfig().policy


@pytest.mark.parametrize("kind", [AdapterBusy, AdapterError, CapacityError, EngineError, ModelError, RequestError])
def test_errors_keep_their_request_across_processes(kind):
    error = pickle.loads(pickle.dumps(kind("what is wrong", request_id=7)))

    assert (type(error), str(error), error.request_id) == (kind, "what is wrong", 7)
