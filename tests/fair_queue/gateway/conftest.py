"""Lets the gateway's tests import the modules in `support/`; backends and gateways on free ports."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))


@pytest.fixture
def backend():
    """A scripted backend."""
    from scripted_backend import ScriptedBackend

    with ScriptedBackend() as running:
        yield running


@pytest.fixture
def gateway(tmp_path, backend):
    """A gateway in front of the scripted backend, window 64."""
    from gateway_process import GatewayProcess

    with GatewayProcess(tmp_path, backend, options=("--window", 64)) as running:
        yield running
