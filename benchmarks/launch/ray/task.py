"""What runs as a task of Ray: the worker's command, under a keeper with which it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from medgraft.benchmarks.cell.job import JOB, LOG
from medgraft.benchmarks.results.writing import write_atomically

KEEPER = "medgraft.benchmarks.launch.ray.keeper"


def started_mark(attempt: int) -> str:
    """Name of the file in a job's folder that a task leaves when it starts: its node, as JSON."""
    return f"started-{attempt}"


def ended_mark(attempt: int) -> str:
    """Name of the file that it leaves when nothing of it writes into the folder any more."""
    return f"ended-{attempt}"


def run_command(command: Sequence[str], folder: str, attempt: int, environment: Mapping[str, str]) -> int:
    """Runs a command to its end, on the node that Ray chose.

    Args:
        command: Program first.
        folder: Of the job.
        attempt: Which try it is.
        environment: Further variables for it.

    Returns:
        Its exit code, or minus the number of the signal that ended it.

    Raises:
        FileNotFoundError: This node does not see the folder.
    """
    place = Path(folder)
    if not (place / JOB).is_file():
        raise FileNotFoundError(f"node {socket.gethostname()} does not see the folder of the results; share it")
    import ray  # a heavy extra

    facts = json.dumps({"node": ray.get_runtime_context().get_node_id(), "host": socket.gethostname()}).encode()
    write_atomically(place / started_mark(attempt), lambda file: file.write(facts))
    keeper = [sys.executable, "-m", KEEPER, str(place / LOG), str(place / ended_mark(attempt)), *command]
    with subprocess.Popen(keeper, stdin=subprocess.PIPE, env=os.environ | dict(environment)) as process:
        return process.wait()
