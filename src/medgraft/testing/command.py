"""``medgraft check NAME``: the conformance kit on the command line."""

from __future__ import annotations

import time
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medgraft import plugins
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.plugins import Kind
from medgraft.registry import build_encoder, catalogue
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
    build_encoder(name)  # so that what cannot be built is one error, and not one per check
    return check_encoder(name)


def kind_of(name: str) -> Kind:
    """Whether a name is an adapter's, an encoder's or a task's.

    Raises:
        UnknownNameError: It is none of them.
        ConfigError: It is several of them.
    """
    first = name.partition("+")[0].strip()
    base = first.partition("@")[0]
    names = {first, base, base.partition(":")[0]}
    found: list[Kind] = [kind for kind in plugins.GROUPS if names & plugins.discover(kind).keys()]
    if base in catalogue().encoders.aliases and "encoder" not in found:
        found.append("encoder")
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{name!r} names plugins of several kinds; choose one with --kind {' or --kind '.join(found)}"
        )
    everything = [each for kind in plugins.GROUPS for each in plugins.discover(kind)]
    raise UnknownNameError("adapter, encoder or task", name, [*everything, *catalogue().encoders.aliases])


def run(checks: Sequence[Check]) -> list[Outcome]:
    """Runs every check, one after another; none stops the others."""
    outcomes = []
    for check in checks:
        start, result, message = time.perf_counter(), "ok", ""
        try:
            check()
        except ConformanceError as error:
            result, message = "failed", str(error)
        except unittest.SkipTest as reason:
            result, message = "skipped", str(reason)
        outcomes.append(Outcome(str(check), result, time.perf_counter() - start, message))
    return outcomes


def show(console: Console, name: str, outcomes: Sequence[Outcome]) -> None:
    """Prints one row per check, then the counts."""
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "result", "seconds", "message")
    style = {"ok": "green", "failed": "bold red", "skipped": "dim"}
    for each in outcomes:
        result = Text(each.result, style[each.result])
        table.add_row(each.check, result, f"{each.seconds:.2f}", Text(each.message))
    console.print(table)
    counts = {result: sum(each.result == result for each in outcomes) for result in style}
    total = sum(each.seconds for each in outcomes)
    told = ", ".join(f"{count} {result}" for result, count in counts.items())
    console.print(f"{name}: {told} in {total:.1f} s", markup=False)
