"""Workers that start warm: forked from a process with torch and medgraft imported, and keeping the memory of a step.

Three things that the local launcher saves time by, none of which changes a number:

- **The fork server** has what every cell imports, so that a cell costs its own work and not seconds of imports. This
  module imports nothing heavy, so that the server can start early.
- **Imports without the garbage collector**, which would look through a million objects of libraries again and again: a
  fifth of the time that torch, scikit-learn and their like take to import is spent in collections that free nothing.
- **Memory that a step frees is kept.** glibc hands most of it back to the system, which has to clear and map it again
  in the next step: a tenth of a step's time on a CPU. The settings are read when a process starts, so they are given to
  it by its environment; other C libraries take no notice.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import forkserver

from medgraft.benchmarks.garbage import uncollected

PRELOAD = ["medgraft.benchmarks.launch.preload"]

EVERY_CELL = (
    "medgraft.benchmarks.cell.steps.description",
    "medgraft.benchmarks.cell.steps.measuring",
    "medgraft.benchmarks.cell.steps.training",
    "medgraft.benchmarks.measure.environment",
    "torch._inductor",
    "scipy.stats",
    "sklearn.metrics",
)
"""What every cell imports. An optimizer and deterministic algorithms import torch's compiler, a second and more."""


SETTINGS = {
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={32 << 20}:glibc.malloc.trim_threshold={1 << 30}",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""glibc's: 32 MiB is the largest block that may come from what was kept. PyTorch's: large pages for large tensors."""


def keeping_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the settings; what is set there already stays as it is.

    Example:
        >>> keeping_memory({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
        {'GLIBC_TUNABLES': 'glibc.malloc.arena_max=1', 'THP_MEM_ALLOC_ENABLE': '1'}
    """
    return {**SETTINGS, **environment}


@contextmanager
def children_keep_memory() -> Iterator[None]:
    """Processes that are started inside get the settings."""
    before = dict(os.environ)
    os.environ.update(keeping_memory(before))
    try:
        yield
    finally:
        for name in SETTINGS.keys() - before.keys():
            del os.environ[name]


def start_fork_server() -> None:
    """Starts the fork server, with what cells import, deaf to Ctrl-C from its first moment, and so its workers.

    It imports in the background, so the sooner it starts the sooner the first cell does. To be called before anything
    else in this process uses one: there is one server, and it keeps what it started with, its environment included.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    if threading.current_thread() is not threading.main_thread():
        return  # no signal arrives here; the first worker starts the server
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with children_keep_memory():
            forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def fork_server_died() -> bool:
    """Whether there was a fork server that has ended; the next worker starts another."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is None:
        return False
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return True


def end_fork_server() -> None:
    """Ends the fork server at once, if there is one; unused, it would import on and hold a pipe open."""
    # Not part of the module's interface; without it the server ends by itself, some seconds later.
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def ended_on_error() -> Iterator[None]:
    """Ends the fork server if the block raises."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        end_fork_server()
        raise


def import_for_cells() -> None:
    """Imports what every cell does, and takes it out of the sight of later collections, also of forked workers."""
    with uncollected():
        for name in EVERY_CELL:
            with suppress(ImportError):  # a cell that needs it will say so
                import_module(name)
        gc.freeze()
