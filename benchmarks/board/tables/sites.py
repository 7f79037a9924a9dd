"""Tables of what an encoder's features say of the site, before and after ComBat."""

from __future__ import annotations

from collections.abc import Sequence

from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.board.text import with_interval
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.results.site_report import SiteProbe, SiteReport

EXPLAINED = (
    "Of the site: a logistic regression on the frozen encoder's pooled features predicts it (AUC, 0.5 says nothing of "
    "it), and another one the task, before and after ComBat. They are fitted on training and scored on test subjects."
)


def site_heads(metric: str) -> tuple[str, ...]:
    """Heads of the table of a task with a primary metric."""
    return ("encoder", "sites", "site AUC", f"probe {metric}", "site AUC, ComBat", f"probe {metric}, ComBat", "note")


def site_rows(members: Sequence[BoardRow]) -> list[list[str]]:
    """A row for each encoder of a task whose results have a report; its adapters and seeds share it."""
    rows: dict[str, list[str]] = {}
    for row in members:
        for cell in row.cells:
            if cell.sites is not None and cell.spec.encoder not in rows:
                rows[cell.spec.encoder] = [cell.spec.encoder, *_cells(cell.sites)]
    return list(rows.values())


def _cells(report: SiteReport) -> list[str]:
    left_out = ", ".join(f"{count} samples left out: {why}" for why, count in report.left_out.items())
    notes = "; ".join(each for each in (report.note, left_out) if each)
    return [str(report.sites), *_numbers(report.frozen), *_numbers(report.harmonised), notes]


def _numbers(probe: SiteProbe | None) -> list[str]:
    return ["-", "-"] if probe is None else [_shown(probe.site_auc), _shown(probe.task)]


def _shown(estimate: Estimate | None) -> str:
    return "-" if estimate is None else with_interval((estimate.value, estimate.ci_low, estimate.ci_high))
