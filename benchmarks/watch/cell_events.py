"""What happened in a cell, in order: when it started, its steps, what it logged, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medgraft.benchmarks.results.result import CellResult
from medgraft.commands.plain_text import one_line

Name = Literal["started", "step", "log", "ended"]
LONGEST = 2000


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        time: Seconds since 1970, by the clock of the machine that saw it.
        name: ``started``, ``step`` (one begins), ``log``, ``ended``.
        level: As of Python's logging.
        message: For a person, one line.
        facts: The rest, by name.
    """

    time: float
    name: Name
    level: int = logging.INFO
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def cell_events(entries: Iterable[Mapping[str, Any]], result: CellResult, started: float, ended: float) -> list[Event]:
    """The events of a cell that has ended.

    Args:
        entries: Of its file of progress, see :mod:`medgraft.benchmarks.cell.progress`; what is none is left out.
        result: How it ended.
        started: When its worker was started, seconds since 1970.
        ended: When its outcome was stored.
    """
    events = [Event(started, "started")]
    step = None
    for entry in entries:
        at = entry.get("time")
        at = float(at) if isinstance(at, int | float) else events[-1].time
        match entry:
            case {"step": str(now), "doing": str(doing)} if now != step:
                step = now
                events.append(Event(at, "step", message=one_line(doing, LONGEST), facts={"step": one_line(now, 40)}))
            case {"log": [int(level), str(name), str(text)]}:
                said = one_line(text, LONGEST)
                events.append(Event(at, "log", level, said, {"logger": one_line(name, 80)}))
    return [*events, _end(result, ended)]


def _end(result: CellResult, ended: float) -> Event:
    facts: dict[str, Any] = {"status": result.status, "timing": dict(result.timing)}
    if result.status != "success":
        failed = {**facts, "stage": result.stage}
        return Event(ended, "ended", logging.ERROR, one_line(result.message, LONGEST), failed)
    value = result.metrics.get(result.primary)
    facts |= {"metric": result.primary, "value": None if value is None else value.value}
    return Event(ended, "ended", facts=facts)


def facts_of(result: CellResult) -> dict[str, Any]:
    """What tells a cell from others."""
    spec = result.spec
    return {
        "cell": result.key,
        "task": spec.task,
        "encoder": spec.encoder,
        "adapter": spec.adapter,
        "seed": spec.seed,
    }
