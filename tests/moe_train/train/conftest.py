"""One process with torch loaded, from which the tests' processes are forked."""

from functools import partial

import pytest

from llmsys.moe_train.train import Nursery
from tests.moe_train.train.ranks import started


@pytest.fixture(scope="package")
def nursery():
    with Nursery() as opened:
        yield opened


@pytest.fixture
def ranks(nursery):
    """ranks(PROGRAM, COUNT, **options): a context of COUNT processes."""
    return partial(started, nursery)
