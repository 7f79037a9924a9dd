"""The launcher ``local``: workers on this machine, forked warm, each under a supervisor.

Workers start from a fork server that has torch and medgraft imported (:mod:`medgraft.benchmarks.launch.warm_start`). A
worker is a supervisor (:mod:`medgraft.benchmarks.launch.supervisor`) and the cell's own process, which end with the
launcher.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from medgraft.benchmarks.launch.memory_kills import MemoryKills
from medgraft.benchmarks.launch.warm_start import end_fork_server, fork_server_died, start_fork_server
from medgraft.errors import MedgraftError
from medgraft.launcher import Exit, Handle, Job, Launcher, LauncherConfig, Resources

logger = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds in which a worker must end that was told to."""

NO_EXIT_CODE = 255
"""What multiprocessing gives where the fork server does not tell; a plugin may end its process with it too."""

STARTS = 3
"""Tries to start a worker while fork servers die."""


class LocalHandle(Handle):
    """A worker process.

    Args:
        process: It.
        memory: Kills for lack of memory on this machine.
    """

    def __init__(self, process: Any, memory: MemoryKills) -> None:
        self.process, self.memory = process, memory

    def poll(self) -> Exit | None:
        """How it ended; ``None`` while it is alive."""
        if self.process.is_alive():
            return None
        if self._lost_its_server():
            self.cancel()
            return Exit(None, "killed", "the fork server was killed, and its workers with it")
        code = self.process.exitcode
        if code == -signal.SIGKILL and self.memory.took_one():
            return Exit(code, "oom", "the system killed the worker for lack of memory")
        return Exit(code)

    def terminate(self) -> None:
        """Tells the worker to end, and all that it started."""
        if self.process.is_alive():
            self.process.terminate()
        elif self._lost_its_server():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.process.pid, signal.SIGTERM)  # it may not have noticed yet

    def cancel(self) -> None:
        """Ends it, and all that it started."""
        self.terminate()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()  # the cell's process ends with it
            self.process.join()

    def _lost_its_server(self) -> bool:
        """Whether it has no exit code of its own, because the fork server that would tell it is gone."""
        if self.process.exitcode != NO_EXIT_CODE:
            return False
        end = time.monotonic() + 2.0
        while not (died := fork_server_died()) and time.monotonic() < end:
            time.sleep(0.01)  # its pipes close a moment before it has ended
        return died


class LocalLauncher(Launcher):
    """Processes of this machine, forked from one that has everything imported."""

    def __init__(self, config: LauncherConfig, resources: Resources) -> None:
        super().__init__(config, resources)
        self.context = multiprocessing.get_context("forkserver")
        self.memory = MemoryKills()
        self.handles: list[LocalHandle] = []

    @classmethod
    def warm_up(cls) -> None:
        """Starts the fork server, which imports in the background."""
        start_fork_server()

    @classmethod
    def cool_down(cls) -> None:
        """Ends the fork server, which would import on and hold a pipe open."""
        end_fork_server()

    def submit(self, job: Job) -> LocalHandle:
        """Forks a worker.

        Raises:
            MedgraftError: The fork server is killed again and again.
        """
        # Not at the top: it brings numpy and pydantic, and the fork server starts sooner than they are imported.
        from medgraft.benchmarks.launch.worker_process import work

        level = logging.INFO if job.verbose else logging.WARNING
        if not self.handles:
            start_fork_server()
        for _ in range(STARTS):
            process = self.context.Process(target=work, args=(job.folder, level), daemon=True)
            try:
                process.start()
            except (EOFError, ConnectionError, FileNotFoundError) as error:  # the fork server was killed just now
                logger.warning("the fork server has ended (%s); a new one is started", type(error).__name__)
                start_fork_server()
                continue
            self.handles.append(LocalHandle(process, self.memory))
            return self.handles[-1]
        raise MedgraftError(
            f"no worker can be started: the fork server was killed {STARTS} times; what was finished is stored, and "
            "the same command goes on from there"
        )

    def wait(self, handles: Sequence[Handle], seconds: float) -> None:
        """Returns as soon as one of the workers has ended."""
        wait([handle.process.sentinel for handle in handles if isinstance(handle, LocalHandle)], timeout=seconds)

    def close(self) -> None:
        """Ends every worker that is at work, all at once."""
        working = [handle for handle in self.handles if handle.process.is_alive() or handle.process.exitcode is None]
        for handle in working:
            handle.terminate()
        for handle in working:
            handle.cancel()
