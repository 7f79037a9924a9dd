"""The launcher ``slurm``: cells run as jobs of a cluster, in arrays, submitted through submitit.

A job runs the worker's command on a node that sees the folder of the results. Its script leaves the exit code in a file
beside the result, so that an end is seen at once and Slurm is asked seldom, for all jobs together. What Slurm says
decides about jobs that left no such file: cancelled by hand, out of time or memory, preempted, or lost with their node.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medgraft.benchmarks.launch.groups import together
from medgraft.benchmarks.launch.slurm.handle import SlurmHandle
from medgraft.benchmarks.launch.slurm.options import SlurmConfig
from medgraft.benchmarks.launch.slurm.queue import (
    ORDINARY,
    JobState,
    SlurmAwayError,
    end_jobs,
    jobs_called,
    jobs_in_accounts,
)
from medgraft.errors import ConfigError, MedgraftError
from medgraft.launcher import Handle, Job, Launcher, LauncherConfig, Resources

if TYPE_CHECKING:
    from medgraft.benchmarks.launch.slurm.submission import CommandExecutor

logger = logging.getLogger(__name__)

GONE_WITHIN = 90.0
"""Seconds in which cancelled jobs must be gone; Slurm kills them 30 s after it has asked them to end."""


def _forgotten(handle: SlurmHandle) -> JobState:
    """State of a job that the controller does not list: one that waits is struck off when it is cancelled."""
    return JobState("CANCELLED" if handle.state is not None and handle.state.waits else "FORGOTTEN")


class SlurmLauncher(Launcher):
    """Jobs of a Slurm cluster, in arrays; needs ``sbatch`` here and a folder of results that the nodes see."""

    Config = SlurmConfig
    one_machine = False
    config: SlurmConfig

    def __init__(self, config: LauncherConfig, resources: Resources) -> None:
        super().__init__(config, resources)
        self.name = f"medgraft-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.handles: list[SlurmHandle] = []
        self.executor: CommandExecutor | None = None
        self.sent: set[str] = set()
        self.unsure = False
        self.asked = 0.0
        self.answered: float | None = None
        self.told: set[str] = set()

    @classmethod
    def missing(cls) -> str:
        """What it lacks here."""
        if shutil.which("sbatch") is None:
            return "there is no sbatch here; run it on a login node of a Slurm cluster"
        if shutil.which("srun") is None:  # submitit asks for it
            return "there is no srun here beside sbatch; install all of Slurm's commands"
        if importlib.util.find_spec("submitit") is None:
            return "it needs submitit; install it with: pip install 'medgraft[slurm]'"
        return ""

    def check(self) -> None:
        """Asks Slurm whether it would accept such jobs.

        Raises:
            ConfigError: It would not, or does not answer.
        """
        try:
            self._executor(Path.cwd()).check_script()
        except ValueError as error:  # of submitit, about an option
            raise ConfigError(f"options of launcher 'slurm': {error}") from error
        except MedgraftError as error:
            raise ConfigError(
                f"Slurm does not accept the jobs of launcher 'slurm': {error}; nothing was submitted"
            ) from error

    def slots(self) -> int:
        """Jobs that are submitted at once."""
        return self.config.queued

    def submit(self, job: Job) -> SlurmHandle:
        """Puts a job in line; those in line go to Slurm together, as an array."""
        handle = SlurmHandle(job, self.config, self.end)
        self.handles.append(handle)
        return handle

    def wait(self, handles: Sequence[Handle], seconds: float) -> None:
        """Submits what is in line, asks Slurm if it is time to, and waits.

        Raises:
            MedgraftError: Slurm refuses a job, or has not answered for too long.
        """
        self.handles = [handle for handle in self.handles if handle.exit is None]
        if self._may_ask():
            self._ask()
        if not self.unsure:
            self._send()
        time.sleep(seconds)

    def end(self, handles: list[SlurmHandle]) -> None:
        """Cancels jobs, and returns when Slurm says that they are gone, or does not for too long.

        Other cells of the same jobs go back in line.
        """
        if ids := [handle.id for handle in handles if handle.in_slurm]:
            self._end_and_wait(ids, ids)
            for other in self.handles:
                if other.id in ids and other not in handles:
                    other.looked = 0.0  # one that has ended just now must not run again
                    if other.poll() is None:
                        other.back_in_line()

    def close(self) -> None:
        """Cancels every job of this launcher, also one whose submission was interrupted."""
        if self.unsure or any(handle.in_slurm for handle in self.handles):
            self._end_and_wait([f"--name={self.name}"], None)
        self.handles = []

    def _end_and_wait(self, which: list[str], ids: list[str] | None) -> None:
        """Cancels until none of the ids, or no job of this launcher, is left."""
        end = time.monotonic() + GONE_WITHIN
        while True:
            try:
                end_jobs(*which)
                states = jobs_called(self.name)
                if all(state.over for number, state in states.items() if ids is None or number in ids):
                    return
            except SlurmAwayError as error:
                logger.info("%s", error)
            if time.monotonic() > end:
                logger.warning("jobs may still run: Slurm has not ended them; scancel --name=%s ends them", self.name)
                return
            time.sleep(min(1.0, self.config.poll))

    def _executor(self, folder: Path) -> CommandExecutor:
        # Not at the top: submitit is an extra.
        from medgraft.benchmarks.launch.slurm.submission import CommandExecutor

        return CommandExecutor(folder, self.config.parameters(self.name, self.resources))

    def _send(self) -> None:
        """Submits what is in line, as far as the limit of jobs that may run leaves room."""
        line = [handle for handle in self.handles if handle.in_line]
        limit = self.resources.jobs or self.config.queued
        there = len({handle.id for handle in self.handles if handle.in_slurm})
        jobs = together(line, lambda handle: handle.job.group, self.config.cells(self.resources))
        if there:  # their array's own limit says nothing of another one
            jobs = jobs[: max(0, limit - there)]
        if not jobs:
            return
        folder = line[0].job.folder.parent / "slurm"
        executor = self.executor = self.executor or self._executor(folder)
        tasks = [[(each.job.folder, each.mark, each.begun, each.job.command) for each in job] for job in jobs]
        self.unsure = True  # until Slurm has said what it did
        try:
            number = executor.submit_script(tasks, limit)
        except SlurmAwayError as error:
            self._away(error)
            return
        except MedgraftError as error:
            raise MedgraftError(
                f"Slurm refused a job: {error}; what was finished is stored, and the same command goes on from there"
            ) from error
        self.unsure = False
        self.sent.add(number)
        for index, job in enumerate(jobs):
            for place, handle in enumerate(job):
                handle.submitted(f"{number}_{index}", folder / f"{number}_{index}_0_log.out", behind=place > 0)

    def _may_ask(self) -> bool:
        return (self.unsure or bool(self.sent)) and time.monotonic() - self.asked >= self.config.poll

    def _ask(self) -> None:
        """What Slurm says of all jobs; those whose submission got no answer are cancelled and submitted again."""
        self.asked = time.monotonic()
        try:
            states = jobs_called(self.name)
            if strange := {array for each in states if (array := each.partition("_")[0]) not in self.sent}:
                end_jobs(*sorted(strange))
        except SlurmAwayError as error:
            self._away(error)
            return
        self.answered, self.unsure = self.asked, False
        known = [handle for handle in self.handles if handle.in_slurm]
        if lost := {handle.id: handle for handle in known if handle.id not in states}:
            states |= {number: _forgotten(handle) for number, handle in lost.items()} | jobs_in_accounts(lost)
        for handle in known:
            handle.saw(states[handle.id])
        self._tell([states[handle.id] for handle in known])

    def _away(self, error: SlurmAwayError) -> None:
        """Bears with Slurm for a while."""
        now = time.monotonic()
        since = self.answered = self.answered if self.answered is not None else now
        if now - since > 60 * self.config.patience:
            raise MedgraftError(
                f"Slurm has not answered for {self.config.patience:g} minutes ({error}); what was finished is stored, "
                "and the same command goes on from there"
            ) from error
        if "away" not in self.told:
            logger.warning("Slurm does not answer, and is asked again: %s", error)
            self.told.add("away")

    def _tell(self, states: Sequence[JobState]) -> None:
        """Says once why jobs wait, where that may need somebody."""
        self.told.discard("away")
        for reason in {state.reason for state in states if state.waits} - ORDINARY - self.told:
            self.told.add(reason)
            logger.warning("jobs wait, Slurm says: %s", reason)
