"""A launcher whose workers are not run: they leave what cells leave, some of them fail, none takes any time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from medgraft.benchmarks.cell.job import JOB, PREDICTIONS, RESULT, Job, failure
from medgraft.benchmarks.simulate.cells import Template, template_of, write_outcome
from medgraft.launcher import Exit, Handle, Launcher, LauncherConfig, Resources
from medgraft.launcher import Job as LaunchedJob

OUTCOMES = {"success": 0.98, "error": 0.01, "killed": 0.005, "oom": 0.003, "damaged": 0.002}
"""How cells end, and the share of them that does: with a result, with one that says what failed, ended by a signal,
for lack of memory, and with a file that is no result."""

LONGEST = 5
"""Looks after which a worker has ended, at most; so they end in another order than they started in."""


class SimulatedHandle(Handle):
    """A worker that has ended after some looks at it."""

    def __init__(self, looks: int, end: Exit) -> None:
        self.looks, self.end = looks, end

    def poll(self) -> Exit | None:
        """Its end, when its looks are used up."""
        self.looks -= 1
        return self.end if self.looks <= 0 else None

    def cancel(self) -> None:
        """Nothing is at work."""


class SimulatedLauncher(Launcher):
    """Leaves the outcome of a cell in its folder when it is submitted.

    Args:
        templates: Real results, taken in turn.
        at_once: Workers at a time.
        seed: Of how cells end.

    Attributes:
        worked: Seconds that were spent on what workers do, which is no cost of the dispatcher.
        ended: How many cells ended in which way.
    """

    def __init__(self, templates: Sequence[Template], at_once: int, seed: int = 0) -> None:
        super().__init__(LauncherConfig(), Resources(jobs=at_once))
        self.templates, self.random = templates, np.random.default_rng(seed)
        self.worked, self.ended = 0.0, Counter[str]()

    def submit(self, job: LaunchedJob) -> SimulatedHandle:
        """Writes what the worker would."""
        start = time.perf_counter()
        outcome = str(self.random.choice(list(OUTCOMES), p=list(OUTCOMES.values())))
        self.ended[outcome] += 1
        cell = Job.model_validate_json((job.folder / JOB).read_text())
        end = Exit(0)
        if outcome == "success":
            write_outcome(cell.spec, template_of(cell.spec, self.templates), job.folder, RESULT, PREDICTIONS)
        elif outcome == "error":
            (job.folder / RESULT).write_text(
                failure(cell, "error", "a file cannot be read", "reading").model_dump_json()
            )
            end = Exit(1)
        elif outcome == "damaged":
            (job.folder / RESULT).write_text('{"key": "')
        else:
            end = Exit(-9, "killed" if outcome == "killed" else "oom")
        looks = int(self.random.integers(1, LONGEST + 1))
        self.worked += time.perf_counter() - start
        return SimulatedHandle(looks, end)

    def wait(self, handles: Sequence[Handle], seconds: float) -> None:
        """Returns at once."""
