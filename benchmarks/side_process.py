"""Processes that compute for this one, and what they must not do: outlive it, answer Ctrl-C, or see other settings."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait

OURS = "MEDGRAFT_"
"""Start of the names of all settings of this package in the environment."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settings() -> dict[str, str]:
    """This package's part of the environment; a fork server keeps that of the time when it was started."""
    return {name: value for name, value in os.environ.items() if name.startswith(OURS)}


def begin(environment: dict[str, str], end: Connection | None = None) -> None:
    """Prepares a process of a pool; its initializer.

    Ctrl-C reaches all processes of a terminal, and the one that started this one ends it; so does its sudden death.

    Args:
        environment: See :func:`settings`.
        end: Ends this process at once, whatever it computes, when something arrives.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in settings():
        del os.environ[name]
    os.environ |= environment
    parent = multiprocessing.parent_process()
    ends: list[Connection | int] = [parent.sentinel] if parent is not None else []
    if end is not None:
        ends.append(end)

    def watch() -> None:
        wait(ends)
        os._exit(1)

    if ends:
        threading.Thread(target=watch, daemon=True).start()
