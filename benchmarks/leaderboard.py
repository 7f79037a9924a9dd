"""The leaderboard, derived from any folders of results: terminal table, Markdown and CSV."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.board_adapters import HEADS, adapter_rows, recipe, title, without_dashes
from medgraft.benchmarks.board_text import as_csv, count, with_interval, without_paths
from medgraft.benchmarks.data.tabular import baseline_lines
from medgraft.benchmarks.diagnostics import DIAGNOSTIC_COLUMNS, diagnostic_cells
from medgraft.benchmarks.intervals import FEW, few_subjects, joined_interval, pooled_intervals
from medgraft.benchmarks.kernel_results import OperationResult, section
from medgraft.benchmarks.metrics import Metric, Predictions
from medgraft.benchmarks.result_files import UnreadableError
from medgraft.benchmarks.results import CellResult
from medgraft.benchmarks.verification import Verified, stored_predictions, verified_results
from medgraft.errors import ConfigError, MedgraftError
from medgraft.plain_text import markdown_code, markdown_text, one_line

PHANTOM_NOTE = (
    "**PHANTOM**: rows marked so were measured on generated cohorts. They show that the machinery works and how "
    "adapters compare under known conditions; they are no clinical evidence and replicate no paper."
)


@dataclass
class BoardRow:
    """All seeds of one task, encoder, adapter, cohort and set of hyper-parameters.

    Attributes:
        cells: The results, by seed.
        metrics: Name -> (mean over the seeds, lower and upper end of the 95% interval).
        note: What tells it from rows of the same encoder and adapter in its table.
        unverified: Seeds whose metrics could not be checked, for want of readable predictions beside them.
        few: Classes with too few test subjects for their intervals to hold, and how many there are.
    """

    cells: list[CellResult]
    metrics: dict[str, tuple[float | None, float | None, float | None]]
    note: str = ""
    unverified: int = 0
    few: Mapping[str, int] = field(default_factory=dict)

    @property
    def section(self) -> tuple[bool, str, str, str]:
        """What rows share that stand in one table: phantom or real, task, cohort, and what is asked of the task."""
        spec = self.first.spec
        asked = json.dumps([spec.task_version, spec.limit, spec.task_options], sort_keys=True)
        return self.first.phantom, spec.task, spec.cohort.revision, asked

    @property
    def title(self) -> str:
        """Heading of its table."""
        spec = self.first.spec
        limit = "" if spec.limit is None else f", at most {spec.limit} samples per split"
        return f"{spec.task}{' (PHANTOM)' if self.first.phantom else ''}{limit}"

    @property
    def adapter(self) -> str:
        """Name of the adapter with the note."""
        return f"{self.first.spec.adapter} ({self.note})" if self.note else self.first.spec.adapter

    @property
    def first(self) -> CellResult:
        """Any of the cells that succeeded; all share what the row says about itself."""
        return next((cell for cell in self.cells if cell.status == "success"), self.cells[0])

    @property
    def warning(self) -> str:
        """Which classes too few test subjects have, in words; empty for none."""
        return f"few subjects: {', '.join(f'{name} {n}' for name, n in self.few.items())}" if self.few else ""

    @property
    def status(self) -> str:
        """``success``, or how many seeds ended otherwise; and how many could not be checked."""
        bad = [cell.status for cell in self.cells if cell.status != "success"]
        told = "success" if not bad else f"{len(bad)} of {len(self.cells)}: {', '.join(sorted(set(bad)))}"
        return f"{told} ({self.unverified} unverified)" if self.unverified else told


def _predictions(path: Path, cell: CellResult) -> Predictions | None:
    try:
        return stored_predictions(path, cell)
    except UnreadableError:
        return None


def make_row(found: Sequence[tuple[Path, CellResult]]) -> BoardRow:
    """Joins the seeds of a row.

    With the predictions at hand the interval resamples subjects and seeds; without them (only the JSON files were
    copied) the seeds' own intervals and their spread are added up, see :mod:`medgraft.benchmarks.intervals`.
    """
    found = sorted(found, key=lambda item: item[1].spec.seed)
    good = [(path, cell) for path, cell in found if cell.status == "success"]
    metrics: dict[str, tuple[float | None, float | None, float | None]] = {}
    names = list(good[0][1].metrics) if good else []
    predictions = [p for path, cell in good if (p := _predictions(path, cell)) is not None]
    same = len(predictions) == len(good) > 1 and all(
        np.array_equal(p.groups, predictions[0].groups) and np.array_equal(p.targets, predictions[0].targets)
        for p in predictions
    )
    pooled = pooled_intervals(predictions, names) if same else {}
    for name in names:
        values = [cell.metrics[name] for _, cell in good if name in cell.metrics]
        metrics[name] = (_mean(v.value for v in values), *(pooled.get(name) or _joined(values)))
    few = few_subjects(predictions[0]) if predictions else good[0][1].data.get("few_subjects", {}) if good else {}
    return BoardRow([cell for _, cell in found], metrics, few=few)


def _joined(values: Sequence[Metric]) -> tuple[float | None, float | None]:
    known = [(v.value, v.ci_low, v.ci_high) for v in values if None not in (v.value, v.ci_low, v.ci_high)]
    return joined_interval(*zip(*known, strict=True)) if known and len(known) == len(values) else (None, None)  # pyright: ignore


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if not known or any(v is None for v in known) else statistics.fmean(v for v in known if v is not None)


def board_rows(folders: Iterable[Path]) -> list[BoardRow]:
    """Rows of all results below the folders, by task, real cohorts first, best first within a task and cohort.

    Results that contradict themselves are left out, see :mod:`medgraft.benchmarks.verification`.
    """
    groups: dict[str, list[Verified]] = defaultdict(list)
    for each in verified_results(folders):
        groups[each.cell.spec.row()].append(each)
    rows = []
    for found in groups.values():
        rows.append(make_row([(each.path, each.cell) for each in found]))
        rows[-1].unverified = sum(bool(each.unverified) for each in found)
    _note_differences(rows)

    def order(row: BoardRow) -> tuple[Any, ...]:
        value = row.metrics.get(row.first.primary, (None, None, None))[0]
        return (*row.section, -(value if value is not None else -1.0), row.first.spec.encoder, row.adapter)

    return sorted(rows, key=order)


def _note_differences(rows: Iterable[BoardRow]) -> None:
    """Says of rows that would look alike what differs: epochs, options, versions."""
    alike: dict[tuple[Any, ...], list[BoardRow]] = defaultdict(list)
    for row in rows:
        alike[(row.section, row.first.spec.encoder, row.first.spec.adapter)].append(row)
    for members in alike.values():
        facts = [_flat(row.first.spec.model_dump(mode="json", exclude={"seed"})) for row in members]
        names = [name for name in dict.fromkeys(n for f in facts for n in f) if len({f.get(name) for f in facts}) > 1]
        for row, fact in zip(members, facts, strict=True):
            row.note = ", ".join(f"{name.rpartition('.')[2]} {fact.get(name, '-')}" for name in names)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)[:24]}
    return flat


def _median(row: BoardRow, name: str) -> float | None:
    found = [getattr(c.efficiency, name) for c in row.cells if c.status == "success" and c.efficiency is not None]
    known = [value for value in found if value is not None]
    return statistics.median(known) if known else None


COLUMNS = (
    "task", "encoder", "adapter", "F1 macro", "F1 weighted", "AUC", "trainable", "train/s", "infer/s", "step MB",
    "backend", "seeds", "status",
)  # fmt: skip


KEPT = ("encoder", "adapter", "backend", "seeds", "status")
"""Columns that a table has whatever they hold; the others only where some row has something in them."""


def cells_of_row(row: BoardRow) -> list[str]:
    """A row as text, in the order of :data:`COLUMNS`."""
    spec, efficiency = row.first.spec, row.first.efficiency
    peak = _median(row, "train_step_peak_bytes")
    return [
        f"{spec.task} (PHANTOM)" if row.first.phantom else spec.task,
        f"{spec.encoder} (pre-training saw this cohort)" if row.first.encoder.get("saw_this_cohort") else spec.encoder,
        row.adapter,
        with_interval(row.metrics.get("f1_macro")),
        with_interval(row.metrics.get("f1_weighted")),
        with_interval(row.metrics.get("auc_macro")),
        count(sum(efficiency.trainable.values()) if efficiency and efficiency.trainable else None),
        count(_rounded(_median(row, "train_samples_per_s"))),
        count(_rounded(_median(row, "inference_samples_per_s"))),
        "-" if peak is None else f"{peak / 2**20:.0f}",
        f"{spec.backend} {spec.precision}{'' if spec.device == 'cpu' else f' {spec.device}'}{_forms(row.first)}",
        str(len(row.cells)),
        f"{row.status}; {row.warning}" if row.warning else row.status,
    ]


def _forms(cell: CellResult) -> str:
    """What ran behind ``fused`` and ``auto``, short: what was fused, and what at least once was not."""
    if cell.spec.backend in ("eager", "compile") or cell.status != "success":
        return ""
    fell = sorted(op for op, uses in cell.ops.items() if any(use.form != "fused" for use in uses))
    ran = sorted(op for op, uses in cell.ops.items() if any(use.form == "fused" for use in uses))
    parts = [", ".join(ran) or "nothing fused"] + ([f"eager: {', '.join(fell)}"] if fell else [])
    return f" ({'; '.join(parts)})"


def _fallbacks(members: Sequence[BoardRow]) -> list[str]:
    """One line per operation that was to be fused and did not always run so, with the reason."""
    told: dict[str, None] = {}
    for row in members:
        for op, uses in row.first.ops.items():
            total = sum(use.calls for use in uses)
            for use in uses:
                if use.reason:
                    share = f"{use.calls} of {total} calls"
                    text = f"{row.adapter}, {op}: {use.form} in {share} (asked for {use.asked}): {use.reason}"
                    told[f"- {markdown_text(text)}"] = None
    return ["Operations that did not run fused:", "", *told, ""] if told else []


def _failures(members: Sequence[BoardRow]) -> list[str]:
    """One line per cell that did not succeed: how it ended, why, and where its log is in the results folder."""
    told = []
    for row in members:
        for cell in row.cells:
            if cell.status != "success":
                log = f" (log {markdown_code(cell.log)})" if cell.log else ""
                name = f"{row.first.spec.encoder} / {row.adapter} seed {cell.spec.seed}"
                told.append(f"- {markdown_text(f'{name}: {cell.status}: {one_line(cell.message, 300)}')}{log}")
    return ["Cells that did not succeed:", "", *told, ""] if told else []


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def markdown(
    rows: Sequence[BoardRow], command: str, operations: Sequence[OperationResult] = (), also: Sequence[str] = ()
) -> str:
    """The board as Markdown: one table of means per task, then F1 and AUC per class, and the operations at the end.

    Args:
        rows: See :func:`board_rows`.
        command: That made it.
        operations: See :mod:`medgraft.benchmarks.kernel_results`.
        also: Further metrics to show, in a table of their own.

    Raises:
        ConfigError: No row has one of them.
    """
    known = {name for row in rows for name in row.metrics}
    if unknown := [name for name in also if name not in known]:
        raise ConfigError(f"no result has the metric {unknown[0]!r}; they have {', '.join(sorted(known))}")
    lines = ["# Leaderboard", "", f"Made by {markdown_code(without_paths(command))}.", ""]
    lines += [
        "F1 and AUC are means over seeds; brackets hold 95% intervals that resample test subjects and, where a row has "
        "several, seeds. They hold what other subjects of the same population and other seeds would change, and not "
        f"another cohort, split or choice of options. With fewer than {FEW} test subjects of a class (*few subjects*, "
        "with their number) they are too narrow: simulated coverage of 95% intervals falls to nine in ten and below. "
        "`train/s` and `infer/s` "
        "are samples per second (training from the cached frozen prefix, inference from prepared inputs), `step MB` is "
        "the peak of allocated tensors in one training step. Rows of one task are ranked by its primary metric; rows "
        "whose intervals overlap widely are not shown to differ.",
        "",
    ]
    if any(row.first.phantom for row in rows):
        lines += [PHANTOM_NOTE, ""]
    tasks: dict[tuple[bool, str, str, str], list[BoardRow]] = defaultdict(list)
    for row in rows:
        tasks[row.section].append(row)
    for members in tasks.values():
        lines += _task_section(members, also)
    if rows:
        heads, told = without_dashes(HEADS, adapter_rows([row.first for row in rows]))
        lines += ["Adapters and how they were trained:", "", *_as_markdown(told, heads)]
    lines += section(operations)
    return "\n".join(lines) + "\n"


def _as_markdown(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[str]:
    """A table and an empty line; markup in a cell, as the bar in ``pair:a|b``, is shown and not followed."""
    escaped = [[markdown_text(str(cell)) for cell in row] for row in rows]
    return [
        pd.DataFrame(escaped, columns=[markdown_text(head) for head in heads]).to_markdown(
            index=False, disable_numparse=True
        ),
        "",
    ]


def _task_section(members: Sequence[BoardRow], also: Sequence[str]) -> list[str]:
    spec = members[0].first.spec
    mark = " (PHANTOM)" if members[0].first.phantom else ""
    data = members[0].first.data
    facts = [f"Cohort revision {markdown_code(spec.cohort.revision)}"]
    if spec.task_options:
        told = ", ".join(f"{name} {value}" for name, value in spec.task_options.items())
        facts.append(f"options {markdown_text(told)}")
    if data.get("splits"):
        facts += [
            f"{markdown_text(name)} {n['samples']} samples of {n['subjects']} subjects"
            for name, n in data["splits"].items()
        ]
        facts.append(f"split {markdown_code(data.get('split_hash', '')[:12])}")
    if data.get("generator"):
        facts.append(f"generator {markdown_text(data['generator'])}")
    if data.get("bayes_f1_macro") is not None:
        facts.append(f"Bayes-optimal F1 macro {data['bayes_f1_macro']:.3f}")
    ranked = f"Ranked by {markdown_code(members[0].first.primary)}."
    lines = [f"## {markdown_text(members[0].title)}", "", f"{'; '.join(facts)}. {ranked}", ""]
    keep = KEPT if any(row.metrics for row in members) else COLUMNS
    heads, cells = without_dashes(COLUMNS[1:], [cells_of_row(row)[1:] for row in members], keep)
    lines += _as_markdown(cells, heads)
    if named := _further(members[0]) + [name for name in also if name in members[0].metrics]:
        further = [
            [row.first.spec.encoder, row.adapter, *(with_interval(row.metrics.get(name)) for name in named)]
            for row in members
            if row.metrics
        ]
        heads = ["encoder", "adapter", *(f"{name}{mark}" for name in named)]
        lines += _as_markdown(further, heads)
    lines += _fallbacks(members)
    lines += _failures(members)
    if told := [
        [row.first.spec.encoder, row.adapter, *found] for row in members if (found := diagnostic_cells(row.cells))
    ]:
        heads, told = without_dashes(["encoder", "adapter", *DIAGNOSTIC_COLUMNS], told)
        lines += _as_markdown(told, heads)
    classes = [name.removeprefix("f1_") for name in members[0].metrics if name.startswith("f1_")]
    classes = [name for name in classes if name not in ("macro", "weighted")]
    if classes:
        table = [
            [row.first.spec.encoder, row.adapter]
            + [with_interval(row.metrics.get(f"{kind}_{name}")) for name in classes for kind in ("f1", "auc")]
            for row in members
            if row.metrics
        ]
        heads = ["encoder", "adapter", *(f"{kind} {name}{mark}" for name in classes for kind in ("F1", "AUC"))]
        lines += _as_markdown(table, heads)
    return lines + baseline_lines(data.get("table_baselines", {}))


def _further(row: BoardRow) -> list[str]:
    """Metrics that the first table has no column for: all of a dense task, the variants of another."""
    if row.first.primary in ("f1_macro", "f1_weighted", "auc_macro"):
        return [name for name in row.metrics if name in row.first.data.get("variants", ())]
    return [name for name in row.metrics if not name.startswith(("f1_", "auc_"))]


ALWAYS = ("data", "task", "cohort_revision", "encoder", "adapter", "note", "seeds", "status", "epochs")
"""Columns of the CSV file whatever they hold; one that no row has anything in is left out otherwise."""


def table(rows: Sequence[BoardRow]) -> pd.DataFrame:
    """Every number of the board, one line per row, for spreadsheets."""
    records = []
    for row in rows:
        cell = row.first
        record: dict[str, Any] = {
            "data": "PHANTOM" if cell.phantom else "real",
            "task": cell.spec.task,
            "cohort_revision": cell.spec.cohort.revision,
            "encoder": cell.spec.encoder,
            "encoder_weights": cell.encoder.get("weights"),
            "encoder_saw_cohort": cell.encoder.get("saw_this_cohort"),
            "adapter": cell.spec.adapter,
            "title": title(cell) or None,
            "note": row.note,
            "backend": cell.spec.backend,
            "precision": cell.spec.precision,
            "device": cell.spec.device,
            "seeds": len(row.cells),
            "status": row.status,
            "few_subjects": row.warning,
            "epochs": cell.spec.train.epochs,
            "recipe": recipe(cell),
            "limit": cell.spec.limit,
            "split_hash": cell.data.get("split_hash"),
            "trainable": sum(cell.efficiency.trainable.values()) if cell.efficiency and cell.metrics else None,
        }
        for name in ("train_samples_per_s", "inference_samples_per_s", "train_step_peak_bytes", "forward_flops"):
            record[name] = _median(row, name)
        for name, (value, low, high) in row.metrics.items():
            record |= {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
        records.append(record)
    frame = pd.DataFrame(records)
    return frame.drop(columns=[name for name in frame if name not in ALWAYS and bool(np.all(frame[name].isna()))])


def write_board(
    rows: Sequence[BoardRow],
    folder: Path,
    command: str,
    operations: Sequence[OperationResult] = (),
    also: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Writes ``leaderboard.md`` and ``leaderboard.csv``, see :func:`markdown`; returns their paths."""
    text, data = folder / "leaderboard.md", folder / "leaderboard.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text.write_text(markdown(rows, command, operations, also), encoding="utf-8")
        data.write_text(as_csv(table(rows)), encoding="utf-8")
    except OSError as error:
        raise MedgraftError(f"the leaderboard cannot be written to {folder}: {error}; choose another folder") from error
    return text, data
