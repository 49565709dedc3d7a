"""Where workers come from: forked with what they need, gone when their parent is."""

import os
import select
import signal
import subprocess
import sys

import pytest

from llmsys.errors import LlmsysError
from llmsys.moe_train.train import Nursery

ECHO = "tests.moe_train.train.programs:echo"
PARENT = """
import sys
from llmsys.moe_train.train import Nursery
nursery = Nursery()
child = nursery.start("tests.moe_train.train.programs:echo", {"greeting": "here"})
child.pipe.recv()
print(child.pid, flush=True)
sys.stdin.read()
"""


def gone(child):
    return bool(select.select([child.handle], [], [], 60)[0])


def test_a_child_runs_its_entry_with_its_pipe_and_arguments(nursery):
    child = nursery.start(ECHO, {"greeting": "good morning"})
    greeting, pid = child.pipe.recv()

    assert (greeting, pid) == ("good morning", child.pid)
    child.close()


def test_an_entry_that_fails_ends_its_process_and_no_other(nursery):
    failing = nursery.start("tests.moe_train.train.programs:no_such_program", {})
    child = nursery.start(ECHO, {"greeting": "still here"})

    assert gone(failing)
    assert child.pipe.recv()[0] == "still here"
    failing.close()
    child.close()


def test_a_signal_to_a_dead_child_says_so(nursery):
    child = nursery.start(ECHO, {"greeting": "hello"})
    first = child.signal(signal.SIGKILL)

    assert first
    assert gone(child)
    assert not child.signal(signal.SIGKILL)
    child.close()


def test_a_killed_parent_leaves_no_child_behind_not_even_a_stopped_one():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    ended = select.select([handle], [], [], 60)[0]
    os.close(handle)
    parent.stdin.close()
    parent.stdout.close()

    assert ended


def test_a_closed_nursery_starts_nothing():
    nursery = Nursery()
    nursery.close()

    with pytest.raises(LlmsysError, match="is gone"):
        nursery.start(ECHO, {})
