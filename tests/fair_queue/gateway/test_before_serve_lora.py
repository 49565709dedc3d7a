"""The gateway in front of our own server on the embedded model: two tenants, real tokens, books that agree."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
from gateway_process import GatewayProcess
from load import crowd

pytestmark = pytest.mark.slow


@contextmanager
def serving():
    """`llmsys serve-lora serve` on a free port; skips by name where this tree has no such verb."""
    command = [sys.executable, "-m", "llmsys", "serve-lora", "serve"]
    if subprocess.run([*command, "--help"], capture_output=True, check=False).returncode:
        pytest.skip("serve-lora has no verb serve here")
    process = subprocess.Popen([*command, "--port", "0", "--max-sequences", "2"], stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline()
        yield "http://" + line.decode().partition("http://")[2].split('"')[0].split()[0].rstrip("/")
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def test_our_own_server_is_shared_fairly_and_its_usage_is_the_charge(tmp_path):
    script, body = {}, {"model": "smollm2", "max_tokens": 6}
    with serving() as backend, GatewayProcess(tmp_path, backend, options=("--window", 2)) as gateway:
        status, _, whole = gateway.chat(tenant="c", **body)
        assert status == 200, whole
        usage = json.loads(whole)["usage"]
        charged = gateway.tenants()["c"]
        assert (charged["prompt_tokens"], charged["output_tokens"]) == (
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )
        groups = [("a", 2, script, body | {"stream": True}), ("b", 6, script, body | {"stream": True})]
        answers = crowd(gateway.port, groups, seconds=20)
        accounts = gateway.tenants()

    assert all(status == 200 and b"[DONE]" in text for one in answers.values() for status, text in one.whole)
    assert accounts["a"]["estimated"] == accounts["b"]["estimated"] == 0
    # both ask for more than they get, so what they got differs by a few requests at most
    assert abs(accounts["a"]["requests"] - accounts["b"]["requests"]) <= 8
