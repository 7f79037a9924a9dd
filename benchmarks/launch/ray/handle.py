"""One job of the launcher ``ray``: what Ray says of its task, made into how its worker ended."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from medgraft.benchmarks.launch.ray.task import ended_mark, started_mark
from medgraft.launcher import Exit, Handle, Job, Reason

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks for the file that says that a task has started."""

ENDS: dict[str, tuple[Reason, str]] = {
    "lost": ("killed", "its Ray worker or node was lost, {tries}: {words}"),
    "oom": ("oom", "Ray killed it for lack of memory; raise --set ray.memory_gb: {words}"),
    "failed": ("error", "Ray could not run it: {words}"),
}
"""How a task ended -> why its worker left no result."""


class RayHandle(Handle):
    """A task, or a job that waits to become one.

    Args:
        job: What it runs.
        name: Of the task, for the driver.
        restarts: How often it is started again.
        end: Cancels it and returns when nothing of it runs.
    """

    def __init__(self, job: Job, name: str, restarts: int, end: Callable[[RayHandle], None]) -> None:
        self.job, self.name, self.restarts, self._end = job, name, restarts, end
        self.attempt, self.submitted = 0, False
        self.exit: Exit | None = None
        self.node = ""
        self.looked = 0.0

    @property
    def in_line(self) -> bool:
        """Whether it is to be submitted."""
        return self.exit is None and not self.submitted

    @property
    def in_ray(self) -> bool:
        """Whether Ray has it."""
        return self.exit is None and self.submitted

    def poll(self) -> Exit | None:
        """How the worker ended; ``None`` while it may go on."""
        return self.exit

    def waits(self) -> bool:
        """Whether it has not started yet."""
        return self.exit is None and not self.home()

    def cancel(self) -> None:
        """Cancels the task; returns when nothing writes into its folder any more."""
        if self.exit is None:
            self._end(self)
            self.exit = Exit(None, "killed", "it was cancelled")

    def home(self) -> str:
        """Id of the node that it runs on; empty before it has started."""
        now = time.monotonic()
        if self.submitted and not self.node and now - self.looked >= LOOK_EVERY:
            self.looked = now
            try:
                self.node = str(json.loads((self.job.folder / started_mark(self.attempt)).read_text())["node"])
            except (OSError, ValueError):
                return ""  # not there yet
        return self.node

    def quiet(self) -> bool:
        """Whether nothing of it writes into its folder: it never started, or has said that it ended."""
        started = (self.job.folder / started_mark(self.attempt)).is_file()
        return not started or (self.job.folder / ended_mark(self.attempt)).is_file()

    def ended(self, end: dict[str, Any]) -> None:
        """Takes the driver's word; a task that was lost goes back in line while that may help.

        Args:
            end: As :mod:`medgraft.benchmarks.launch.ray.driver` says.
        """
        if self.exit is not None:
            return
        if end["how"] == "done":
            self.exit = Exit(int(end["code"]))
        elif end["how"] == "lost" and self.attempt < self.restarts:
            logger.warning("%s: its Ray worker or node was lost; it is started again (%s)", self.job.name, end["words"])
            self.attempt, self.submitted, self.node = self.attempt + 1, False, ""
        else:
            reason, text = ENDS[end["how"]]
            tries = f"{self.attempt + 1} times" if self.attempt else "once"
            self.exit = Exit(None, reason, text.format(words=end["words"], tries=tries))
