"""The contract of a launcher plugin: where the jobs of a sweep run, one process each.

A job is a folder. ``job.json`` lies in it before the worker starts; the worker,
``python -m medgraft.benchmarks.cell.worker job.json folder``, writes ``progress.jsonl`` while it runs and leaves
``result.json`` and ``predictions.npz``. A launcher starts that command somewhere, says when it has ended and how, and
can end it. It reads none of the files and needs no pipe, so that the worker may run on any machine that sees the
folder. What it puts into ``log.txt`` there, the worker's output, is kept beside the result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from medgraft import plugins
from medgraft.options import Options, checked

Reason = Literal["", "error", "oom", "timeout", "killed"]
"""Why a worker ended that left no result, where its launcher knows; ``""`` leaves it to the exit code."""


@dataclass(frozen=True)
class Resources:
    """What each job of a sweep may use.

    Attributes:
        jobs: How many are to run at once, as ``--jobs`` says; ``None`` leaves it to the launcher.
        threads: Threads of each.
        device: ``cpu`` or ``cuda``.
        timeout: Seconds that each may take; the harness ends those that take longer.
        devices: Devices of each, and so processes; each has a GPU, or ``threads`` cores, of its own.
    """

    jobs: int | None = None
    threads: int = 1
    device: str = "cpu"
    timeout: float = 3600.0
    devices: int = 1

    @property
    def cores(self) -> int:
        """Cores of each job.

        Example:
            >>> Resources(threads=2, devices=4).cores
            8
        """
        return self.threads * self.devices

    @property
    def gpus(self) -> int:
        """GPUs of each job."""
        return self.devices if self.device != "cpu" else 0

    def processes(self) -> int:
        """Processes on this machine: as asked for, else one per :attr:`cores` cores and at most four; one on GPUs.

        Workers on one GPU would share its memory and each other's timings.

        Example:
            >>> Resources(jobs=3).processes(), Resources(device="cuda").processes()
            (3, 1)
        """
        if self.jobs is not None:
            return self.jobs
        return 1 if self.device != "cpu" else max(1, min(4, (os.cpu_count() or 1) // self.cores))


@dataclass(frozen=True)
class Job:
    """A job to be started.

    Attributes:
        name: A few words for people, and for a scheduler's list: ``chexpert/lora seed 0``.
        folder: Absolute path of its folder.
        command: What runs it, program first.
        verbose: Its worker logs more.
        group: Jobs of one group read the same frozen features, so they are best run near each other; empty for none.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    verbose: bool = False
    group: str = ""


@dataclass(frozen=True)
class Exit:
    """How a worker ended.

    Attributes:
        code: Exit code, or minus the number of the signal that ended it; ``None`` where that is not known.
        reason: Why it left no result, where the launcher knows better than the code.
        message: The same for a person.
    """

    code: int | None = None
    reason: Reason = ""
    message: str = ""


class Handle:
    """A job that was started, or waits for its turn."""

    def poll(self) -> Exit | None:
        """How the worker ended; ``None`` while it may go on. Returns at once."""
        raise TypeError(f"{type(self).__name__} must implement poll()")

    def cancel(self) -> None:
        """Ends the worker and what it started; returns when nothing writes into the folder any more."""
        raise TypeError(f"{type(self).__name__} must implement cancel()")

    def waits(self) -> bool:
        """Whether it has not started yet, so that its time does not run."""
        return False


class LauncherConfig(Options):
    """Options of a launcher; a plugin's ``Config`` derives from it. Set with ``--set NAME.OPTION=VALUE``."""


class Launcher:
    """Base class of launcher plugins.

    Args:
        config: Options.
        resources: What each job may use.

    Attributes:
        api_version: Version of this contract that the plugin was written for.
        Config: Its options.
        one_machine: Its jobs share one machine, and so its time; results say how many did.
    """

    api_version: ClassVar[int] = 1
    Config: ClassVar[type[LauncherConfig]] = LauncherConfig
    one_machine: ClassVar[bool] = True

    def __init__(self, config: LauncherConfig, resources: Resources) -> None:
        self.config, self.resources = config, resources

    @classmethod
    def warm_up(cls) -> None:
        """Starts what takes time to start; called as soon as the launcher's name is known."""

    @classmethod
    def cool_down(cls) -> None:
        """Ends what :meth:`warm_up` started, where nothing is left to run."""

    @classmethod
    def missing(cls) -> str:
        """What it lacks on this machine, and the remedy, in a few words; empty where it can run."""
        return ""

    def check(self) -> None:
        """Refuses what cannot run; called before anything is read, made or submitted.

        Raises:
            ConfigError: Its options are wrong for where its jobs would run.
        """

    def slots(self) -> int:
        """Jobs that are submitted at once; more wait in the harness."""
        return self.resources.processes()

    def submit(self, job: Job) -> Handle:
        """Starts a job, or puts it in line.

        Raises:
            MedgraftError: It cannot be started, and nor can the next.
        """
        raise TypeError(f"{type(self).__name__} must implement submit()")

    def wait(self, handles: Sequence[Handle], seconds: float) -> None:
        """Returns after some seconds, or earlier if one of the jobs may have ended."""
        time.sleep(seconds)

    def close(self) -> None:
        """Ends every job that has not ended, and whatever else runs; called once, also on Ctrl-C."""


def launcher_class(name: str) -> type[Launcher]:
    """The class of a launcher, imported.

    Raises:
        UnknownNameError: No installed plugin has the name; near ones are suggested.
        PluginError: It cannot be imported, or is no launcher.
    """
    return plugins.load(plugins.find("launcher", name))


def make_launcher(name: str, options: Mapping[str, Any], resources: Resources) -> Launcher:
    """A launcher with its options.

    Raises:
        ConfigError: An option does not exist or has a value out of range.
    """
    cls = launcher_class(name)
    return cls(checked(cls.Config, options, f"options of launcher {name!r}"), resources)
