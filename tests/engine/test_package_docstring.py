"""The package's account of a request's life: eight steps, which name what is there."""

import re
from pathlib import Path

import llmsys.engine as package

HOME = Path(package.__file__).parent
NAMED = re.findall(r"`([\w.]+)`", package.__doc__ or "")


def test_the_life_of_a_request_has_eight_numbered_steps():
    assert re.findall(r"^(\d)\. ", package.__doc__ or "", flags=re.MULTILINE) == list("12345678")


def test_every_name_in_the_account_is_a_module_or_is_defined_in_one():
    modules = {path.stem for path in HOME.glob("*.py")}
    source = "\n".join(path.read_text(encoding="utf-8") for path in HOME.glob("*.py"))
    missing = [
        name
        for name in NAMED
        if name.split(".")[0] not in modules and not re.search(rf"(class|def) {name.split('.')[-1]}\b", source)
    ]

    assert len(NAMED) > 15
    assert missing == []


def test_the_parts_that_a_request_passes_are_all_in_the_account():
    passed = {"core", "intake", "policy", "scheduler", "block_manager", "adapter_pool", "forward", "sampler", "logits"}

    assert passed | {"stream", "detokenizer", "journal", "server_loop", "runner", "parts"} <= set(NAMED)
