"""What the page of a row says: numbers, charts, how it was made, how to make it again."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.benchmarks.board.adapters import without_dashes
from medgraft.benchmarks.board.diagnostics import DIAGNOSTIC_COLUMNS, diagnostic_cells
from medgraft.benchmarks.board.document import Row, Section
from medgraft.benchmarks.board.external import HEADS as EXTERNAL_HEADS
from medgraft.benchmarks.board.external import tested_rows
from medgraft.benchmarks.board.groups import HEADS as GROUP_HEADS
from medgraft.benchmarks.board.groups import group_rows
from medgraft.benchmarks.board.probabilities import HEADS as PROBABILITY_HEADS
from medgraft.benchmarks.board.probabilities import probability_rows
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.board.text import count, prose_without_paths, with_interval
from medgraft.benchmarks.cell.result_files import UnreadableError
from medgraft.benchmarks.cell.results import CellResult
from medgraft.benchmarks.cell.verification import stored_predictions
from medgraft.benchmarks.metrics.weighted import slug
from medgraft.benchmarks.site.charts.lines import Chart, Line, loss_chart, unit_chart
from medgraft.benchmarks.site.charts.spread import interval_chart, time_chart
from medgraft.benchmarks.site.curves import MOST_CURVES, prediction_charts
from medgraft.benchmarks.site.reproduce import shown_command
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions

PICTURE_SUFFIX = ".embedding.svg"
"""Ending of a picture that ``medgraft embed`` wrote beside a result; the page shows it."""
MOST_BYTES = 1_500_000
LONGEST = 400


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Its caption.
        heads: Names of the columns.
        rows: Cells; the first of each names the row.
        note: What a reader must know.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def row_page(row: BoardRow, record: Row, section: Section) -> dict[str, Any]:
    """What the template of a row's page reads.

    Args:
        row: The row.
        record: The same as data.
        section: Its table.
    """
    seeds = [seed for seed in row.cells if seed.status == "success"]
    return {
        "row": record,
        "section": section,
        "classes": class_table(row),
        "overall": overall_rows(row, section),
        "tables": [table for table in _tables(row) if table.rows],
        "charts": list(_charts(row, section, seeds)),
        "command": prose_without_paths(shown_command(row.first.spec, [cell.spec.seed for cell in row.cells])),
        "picture": _picture(row),
        "embed": bool(seeds) and "f1_macro" in row.metrics and row.first.data.get("objective") == "multiclass",
        "costs": _costs(row, record),
        "seeds": _seeds(row),
        "facts": _facts(row),
        "cards": _cards(row.first),
        "failures": [
            (cell.spec.seed, cell.status, prose_without_paths(one_line(cell.message, LONGEST)))
            for cell in row.cells
            if cell.status != "success"
        ],
    }


def overall_rows(row: BoardRow, section: Section) -> list[tuple[str, str, str, bool]]:
    """Overall numbers: name, mean, interval, whether less is better; the primary one first."""
    classes = tuple(f"_{slug(name)}" for name in row.first.data.get("classes", ()))
    names = [*section.shown, *(name for name in row.metrics if not (classes and name.endswith(classes)))]
    found = []
    for name in dict.fromkeys(names):
        value, low, high = row.metrics.get(name, (None, None, None))
        if value is not None:
            interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            found.append((section.labels.get(name, name), f"{value:.3f}", interval, name in section.lower_is_better))
    return found


def class_table(row: BoardRow) -> Table:
    """Numbers by class, a column for each kind."""
    classes = [(one_line(name, 60), f"_{slug(name)}") for name in row.first.data.get("classes", ())]
    names = list(row.metrics)
    kinds = list(dict.fromkeys(name.removesuffix(end) for _, end in classes for name in names if name.endswith(end)))
    rows = [
        [name, *(with_interval(row.metrics.get(f"{kind}{end}")) for kind in kinds)]
        for name, end in classes
        if any(f"{kind}{end}" in row.metrics for kind in kinds)
    ]
    return Table("By class", ["class", *kinds], rows)


def _tables(row: BoardRow) -> Iterator[Table]:
    numbers, primary = group_rows([row]), row.first.primary
    note = "Intervals of a gap lie above 0 also where groups do not differ, since a gap is never negative."
    yield Table(f"By groups of test subjects: {primary}", GROUP_HEADS[2:], [each[2:] for each in numbers], note)
    yield _without_dashes("Probabilities and conformal sets", PROBABILITY_HEADS[2:], probability_rows([row]))
    tests = tested_rows([row])
    remarks = dict.fromkeys(prose_without_paths(one_line(remark, 500)) for test in tests for remark in test.remarks())
    cells = [test.cells()[2:] for test in tests]
    yield Table("On other cohorts", EXTERNAL_HEADS[2:], cells, ". ".join(remarks))
    if reports := diagnostic_cells(row.cells):
        heads, cells = without_dashes(DIAGNOSTIC_COLUMNS, [reports])
        yield Table("What the adapter says of itself", ["", *heads], [["all seeds", *cells[0]]])


def _without_dashes(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    if not rows:
        return Table(title, heads, rows)
    kept, cells = without_dashes(heads, [each[2:] for each in rows])
    return Table(title, ["", *kept], [["all seeds", *each] for each in cells])


def _charts(row: BoardRow, section: Section, seeds: Sequence[CellResult]) -> Iterator[Chart]:
    primary = row.first.primary
    spread = [(f"seed {cell.spec.seed}", _triple(cell, primary), "0") for cell in seeds]
    if len(spread) > 1:
        spread.append(("mean", row.metrics.get(primary, (None, None, None)), "1"))
    name = section.labels.get(primary, primary)
    if chart := interval_chart("Seeds", spread, name, "Bars are 95% intervals; those of seeds are over test subjects."):
        yield chart
    losses = [(f"seed {cell.spec.seed}", _losses(cell)) for cell in seeds]
    if losses := [(each, found) for each, found in losses if found]:
        yield loss_chart(losses)
    predictions = [(f"seed {cell.spec.seed}", found) for cell, found in _predictions(row)]
    yield from prediction_charts([found for _, found in predictions], [each for each, _ in predictions])
    if chart := _calibration(seeds):
        yield chart
    for attribute, groups in row.first.groups.items():
        rows = [
            (f"{each} ({found.n_subjects})", (found.value, found.ci_low, found.ci_high), "0")
            for each, found in groups.groups.items()
        ]
        note = f"Of seed {row.first.spec.seed}; subjects in brackets." if len(seeds) > 1 else "Subjects in brackets."
        title = f"By {one_line(attribute, 40)}"
        if chart := interval_chart(title, [(one_line(n, 60), t, c) for n, t, c in rows], groups.metric, note):
            yield chart
    if chart := time_chart([(f"seed {cell.spec.seed}", cell.timing) for cell in seeds]):
        yield chart


def _triple(cell: CellResult, name: str) -> tuple[float | None, float | None, float | None]:
    found = cell.metrics.get(name)
    return (None, None, None) if found is None else (found.value, found.ci_low, found.ci_high)


def _losses(cell: CellResult) -> list[float]:
    """Mean loss of each epoch; nothing where a file says something else there."""
    found = cell.training.get("epoch_loss")
    return found if isinstance(found, list) and all(isinstance(value, (int, float)) for value in found) else []


def _predictions(row: BoardRow) -> Iterator[tuple[CellResult, Predictions]]:
    for path, cell in zip(row.files, row.cells, strict=False):
        if cell.status == "success" and path.with_suffix(".npz").exists():
            try:
                yield cell, stored_predictions(path, cell)
            except (UnreadableError, MedgraftError):  # its status says so
                continue


def _calibration(seeds: Sequence[CellResult]) -> Chart | None:
    """Observed frequencies against probabilities of the first seed that says anything of them."""
    cell = next((cell for cell in seeds if cell.calibration is not None), None)
    if cell is None or cell.calibration is None:
        return None
    curves = cell.calibration.reliability
    named = {"likeliest class": curves.likeliest} if curves.likeliest else {}
    named |= dict(list(curves.classes.items())[:MOST_CURVES]) if len(curves.classes) > 2 or not named else {}
    lines = [
        Line(one_line(name, 40), c.confidence, c.observed, *((c.ci_low, c.ci_high) if number == 0 else ((), ())))
        for number, (name, c) in enumerate(named.items())
    ]
    if not lines:
        return None
    of = f" Of seed {cell.spec.seed}." if len(seeds) > 1 else ""
    note = f"Bins of equally many samples; bars, of the first curve, are Wilson's 95% intervals over subjects.{of}"
    return unit_chart("Calibration", lines, "predicted probability", "observed share", diagonal=True, note=note)


def _picture(row: BoardRow) -> str:
    """The embedding beside a result, as the address of an image; empty for none. Images run no scripts."""
    for path in row.files:
        place = path.with_suffix(PICTURE_SUFFIX)
        if place.is_file() and place.stat().st_size <= MOST_BYTES:
            return f"data:image/svg+xml;base64,{base64.b64encode(place.read_bytes()).decode()}"
    return ""


def _costs(row: BoardRow, record: Row) -> list[tuple[str, str]]:
    cost = row.first.efficiency
    if cost is None or not record.metrics:
        return []
    parts = ", ".join(f"{one_line(name, 60)} {number:,}" for name, number in cost.trainable.items())
    share = f" ({100 * (record.trainable or 0) / cost.encoder_parameters:.2f}%)" if cost.encoder_parameters else ""
    pairs = [
        ("Trainable parameters", f"{record.trainable or 0:,}{share}{f': {parts}' if len(cost.trainable) > 1 else ''}"),
        ("Frozen parameters", f"{cost.encoder_parameters:,}"),
        ("Training", _rate(record.train_samples_per_s)),
        ("Inference", _rate(record.inference_samples_per_s)),
        ("Peak of a training step", _bytes(record.train_step_peak_bytes)),
        ("Peak of the process", _bytes(record.process_peak_bytes)),
        ("Forward pass", f"{count(record.forward_flops)} operations a sample" if record.forward_flops else ""),
        ("Ran beside", _jobs(cost.concurrent_jobs - 1)),
    ]
    return [(name, text) for name, text in pairs if text]


def _jobs(others: int) -> str:
    return "" if others < 1 else "1 other job" if others == 1 else f"{others} other jobs"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g} samples a second" if value < 1000 else f"{value:,.0f} samples a second"


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f} MB"


def _seeds(row: BoardRow) -> Table:
    primary = row.first.primary
    rows = [
        [
            str(cell.spec.seed),
            cell.status,
            with_interval(_triple(cell, primary)) if cell.metrics else "-",
            f"{sum(cell.timing.values()):.1f} s" if cell.timing else "-",
            cell.key,
        ]
        for cell in row.cells
    ]
    return Table("Results", ["seed", "status", one_line(primary), "time", "key"], rows)


def _facts(row: BoardRow) -> list[tuple[str, list[tuple[str, str]]]]:
    """Where the numbers come from: data, encoder, software, machine."""
    cell, spec = row.first, row.first.spec
    splits = cell.data.get("splits") or {}
    data = [
        ("Cohort", f"{spec.cohort.name}, revision {spec.cohort.revision}"),
        *((f"Split {name}", f"{n['samples']:,} samples of {n['subjects']:,} subjects") for name, n in splits.items()),
        ("Split hash", cell.data.get("split_hash", "")),
        ("Generator", cell.data.get("generator") or ""),
        ("Task options", spec.task_options),
        ("Of the data", "; ".join(row.notes)),
    ]
    encoder = [
        ("Encoder", spec.encoder),
        ("Weights", spec.encoder_weights or ""),
        ("Licence", cell.encoder.get("licence") or ""),
        ("Saw this cohort", {True: "yes", False: "no"}.get(cell.encoder.get("saw_this_cohort"), "not known")),
    ]
    env = cell.env
    packages = env.get("packages") if isinstance(env.get("packages"), dict) else {}
    plugins = [f"{p.get('name')} ({p.get('distribution')} {p.get('version')})" for p in cell.plugins]
    software = [
        ("Plugins", ", ".join(plugins)),
        ("Packages", ", ".join(f"{name} {version}" for name, version in (packages or {}).items())),
        ("Python", env.get("python", "")),
        ("Commit", f"{env.get('commit') or ''}{' (changed)' if env.get('dirty') else ''}"),
        ("Numbers version", spec.numbers_version),
        ("Schema version", cell.schema_version),
    ]
    machine = [
        ("Platform", env.get("platform", "")),
        ("Processor", env.get("cpu", "")),
        ("GPU", env.get("gpu") or ""),
        ("Threads", spec.threads),
        ("Backend", f"{spec.backend}, {spec.precision}, {spec.device}"),
    ]
    groups = (("Data", data), ("Encoder", encoder), ("Software", software), ("Machine", machine))
    return [(title, [(name, fact(value)) for name, value in pairs if value not in ("", {}, None)]) for title, pairs in groups]


def fact(value: Any) -> str:
    """A value from a result as one line of text, without paths."""
    if isinstance(value, dict):
        return "; ".join(f"{one_line(str(name), 80)}: {fact(each)}" for name, each in value.items())
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return prose_without_paths(one_line(text, 2000))


def _cards(cell: CellResult) -> list[tuple[str, list[tuple[str, str]]]]:
    cards = []
    for name, facts in cell.adapters.items():
        if isinstance(facts, dict):
            titles = {"title": "Title", "paper": "Paper", "licence": "Licence", "options": "Options"}
            pairs = [(titles[key], fact(facts[key])) for key in titles if facts.get(key)]
            if hits := facts.get("coverage"):
                pairs.append(("Places that it changes", fact(hits)))
            cards.append((one_line(str(name), 80), pairs))
    return cards
