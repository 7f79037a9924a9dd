"""The process between a task of Ray and the worker's command, which does not outlive the task.

``python -m medgraft.benchmarks.launch.ray.keeper LOG MARK COMMAND...`` ends the command, and all that the command
started, when its own input closes: when Ray's worker is killed, or has lost its raylet and ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from medgraft.benchmarks.launch.supervisor import supervised


def keep(log: Path, mark: Path, command: list[str]) -> NoReturn:
    """Runs a command under a supervisor, and leaves a file when all of it has ended.

    Args:
        log: File for the command's output.
        mark: File to leave.
        command: Program first.
    """

    def ended(text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk, or the sweep has ended and cleared its folder
            log.write_text(text, "utf-8")
            mark.touch()

    supervised(lambda: os.execvp(command[0], command), sys.stdin.fileno(), ended)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
