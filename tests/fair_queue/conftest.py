"""Lets the tests of fair_queue import the modules in `support/`, and finds their fixtures."""

import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "fair-queue"
sys.path.insert(0, str(Path(__file__).parent / "support"))


@pytest.fixture(scope="session")
def a10g_log():
    """The measured run of the VTC artifact by name, as VTC_real."""
    return lambda name: FIXTURES / f"a10g_{name}.jsonl.gz"


@pytest.fixture(scope="session")
def published():
    """The directory with cuts of published traces."""
    return FIXTURES
