"""What torchrun starts for each rank of a cell: binds it to the worker, and only then imports torch (seconds).

``python -m medgraft.benchmarks.cell.rank_start parent job.json folder``, with the process number of the worker. A rank
whose worker is killed would else keep its device until it has been heard of by nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl(2)``: a signal when the parent ends."""


def end_with(parent: int) -> None:
    """Has this process killed when its parent ends; other systems than Linux have no word for it.

    Args:
        parent: Number of the process that must be the parent still; where it is not, this process ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel knew
            os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    from medgraft.benchmarks.cell.rank import main
    from medgraft.benchmarks.cell.worker import end_process

    end_process(main(sys.argv[2:]))
