"""The process that workers are forked from; this module imports nothing heavy, so that it can start early."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver

from medgraft.benchmarks.allocator import children_keep_memory

PRELOAD = ["medgraft.benchmarks.preload"]


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
