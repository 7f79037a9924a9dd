"""A watched folder as lines of text that fit a terminal of any width without a broken word."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from medgraft.benchmarks.watch.following import Failed, Status, Working
from medgraft.benchmarks.watch.time_left import clock
from medgraft.commands.plain_text import one_line

QUIET = 120.0
"""Seconds without a word after which a worker's silence is told."""
MOST = 12
"""Cells at work, and failed ones, that are named of one sweep; of more only the number."""
MOST_ROWS = 20
EARLIER = 3
"""Ended sweeps that are told in one line each, beside the latest."""


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of a text, broken between words alone; a word that is wider than the terminal stays whole.

    Example:
        >>> wrapped("failed siim / phantom_chest / lora seed 0: out of memory", 30, "  ")
        ['  failed siim / phantom_chest', '    / lora seed 0: out of', '    memory']
    """
    return textwrap.wrap(
        one_line(text), max(width, 12), initial_indent=indent, subsequent_indent=f"{indent}  " if indent else "",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def bar(share: float, width: int) -> str:
    """A bar of ``width`` columns.

    Example:
        >>> bar(0.5, 6)
        '[##..]'
    """
    inner = max(width - 2, 1)
    full = round(min(max(share, 0.0), 1.0) * inner)
    return f"[{'#' * full}{'.' * (inner - full)}]"


def standing_text(status: Status) -> str:
    """How a sweep is, in words."""
    silent = clock(status.silent)
    return {
        "running": "running",
        "finished": "finished",
        "interrupted": "interrupted with Ctrl-C; the same command goes on from there",
        "allowance": "ended by --max-hours or --max-cells; the same command goes on from there",
        "stopped": "stopped by an error; the same command goes on from there",
        "killed": "killed: its process is gone; the same command goes on from there",
        "silent": f"no sign of life for {silent}: killed, suspended, or its machine is cut off from this folder",
    }[status.standing]


def counts_text(status: Status) -> str:
    """How many cells are where."""
    if not status.planned:
        return f"{status.done} results stored, {len(status.working)} cells at work; what is still ahead is not known"
    ended = status.kept + status.done + len(status.failed)
    parts = [f"{ended} of {status.total} cells ended", f"{status.done} done"]
    parts += [f"{status.kept} done before"] * bool(status.kept)
    parts += [f"{len(status.failed)} failed"] * bool(status.failed)
    at_work = "at work" if status.standing == "running" else "left at work"
    parts += [f"{len(status.working)} {at_work}"] * bool(status.working)
    waiting = status.total - ended - len(status.working)
    parts += [f"{waiting} waiting" if status.standing == "running" else f"{waiting} not run"] * (waiting > 0)
    parts += [f"about {clock(status.left)} left"] if status.left is not None else []
    return ", ".join(parts)


def working_text(worker: Working) -> str:
    """A cell at work: stage and share, and for how long it has said nothing if that is long."""
    quiet = worker.quiet or 0.0
    said = f", no word for {clock(quiet)}" if quiet > QUIET else ""
    return f"{worker.name}: {worker.doing} {worker.share:.0%}, {clock(worker.seconds)}{said}"


def failed_text(cell: Failed) -> str:
    """A failed cell and why."""
    return f"{cell.status} {cell.name}: {cell.message}"


def _some(title: str, texts: Sequence[str], most: int, width: int, *, last: bool = False) -> list[str]:
    """A heading and some of the texts, and how many more there are."""
    if not texts or not most:
        return []
    shown = texts[-most:] if last else texts[:most]
    more = len(texts) - len(shown)
    beyond = [f"and {more} {'earlier' if last else 'more'}"] * bool(more)
    return [title, *(line for text in [*shown, *beyond] for line in wrapped(text, width, "  "))]


def sweep_lines(status: Status, width: int, most_rows: int = MOST_ROWS) -> list[str]:
    """One sweep as lines."""
    lines = wrapped(f"{status.title}: {standing_text(status)}", width)
    if status.planned and status.total:
        ended = status.kept + status.done + len(status.failed)
        lines.append(bar(ended / status.total, min(width - 2, 60)))
    lines += wrapped(counts_text(status), width)
    lines += _some("at work", [working_text(worker) for worker in status.working], MOST, width)
    lines += _some("failed", [failed_text(cell) for cell in status.failed], MOST, width, last=True)
    return [*lines, *_some("finished rows", status.rows, most_rows, width, last=True)]


def folder_lines(sweeps: Sequence[Status], width: int, height: int | None = None) -> list[str]:
    """All sweeps: those that run and the latest in full, a few earlier ones in a line each.

    Args:
        sweeps: In the order of :meth:`medgraft.benchmarks.watch.following.Folder.look`.
        width: Columns.
        height: Lines that there are; ``None`` for any number. Finished rows make room first.
    """
    full = [status for status in sweeps if status.standing == "running"] or list(sweeps[:1])
    earlier = [status for status in sweeps if status not in full]
    lines: list[str] = []
    for most_rows in (MOST_ROWS, 8, 3, 1, 0):
        lines = []
        for status in full:
            lines += [*([""] if lines else []), *sweep_lines(status, width, most_rows)]
        told = [f"{each.title}: {standing_text(each)}; {counts_text(each)}" for each in earlier]
        lines += ["", *_some("earlier", told, EARLIER, width)] if told else []
        if height is None or len(lines) <= height:
            break
    return lines if height is None else lines[:height]
