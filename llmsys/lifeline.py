"""What ties a process to the one that started it, so that none is left behind however its parent went.

Knows nothing of what either does.
"""

import ctypes
import os
import signal
import sys

__all__ = ["signal_at_parents_end"]

PR_SET_PDEATHSIG = 1


def signal_at_parents_end(number: signal.Signals, parent: int) -> None:
    """Have the system send this process a signal once `parent`, its parent's id, has gone (Linux; elsewhere nothing).

    Where that went before this call could be made, the process ends here. A change of user undoes it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
