"""The process that talks to Ray, for the launcher ``ray``: lines of JSON in, lines of JSON out.

Ray's client ends its own process where the cluster's head or the local raylet is gone for a minute, takes over signals
and starts threads. The harness therefore never imports it. The first line says how to connect; what follows are tasks
to submit and to cancel. When the input ends, every task is cancelled.

A line in is ``{"connect": {"address"}}``, ``{"submit": {"id", "name", "needs", "home", "arguments"}}`` or
``{"cancel": [id, ...]}``. A line out is ``{"ready": {"address", "nodes"}}``, ``{"refused": reason}`` or
``{"ended": id, "how", "code", "words"}``, where ``how`` is ``done``, ``lost``, ``oom`` or ``failed``.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import tempfile
import threading
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, RuntimeEnvSetupError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medgraft.benchmarks.launch.ray.options import LOCAL
from medgraft.benchmarks.launch.ray.task import run_command
from medgraft.commands.plain_text import one_line

BETWEEN = 0.1
"""Seconds between two looks at the tasks."""

LAST_WORDS = 10.0
"""Seconds in which cancelled tasks must end."""

OBJECTS = 100 << 20
"""Bytes of a local cluster's object store; tasks bring and leave next to nothing."""

FAILED = (RayTaskError, RuntimeEnvSetupError, TaskUnschedulableError)
"""What a second try would meet too; other errors of Ray are losses of a worker or node."""


class Tasks:
    """The tasks of one launcher."""

    def __init__(self) -> None:
        self.function = ray.remote(max_retries=0)(run_command)  # the launcher starts again, and counts
        self.running: dict[ray.ObjectRef, str] = {}

    def submit(self, task: dict[str, Any]) -> None:
        """Submits one; where its group has a home, there if that node is alive and has room."""
        options: dict[str, Any] = {"name": task["name"], **task["needs"]}
        if task["home"]:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                task["home"], soft=True, _spill_on_unavailable=True
            )
        self.running[self.function.options(**options).remote(*task["arguments"])] = task["id"]

    def cancel(self, ids: list[str]) -> None:
        """Has Ray kill the workers of some; the commands end with them."""
        for reference in [each for each, name in self.running.items() if name in ids]:
            ray.cancel(reference, force=True)

    def ended(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """What has ended, once all has or after some seconds."""
        if not self.running:
            return []
        waiting = list(self.running)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=seconds, fetch_local=False)
        return [{"ended": self.running.pop(each), **_end_of(each)} for each in ready]


def _end_of(reference: ray.ObjectRef) -> dict[str, Any]:
    """How a task ended."""
    try:
        return {"how": "done", "code": ray.get(reference), "words": ""}
    except OutOfMemoryError as error:
        how, words = "oom", str(error)
    except RayError as error:
        how = "failed" if isinstance(error, FAILED) else "lost"
        cause = getattr(error, "cause", None)
        words = f"{type(error).__name__}: {error}" if cause is None else f"{type(cause).__name__}: {cause}"
    return {"how": how, "code": None, "words": one_line(words, 300)}


def connect(address: str, folder: str) -> dict[str, Any]:
    """Connects to a cluster, or starts one on this machine.

    Args:
        address: Of its head, or :data:`LOCAL`.
        folder: For the files of one that is started.

    Raises:
        Exception: Whatever Ray says.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for long
    options: dict[str, Any] = {}
    if address == LOCAL:
        options = {"include_dashboard": False, "object_store_memory": OBJECTS, "_temp_dir": folder}
    ray.init(address, log_to_driver=False, configure_logging=False, namespace="medgraft", **options)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {"address": ray.get_runtime_context().gcs_address, "nodes": nodes}


def serve(lines: queue.Queue[str | None], say: Any) -> None:
    """Does what the lines say until there are no more.

    Args:
        lines: ``None`` at the end.
        say: Writes a line out.
    """
    tasks = Tasks()
    while True:
        try:
            line = lines.get(timeout=BETWEEN)
        except queue.Empty:
            line = ""
        if line is None:
            break
        request = json.loads(line or "{}")
        if "submit" in request:
            tasks.submit(request["submit"])
        tasks.cancel(request.get("cancel", []))
        if lines.empty():
            for end in tasks.ended():
                say(end)
    tasks.cancel(list(tasks.running.values()))
    tasks.ended(LAST_WORDS)


def main() -> int:
    """Serves the process that started this one."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Ray prints is none of ours
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    request = json.loads(sys.stdin.readline())["connect"]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        try:
            say({"ready": connect(request["address"], folder)})
        except Exception as error:
            say({"refused": one_line(f"{type(error).__name__}: {error}", 300)})
            return 1
        threading.Thread(target=listen, daemon=True).start()
        serve(lines, say)
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
