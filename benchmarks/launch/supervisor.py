"""Between launcher and cell: keeps what the cell writes, and sees to it that nothing that the cell started outlives it.

A cell runs the code of plugins, which may hang without letting a thread run, start processes of its own or be killed at
any moment. Its process is therefore the child of one that runs none of that code. The supervisor reads the cell's
standard output and error into a bounded log, and when the cell has ended, when the launcher or the fork server has, or
when the launcher says so (SIGTERM), it kills the cell, all processes of its session and all that were left to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TextIO

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Of Linux's ``prctl(2)``: a signal when the parent ends, and to be the parent of whoever loses its own."""

LOG_HEAD, LOG_TAIL = 64 << 10, 192 << 10
"""Bytes of a cell's output that are kept of its beginning and of its end."""

LAST_WORDS = 5.0
"""Seconds in which what a cell has left behind must be gone."""


@dataclass
class BoundedLog:
    """The beginning and the end of what is written, however much that is."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    dropped: int = 0

    def write(self, data: bytes) -> None:
        """Takes some more."""
        room = LOG_HEAD - len(self.head)
        self.head += data[:room]
        self.tail += data[max(room, 0) :]
        if len(self.tail) > 2 * LOG_TAIL:
            self._trim()

    def _trim(self) -> None:
        beyond = max(0, len(self.tail) - LOG_TAIL)
        self.dropped += beyond
        del self.tail[:beyond]

    def text(self) -> str:
        """All that was kept, and how much was not."""
        self._trim()
        gap = f"\n[... {self.dropped} bytes left out ...]\n".encode() if self.dropped else b""
        return bytes(self.head + gap + self.tail).decode("utf-8", "replace")


def supervised(cell: Callable[[], int], launcher: int, keep_log: Callable[[str], None]) -> NoReturn:
    """Runs a cell in a child of this process and ends as the cell does: with its exit code, or by its signal.

    Args:
        cell: Body of the cell's process; returns its exit code.
        launcher: Descriptor that becomes readable when the launcher is gone.
        keep_log: Takes what the cell wrote to its terminal, once nothing of it runs any more.
    """
    _process_control(PR_SET_CHILD_SUBREAPER, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    nothing = _open_nothing()
    out, theirs = os.pipe()
    me = os.getpid()
    child = os.fork()
    if child == 0:
        _become_cell(cell, me, (nothing, theirs, theirs))
    os.close(theirs)
    log = BoundedLog()
    with _stop_signals() as end_request:
        _watch(child, out, log, (launcher, end_request))
    status = _end_all(child)
    _drain(out, log)
    keep_log(log.text())
    _end_like(status)


def _writer(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _open_nothing() -> int:
    """A descriptor of the null device that is none of the first three, which are open from then on."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    return descriptor


def _become_cell(cell: Callable[[], int], parent: int, standard: tuple[int, int, int]) -> NoReturn:
    """The cell's own process: a session of its own, no terminal, and an end with its supervisor."""
    code = 70
    try:
        os.setsid()
        _process_control(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        for descriptor in set(standard):
            os.close(descriptor)
        # New ones: what the old ones, of the fork server, were made for is no longer behind their descriptors.
        sys.stdout, sys.stderr = _writer(1), _writer(2)
        code = cell()
    except BaseException:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            traceback.print_exc()  # into the log
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # a plugin may have closed them
                stream.flush()
        os._exit(code)  # whatever threads a plugin left running, and whatever it registered for the exit


def _watch(child: int, out: int, log: BoundedLog, ends: tuple[int, ...]) -> None:
    """Reads the cell's output until it has ended, or one of the descriptors ``ends`` says that it must."""
    over = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
    reading = [out]
    while True:
        waited = [*reading, *ends, *([] if over is None else [over])]
        ready, _, _ = select.select(waited, [], [], None if over is not None else 0.1)
        if out in ready and not _read_some(out, log):
            reading = []  # the cell closed its output and runs on
        if any(end in ready for end in ends) or (over in ready if over is not None else _has_ended(child)):
            break
    if over is not None:
        os.close(over)


def _read_some(out: int, log: BoundedLog) -> bool:
    data = os.read(out, 1 << 16)
    log.write(data)
    return bool(data)


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _drain(out: int, log: BoundedLog) -> None:
    """What was written before the end and not read yet."""
    os.set_blocking(out, False)
    with contextlib.suppress(BlockingIOError):
        while _read_some(out, log):
            pass


def _end_all(child: int) -> int:
    """Kills the cell, its session, and what lost its parent in it; returns the cell's status."""
    before = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    if before is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it may not have a session yet
    _, status = os.waitpid(child, 0)
    end = time.monotonic() + LAST_WORDS
    while time.monotonic() < end and (left := _children()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    return status


def _children() -> list[int]:
    """Processes whose parent is this one; none where the system does not say."""
    parent = str(os.getpid())
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            if entry.read_text().rpartition(")")[2].split()[1] == parent:
                children.append(int(entry.parent.name))
    return children


def _end_like(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        time.sleep(1)  # until the signal arrives
    os._exit(code if code >= 0 else 1)


@contextlib.contextmanager
def _stop_signals() -> Iterator[int]:
    """A descriptor that becomes readable when the launcher asks with SIGTERM, or the fork server has ended."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: os.write(writer, b"x"))
    _process_control(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os.write(writer, b"x")
    try:
        yield reader
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _process_control(option: int, value: int) -> None:
    """``prctl(2)``; nothing where the system has none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)
