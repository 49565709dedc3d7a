"""What ties a process to its parent: the signal comes however the parent goes, and at once where it has gone."""

import os
import select
import signal
import subprocess
import sys

import pytest

TIED = (
    "import os, signal, sys; from llmsys.lifeline import signal_at_parents_end as tie; "
    "tie(signal.Signals(int(sys.argv[1])), os.getppid()); print(os.getpid(), flush=True); signal.pause()"
)
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]], check=False)"


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells children of their parents' end on Linux only")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_does_not_outlive_a_parent_that_is_killed(number):
    with subprocess.Popen([sys.executable, "-c", PARENT, TIED, str(int(number))], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        handle = os.pidfd_open(child)
        parent.kill()
        ended, _, _ = select.select([handle], [], [], 30)
        os.close(handle)

    assert ended


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is done")
def test_a_process_whose_parent_has_gone_already_ends_at_once():
    gone = (
        "import signal; from llmsys.lifeline import signal_at_parents_end as tie; tie(signal.SIGTERM, 0); print('on')"
    )
    run = subprocess.run([sys.executable, "-c", gone], capture_output=True, timeout=30, check=False)

    assert (run.returncode, run.stdout) == (1, b"")
