"""``medgraft check NAME``: the conformance kit on the command line."""

from __future__ import annotations

import signal
import threading
import time
import unittest
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medgraft import plugins
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.plugins import Kind
from medgraft.registry import build_encoder, catalogue
from medgraft.task.names import current_name
from medgraft.testing.check import Check, ConformanceError
from medgraft.testing.suites import check_adapter, check_encoder, check_task

if TYPE_CHECKING:
    from rich.console import Console


class Outcome(NamedTuple):
    """What one check came to.

    Attributes:
        check: Its name.
        result: ``ok``, ``failed`` or ``skipped``.
        seconds: How long it took.
        message: Why it failed or was skipped.
    """

    check: str
    result: str
    seconds: float
    message: str


CHECKED: tuple[Kind, ...] = ("adapter", "encoder", "task")
"""Kinds of plugins that there are checks of."""


def checks_of(name: str, kind: Kind | None = None, data: Path | None = None) -> list[Check]:
    """The checks of a registered plugin.

    Args:
        name: An adapter (also ``peft:ia3`` or ``lora+ace_hgnn``), an encoder ``source:model@weights`` or a task.
        kind: What it is; ``None`` finds out.
        data: Folder of a task's cohort.

    Raises:
        UnknownNameError: No plugin has the name.
        ConfigError: Plugins of several kinds have it, or ``data`` is given for what is no task.
        PluginError: The plugin cannot be loaded.
        CheckpointError: The weights of an encoder cannot be read.
    """
    kind = kind or kind_of(name)
    if data is not None and kind != "task":
        raise ConfigError(f"--data is for tasks, and {name!r} is an {kind}; leave it out")
    if kind == "adapter":
        return check_adapter(name)
    if kind == "task":
        return check_task(name, data)
    if kind != "encoder":
        raise ConfigError(
            f"{name!r} is {'an' if kind[0] in 'aeiou' else 'a'} {kind}, and the kit checks adapters, encoders and "
            "tasks; check a task that uses it"
        )
    build_encoder(name)  # so that what cannot be built is one error, and not one per check
    return check_encoder(name)


def kind_of(name: str) -> Kind:
    """Whether a name is an adapter's, an encoder's or a task's.

    Raises:
        UnknownNameError: It is none of them.
        ConfigError: It is several of them.
    """
    first = current_name(name.partition("+")[0].strip())
    base = first.partition("@")[0]
    names = {first, base, base.partition(":")[0]}
    kinds: list[Kind] = [kind for kind in CHECKED if names & plugins.discover(kind).keys()]
    if base in catalogue().encoders.aliases and "encoder" not in kinds:
        kinds.append("encoder")
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise ConfigError(
            f"{name!r} names plugins of several kinds; choose one with --kind {' or --kind '.join(kinds)}"
        )
    everything = [each for kind in CHECKED for each in plugins.discover(kind)]
    raise UnknownNameError("adapter, encoder or task", name, [*everything, *catalogue().encoders.aliases])


class OutOfTime(BaseException):
    """The time for a plugin is over; no ``Exception``, so that no plugin takes it for an error of its own."""


def run(
    checks: Sequence[Check], callback: Callable[[Outcome], None] | None = None, limit: float | None = None
) -> list[Outcome]:
    """Runs every check, one after another; none stops the others, but for the end of the time.

    Args:
        checks: The checks.
        callback: Called with each outcome as it ends.
        limit: Seconds for all of them; the check that is running then fails, and the rest are skipped. ``None`` for
            no limit; it needs the main thread.
    """
    import torch

    outcomes: list[Outcome] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on busy cores threads wait for each other, and all models here are tiny
    try:
        _run_each(checks, outcomes, callback, limit)
    finally:
        torch.set_num_threads(threads)
    return outcomes


def _run_each(
    checks: Sequence[Check], outcomes: list[Outcome], callback: Callable[[Outcome], None] | None, limit: float | None
) -> None:
    end = None if limit is None else time.monotonic() + limit
    for check in checks:
        start = time.perf_counter()
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            result, message = "skipped", f"the {limit:g} s were over before it began; give more with --limit"
        else:
            result, message = _ran(check, left, limit)
        outcomes.append(Outcome(str(check), result, time.perf_counter() - start, message))
        if callback is not None:
            callback(outcomes[-1])


def _ran(check: Check, left: float | None, limit: float | None) -> tuple[str, str]:
    """Result and message of one check within the seconds that are left."""
    try:
        with _ending_after(left):
            check()
    except ConformanceError as error:
        return "failed", str(error)
    except unittest.SkipTest as reason:
        return "skipped", str(reason)
    except OutOfTime:
        return "failed", f"{check.subject}: did not end within the {limit:g} s for all checks; give more with --limit"
    return "ok", ""


@contextmanager
def _ending_after(seconds: float | None) -> Generator[None]:
    """Raises :class:`OutOfTime` in the block once the time is over, and again until it is out of it."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


STYLES = {"ok": "green", "failed": "bold red", "skipped": "dim"}


def show(console: Console, outcome: Outcome) -> None:
    """Prints one outcome: result, seconds and check, and why, indented, where it is not ``ok``."""
    from rich.padding import Padding
    from rich.text import Text

    head = Text(f"{outcome.result:<8}", STYLES[outcome.result])
    console.print(head + Text(f"{outcome.seconds:6.1f} s  {outcome.check}"))
    if outcome.message:
        console.print(Padding(Text(outcome.message), (0, 0, 0, 19)))


def show_counts(console: Console, name: str, outcomes: Sequence[Outcome]) -> None:
    """Prints how many checks came to what."""
    counts = {result: sum(each.result == result for each in outcomes) for result in STYLES}
    total = sum(each.seconds for each in outcomes)
    summary = ", ".join(f"{count} {result}" for result, count in counts.items())
    console.print(f"{name}: {summary} in {total:.1f} s", markup=False, highlight=False)
