"""One job of the launcher ``slurm``: what its script left and what Slurm says, made into how its worker ended."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from medgraft.benchmarks.cell.job import LOG
from medgraft.benchmarks.launch.slurm.options import SlurmConfig
from medgraft.benchmarks.launch.slurm.queue import JobState
from medgraft.launcher import Exit, Handle, Job, Reason

logger = logging.getLogger(__name__)

SETTLING = 30.0
"""Seconds in which a file that a node wrote must be seen here, and Slurm tell why a worker was killed."""

LOOK_EVERY = 1.0
"""Seconds between two looks for the file of one job."""

AGAIN: dict[str, Literal["requeues", "timeouts"]] = {
    "PREEMPTED": "requeues",
    "NODE_FAIL": "requeues",
    "BOOT_FAIL": "requeues",
    "TIMEOUT": "timeouts",
}
"""Final state -> option that says how often such a job is submitted again."""

ENDS: dict[str, tuple[Reason, str]] = {
    "CANCELLED": ("killed", "its job {id} was cancelled in Slurm, and not by this sweep"),
    "PREEMPTED": ("killed", "its job {id} was preempted by other jobs"),
    "NODE_FAIL": ("killed", "the node of its job {id} failed"),
    "BOOT_FAIL": ("killed", "the node of its job {id} did not start"),
    "TIMEOUT": ("timeout", "its job {id} reached Slurm's time limit; raise --set slurm.minutes to let it go on"),
    "DEADLINE": ("timeout", "its job {id} reached its deadline in Slurm"),
    "OUT_OF_MEMORY": ("oom", "its job {id} used more memory than Slurm gave it; raise --set slurm.memory_gb"),
}
"""Final state -> why its worker left no result."""

TOO_OFTEN = "its job {id} was put back in line by Slurm more than {times} times; raise --set slurm.requeues"
"""Why a worker left no result that never got to its end."""

UNEXPLAINED = "Slurm says {state} of its job {id}, which left nothing; does its node see the folder of the results?"
"""Why a worker left no result, where neither its script nor Slurm says so."""


class SlurmHandle(Handle):
    """A job of the cluster, or one that waits to be submitted.

    Args:
        job: What it runs.
        config: How often it is submitted again.
        end: Cancels jobs and returns when they are gone.
    """

    def __init__(self, job: Job, config: SlurmConfig, end: Callable[[list[SlurmHandle]], None]) -> None:
        self.job, self.config, self._end = job, config, end
        self.id, self.attempt = "", 0
        self.output = Path()
        self.exit: Exit | None = None
        self.again: Counter[str] = Counter()
        self.state: JobState | None = None
        self.since = self.looked = 0.0
        self.signalled: float | None = None
        self.behind = self.has_begun = False

    @property
    def mark(self) -> str:
        """Name of the file in the job's folder that its script leaves the exit code in."""
        return f"ended-{self.attempt}"

    @property
    def begun(self) -> str:
        """Name of the file there that its script leaves when it starts the cell."""
        return f"begun-{self.attempt}"

    @property
    def in_line(self) -> bool:
        """Whether it is to be submitted."""
        return self.exit is None and not self.id

    @property
    def in_slurm(self) -> bool:
        """Whether Slurm has it, as far as is known."""
        return self.exit is None and bool(self.id)

    def poll(self) -> Exit | None:
        """How the worker ended; ``None`` while it may go on."""
        now = time.monotonic()
        if self.in_slurm and now - self.looked >= LOOK_EVERY:
            self.looked = now
            found = self._look(now)
            if found is None and self.again["requeues"] > self.config.requeues:
                self._end([self])
                found = Exit(None, "killed", TOO_OFTEN.format(id=self.id, times=self.config.requeues))
            if found is not None and found.reason and (self._never_began() or self._submits_again()):
                return None
            if found is not None and found.code != 0:
                self._keep_slurms_words()
            self.exit = found
        return self.exit

    def waits(self) -> bool:
        """Whether it has not started yet."""
        if self.exit is not None:
            return False
        if self.state is None or self.state.waits:
            return True
        self.has_begun = self.has_begun or not self.behind or (self.job.folder / self.begun).is_file()
        return not self.has_begun

    def cancel(self) -> None:
        """Cancels the job; returns when Slurm says that it is gone."""
        if self.exit is None:
            self._end([self])
            self.exit = Exit(None, "killed", "it was cancelled")

    def submitted(self, number: str, output: Path, *, behind: bool = False) -> None:
        """Takes what it is called in Slurm.

        Args:
            number: Its id, which it shares with other cells of its group.
            output: File that Slurm itself writes into.
            behind: It runs behind another.
        """
        self.id, self.output, self.behind = number, output, behind
        self.state, self.signalled, self.has_begun = None, None, False

    def back_in_line(self) -> None:
        """It is to be submitted again."""
        self.id, self.state, self.attempt = "", None, self.attempt + 1

    def saw(self, state: JobState) -> None:
        """Takes what Slurm says of it."""
        if self.state is None or state.name != self.state.name:
            self.since = time.monotonic()
        if state.waits and self.state is not None and not self.state.waits:
            self.signalled = None  # what its script left was of the run before
            self.again["requeues"] += 1
            logger.warning("%s: Slurm has put job %s back in line", self.job.name, self.id)
        self.state = state

    def _look(self, now: float) -> Exit | None:
        """How it ended, by the file of its script where there is one, else by Slurm's word."""
        code = self._code()
        if code is not None and code >= 0:
            return Exit(code)
        over = self.state if self.state is not None and self.state.over else None
        if over is not None and over.name in ENDS:
            reason, message = ENDS[over.name]
            return Exit(code, reason, message.format(id=self.id))
        if code is not None and self.state is not None and self.state.waits:
            return None  # of the run before it was put back in line
        if code is not None:  # a signal, and Slurm may soon say why it was sent
            self.signalled = self.signalled or now
            return Exit(code) if over is not None or now - self.signalled > SETTLING else None
        if over is None or now - self.since < SETTLING:
            return None  # the file may be on its way
        return Exit(None, "error", UNEXPLAINED.format(state=over.name, id=self.id))

    def _code(self) -> int | None:
        """The exit code that its script left, or minus the signal."""
        try:
            code = int((self.job.folder / self.mark).read_text())
        except (OSError, ValueError):
            return None
        return 128 - code if code > 128 else code

    def _never_began(self) -> bool:
        """Puts it back in line where its job ended while another cell of its group ran: no fault of its own."""
        assert self.state is not None
        if not self.behind or self.state.name == "CANCELLED" or (self.job.folder / self.begun).is_file():
            return False
        self.back_in_line()
        return True

    def _submits_again(self) -> bool:
        """Puts it back in line where that may help and has not been done too often."""
        assert self.state is not None
        name = self.state.name
        if name not in AGAIN or self.again[AGAIN[name]] >= getattr(self.config, AGAIN[name]):
            return False
        self.again[AGAIN[name]] += 1
        logger.warning("%s: Slurm says %s of job %s; it is submitted again", self.job.name, name, self.id)
        self.back_in_line()
        return True

    def _keep_slurms_words(self) -> None:
        """Puts what Slurm wrote about the job beneath what its worker wrote."""
        with suppress(OSError):
            words = self.output.read_bytes()
            with (self.job.folder / LOG).open("ab") as log:
                log.write(words)
