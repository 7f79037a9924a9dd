"""The board on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from medgraft.benchmarks.board.columns import HEADINGS, cells_of_row, numbers_shown, speaking
from medgraft.benchmarks.board.diagnostics import DIAGNOSTIC_COLUMNS, diagnostic_cells
from medgraft.benchmarks.board.external import SIDES, TestedRow, tested_rows
from medgraft.benchmarks.board.rows import BoardRow, median
from medgraft.benchmarks.board.tables.groups import HEADS, group_rows
from medgraft.benchmarks.board.tables.sites import site_heads, site_rows
from medgraft.benchmarks.fairness.basis import why_apart
from medgraft.benchmarks.results.result import CellResult
from medgraft.commands.layout import say, show_table

WIDE_COLUMNS = 150
"""Width of a terminal from which on a board shows costs too."""
NARROW_NUMBERS = 2
"""Numbers of an objective that fit into 80 columns."""


def brief(metric: tuple[float | None, float | None, float | None] | None) -> str:
    """A metric with its interval, short enough for 80 columns.

    Example:
        >>> brief((0.384, 0.247, 0.526))
        '0.384 [.25-.53]'
        >>> brief((-0.095, -0.312, 0.138)), brief((0.95, 0.9, 1.0))
        ('-0.095 [-.31, .14]', '0.950 [.90-1.00]')
    """
    if metric is None or metric[0] is None:
        return "-"
    value, low, high = metric
    if low is None or high is None:
        return f"{value:.3f}"
    ends = [f"{end:.2f}".replace("0.", ".", 1) for end in (low, high)]
    return f"{value:.3f} [{(', ' if low < 0 else '-').join(ends)}]"


def show_board(
    rows: Sequence[BoardRow], console: Console | None = None, *, groups: bool = False, also: Sequence[str] = ()
) -> None:
    """The board on the terminal, one table per task and cohort; a wide terminal shows costs too.

    Args:
        rows: See :func:`medgraft.benchmarks.board.rows.board_rows`.
        console: The terminal.
        groups: Show the primary metric, and those of ``also``, by groups of test subjects, too.
        also: Further metrics.
    """
    console = console or Console()
    sections: dict[tuple[bool, str, str, str], list[BoardRow]] = {}
    for row in rows:
        sections.setdefault(row.section, []).append(row)
    reasons = why_apart(rows)
    for section, members in sections.items():
        numbers = _numbers_that_fit(speaking(members), console)
        metrics = {HEADINGS.get(name, name): name for name in numbers}
        costs = ("trainable", "train/s", "infer/s", "tokens/s", "step MB", "backend", "seeds")
        costs = costs if console.width >= WIDE_COLUMNS else costs[:1]
        failing = any(row.status != "success" for row in members)
        if all(median(row, "generated_tokens_per_s") is None for row in members):
            costs = tuple(name for name in costs if name != "tokens/s")
        names = ("encoder", "adapter", "rank", *metrics, *costs, *(["status"] if failing else []))
        shown = []
        for row in members:
            texts = cells_of_row(row, ()) | {head: brief(row.metrics.get(name)) for head, name in metrics.items()}
            if console.width < WIDE_COLUMNS:
                texts["rank"] = texts["rank"].partition(" ")[0]
            shown.append([texts[name] for name in names])
        show_table(console, names, shown, 2, members[0].title)
        if section in reasons:
            say(console, reasons[section])
        for row in members:
            if row.marks:
                say(console, f"{row.adapter} on {row.first.spec.encoder}: {'; '.join(row.marks)}")
        for warning in dict.fromkeys(row.warning for row in members if row.warning):
            say(console, f"{warning} in the test split; some intervals of this table may be too narrow")
        for note in dict.fromkeys(note for row in members for note in row.notes):
            say(console, note)
        _show_diagnostics(members, console)
        _show_tests(members, console)
        _show_sites(members, console)
        for metric in dict.fromkeys([speaking(members).primary, *also]) if groups else ():
            _show_groups(members, metric, console)
        console.print()


def _show_groups(members: Sequence[BoardRow], metric: str, console: Console) -> None:
    """A metric by groups of test subjects."""
    if rows := group_rows(members, metric):
        show_table(console, HEADS, rows, 4, f"{metric} by groups")


def _show_sites(members: Sequence[BoardRow], console: Console) -> None:
    """What the encoders' features say of the site, one line each."""
    _, *heads = site_heads(speaking(members).primary)
    for encoder, *cells in site_rows(members):
        facts = [f"{head} {cell}" for head, cell in zip(heads, cells, strict=True) if cell not in ("-", "")]
        say(console, f"{encoder}: {'; '.join(facts).replace('note ', '')}")


def _show_tests(members: Sequence[BoardRow], console: Console) -> None:
    """Grafts of a task on other cohorts."""
    by_cohort: dict[tuple[str, ...], list[TestedRow]] = {}
    for test in tested_rows(members):
        by_cohort.setdefault(test.heading(), []).append(test)
    for (on, subjects, number), tests in by_cohort.items():
        title = f"{members[0].first.spec.task} tested on {on}, {subjects} subjects: {number}"
        rows = [[test.row.first.spec.encoder, test.row.adapter, *test.shown(brief)] for test in tests]
        show_table(console, ("encoder", "adapter", *SIDES), rows, 2, title)
        for remark in dict.fromkeys(remark for test in tests for remark in test.remarks()):
            say(console, remark)


def _numbers_that_fit(cell: CellResult, console: Console) -> tuple[str, ...]:
    """The objective's first numbers, without those between them that mean much the same in a narrow table."""
    numbers = numbers_shown(cell)
    if console.width >= WIDE_COLUMNS:
        return numbers
    return tuple(name for name in numbers if name != "f1_weighted")[:NARROW_NUMBERS]


def _show_diagnostics(members: Sequence[BoardRow], console: Console) -> None:
    """Stages and routing of the rows that have any, one line per fact, since they are long."""
    for row in members:
        for name, text in zip(DIAGNOSTIC_COLUMNS, diagnostic_cells(row.cells), strict=False):
            if text != "-":
                say(console, f"{row.adapter}: {name}: {text}")
