"""What the page of a row reads: numbers, tables and charts of the row, how it was made and how to make it again.

All is data; the page's script draws it (``templates/row.js``, ``templates/charts.js``), so that the pages of ten
thousand rows are made in seconds. What rows share, such as facts of the data and the software, is stored once for each
page.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from medgraft.benchmarks.board.adapters import without_dashes
from medgraft.benchmarks.board.diagnostics import DIAGNOSTIC_COLUMNS, diagnostic_cells
from medgraft.benchmarks.board.document import Row, Section
from medgraft.benchmarks.board.external import HEADS as EXTERNAL_HEADS
from medgraft.benchmarks.board.external import tested_rows
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.board.tables.groups import HEADS as GROUP_HEADS
from medgraft.benchmarks.board.tables.groups import group_rows
from medgraft.benchmarks.board.tables.probabilities import HEADS as PROBABILITY_HEADS
from medgraft.benchmarks.board.tables.probabilities import probability_rows
from medgraft.benchmarks.board.tables.sites import EXPLAINED as OF_SITES
from medgraft.benchmarks.board.tables.sites import site_heads, site_rows
from medgraft.benchmarks.board.text import count, prose_without_paths, with_interval
from medgraft.benchmarks.cohorts.tables.tabular import baseline_table
from medgraft.benchmarks.metrics.weighted import slug
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.verification import stored_predictions
from medgraft.benchmarks.site.curves import MOST_CURVES, Chart, line, prediction_charts
from medgraft.benchmarks.site.reproduce import shown_command
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions

PICTURE_SUFFIX = ".embedding.svg"
"""Ending of a picture that ``medgraft embed`` wrote beside a result; the page shows it."""
MOST_BYTES = 1_500_000
LONGEST = 400
Triple = tuple[float | None, float | None, float | None]
Pairs = tuple[tuple[str, str], ...]


class Shared:
    """Values that many rows of a page share, each once."""

    def __init__(self) -> None:
        self.values: dict[Hashable, int] = {}

    def __call__(self, value: Hashable) -> int:
        """Number of a value."""
        return self.values.setdefault(value, len(self.values))


def row_data(row: BoardRow, record: Row, section: Section, shared: Shared) -> dict[str, Any]:
    """What the page's script reads of a row.

    Args:
        row: The row.
        record: The same as data.
        section: Its table.
        shared: Takes the facts of provenance, whose numbers the row has.
    """
    seeds = [cell for cell in row.cells if cell.status == "success"]
    picture = _picture(row)
    standing = record.standing
    return {
        "id": record.id,
        "adapter": record.adapter,
        "note": record.note,
        "encoder": record.encoder,
        "recipe": record.recipe,
        "status": record.status,
        "warning": record.warning,
        "saw": bool(record.saw_cohort),
        "marks": record.marks,
        "standing": standing and (standing.rank, standing.low, standing.high),
        "seeds": [cell.spec.seed for cell in row.cells],
        "overall": _overall(row, section),
        "classes": _classes(row),
        "tables": [table for table in _tables(row) if table["rows"]],
        "charts": _charts(row, section, seeds),
        "command": shown_command(row.first.spec, [cell.spec.seed for cell in row.cells]),
        "picture": picture,
        "embed": _embed_command(row) if seeds and not picture else "",
        "costs": _costs(row, record),
        "results": _results(row),
        "cards": _cards(row.first),
        "facts": [shared(each) for each in _facts(row)],
        "failures": [
            (cell.spec.seed, cell.status, prose_without_paths(one_line(cell.message, LONGEST)))
            for cell in row.cells
            if cell.status != "success"
        ],
    }


# --- numbers ----------------------------------------------------------------------------------------------------------


def _overall(row: BoardRow, section: Section) -> list[tuple[str, float, float | None, float | None, bool]]:
    """Overall numbers: name, mean, interval, whether less is better; the primary one first."""
    classes = tuple(f"_{slug(name)}" for name in row.first.data.get("classes", ()))
    names = [*section.shown, *(name for name in row.metrics if not (classes and name.endswith(classes)))]
    lower = set(section.lower_is_better)
    return [
        (one_line(section.labels.get(name, name)), *_rounded(row.metrics[name]), name in lower)
        for name in dict.fromkeys(names)
        if name in row.metrics and row.metrics[name][0] is not None
    ]  # pyright: ignore[reportReturnType]


def _rounded(triple: Triple) -> Triple:
    value, low, high = (None if each is None else round(each, 5) for each in triple)
    return value, low, high


def _classes(row: BoardRow) -> dict[str, Any]:
    """Numbers by class, a column for each kind."""
    classes = [(one_line(name, 60), f"_{slug(name)}") for name in row.first.data.get("classes", ())]
    kinds = list(
        dict.fromkeys(name.removesuffix(end) for _, end in classes for name in row.metrics if name.endswith(end))
    )
    rows = []
    for name, end in classes:
        found = [row.metrics.get(f"{kind}{end}", (None, None, None)) for kind in kinds]
        if any(triple[0] is not None for triple in found):
            rows.append([name, *(None if triple[0] is None else _rounded(triple) for triple in found)])
    return {"heads": ["class", *kinds], "rows": rows}


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> dict[str, Any]:
    texts = [[one_line(cell, 300) for cell in row] for row in rows]
    return {"title": title, "heads": list(map(one_line, heads)), "rows": texts, "note": note}


def _tables(row: BoardRow) -> Iterator[dict[str, Any]]:
    note = "Intervals of a gap lie above 0 also where groups do not differ, since a gap is never negative"
    groups = [each[2:] for each in group_rows([row])]
    yield _table(f"By groups of test subjects: {one_line(row.first.primary)}", GROUP_HEADS[2:], groups, note)
    yield _of_all_seeds(
        "Probabilities and conformal sets", PROBABILITY_HEADS[2:], [e[2:] for e in probability_rows([row])]
    )
    yield _table(
        "What the frozen features say of the site",
        site_heads(one_line(row.first.primary))[1:],
        [e[1:] for e in site_rows([row])],
        OF_SITES,
    )
    yield _table("Without an encoder", *baseline_table(row.first.data.get("table_baselines", {})))
    tests = tested_rows([row])
    remarks = dict.fromkeys(prose_without_paths(one_line(remark, 500)) for test in tests for remark in test.remarks())
    yield _table("On other cohorts", EXTERNAL_HEADS[2:], [test.cells()[2:] for test in tests], ". ".join(remarks))
    reports = diagnostic_cells(row.cells)
    yield _of_all_seeds("What the adapter says of itself", DIAGNOSTIC_COLUMNS, [reports] if reports else [])


def _of_all_seeds(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    heads, cells = without_dashes(heads, rows) if rows else (list(heads), [])
    return _table(title, ["", *heads], [["all seeds", *each] for each in cells])


def _results(row: BoardRow) -> dict[str, Any]:
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
    return _table("Results", ["seed", "status", primary, "time", "key"], rows)


def _triple(cell: CellResult, name: str) -> Triple:
    found = cell.metrics.get(name)
    return (None, None, None) if found is None else (found.value, found.ci_low, found.ci_high)


# --- charts -----------------------------------------------------------------------------------------------------------


def _charts(row: BoardRow, section: Section, seeds: Sequence[CellResult]) -> dict[str, Any]:
    primary = row.first.primary
    spread = [(f"seed {cell.spec.seed}", *_rounded(_triple(cell, primary)), 0) for cell in seeds]
    if len(spread) > 1:
        spread.append(("mean", *_rounded(row.metrics.get(primary, (None, None, None))), 1))
    predictions = [(f"seed {cell.spec.seed}", found) for cell, found in _predictions(row)]
    judged = prediction_charts([found for _, found in predictions], [name for name, _ in predictions])
    calibration = _calibration(seeds)
    return {
        "seeds": {
            "title": "Seeds",
            "x": one_line(section.labels.get(primary, primary)),
            "rows": spread,
            "note": "Bars are 95% intervals; those of single seeds are over test subjects.",
        },
        "losses": _losses(seeds),
        "confusion": judged.confusion,
        "lines": [*judged.lines, *([calibration] if calibration else [])],
        "groups": _groups(row, section, len(seeds)),
        "time": [(f"seed {cell.spec.seed}", _seconds(cell)) for cell in seeds],
    }


def _seconds(cell: CellResult) -> dict[str, float]:
    return {one_line(step, 40): round(seconds, 3) for step, seconds in cell.timing.items() if seconds > 0}


def _losses(seeds: Sequence[CellResult]) -> Chart | None:
    """Mean loss of each epoch; nothing of a seed whose file says something else there."""
    lines = []
    for cell in seeds:
        found = cell.training.get("epoch_loss")
        if isinstance(found, list) and found and all(isinstance(value, (int, float)) for value in found):
            lines.append(line(f"seed {cell.spec.seed}", list(range(1, len(found) + 1)), found))
    if not lines:
        return None
    return {"title": "Training loss by epoch", "kind": "epochs", "x": "epoch", "y": "training loss", "lines": lines}


def _predictions(row: BoardRow) -> Iterator[tuple[CellResult, Predictions]]:
    for path, cell in zip(row.files, row.cells, strict=False):
        if cell.status == "success" and path.with_suffix(".npz").exists():
            try:
                yield cell, stored_predictions(path, cell)
            except (UnreadableError, MedgraftError):  # its status says so
                continue


def _calibration(seeds: Sequence[CellResult]) -> Chart | None:
    """Observed frequencies against probabilities, of the first seed that says anything of them."""
    cell = next((cell for cell in seeds if cell.calibration is not None), None)
    if cell is None or cell.calibration is None:
        return None
    curves = cell.calibration.reliability
    likeliest = {"likeliest class": curves.likeliest} if curves.likeliest else {}
    named = likeliest or dict(list(curves.classes.items())[:MOST_CURVES])
    if not named:
        return None
    lines = [line(one_line(name, 40), each.confidence, each.observed) for name, each in named.items()]
    first = next(iter(named.values()))
    lines[0] |= {"low": first.ci_low, "high": first.ci_high}
    note = "Bins of equally many samples; bars, of the first curve, are Wilson's 95% intervals over subjects."
    return {
        "title": "Calibration",
        "kind": "unit",
        "x": "predicted probability",
        "y": "observed share",
        "diagonal": True,
        "lines": lines,
        "note": f"{note} Of seed {cell.spec.seed}." if len(seeds) > 1 else note,
    }


def _groups(row: BoardRow, section: Section, seeds: int) -> list[Chart]:
    note = "Test subjects in brackets." + (f" Of seed {row.first.spec.seed}." if seeds > 1 else "")
    charts: list[Chart] = []
    for attribute, groups in row.first.groups.items():
        rows = [
            (f"{one_line(name, 40)} ({found.n_subjects})", *_rounded((found.value, found.ci_low, found.ci_high)), 0)
            for name, found in groups.groups.items()
        ]
        title, name = f"By {one_line(attribute, 40)}", one_line(section.labels.get(groups.metric, groups.metric))
        charts.append({"title": title, "x": name, "rows": rows, "note": note})
    return charts


def _picture(row: BoardRow) -> str:
    """The embedding beside a result, as the address of an image; empty for none. Images run no scripts."""
    for path in row.files:
        place = path.with_suffix(PICTURE_SUFFIX)
        if place.is_file() and place.stat().st_size <= MOST_BYTES:
            return f"data:image/svg+xml;base64,{base64.b64encode(place.read_bytes()).decode()}"
    return ""


def _embed_command(row: BoardRow) -> str:
    key = row.first.key
    known = row.first.data.get("objective") == "multiclass"
    return f"medgraft embed {key}.json --out {key}{PICTURE_SUFFIX}" if known else ""


# --- costs and provenance ---------------------------------------------------------------------------------------------


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
        ("Decoding", _rate(record.generated_tokens_per_s, "tokens")),
        ("Peak of a training step", _megabytes(record.train_step_peak_bytes)),
        ("Peak of the process", _megabytes(record.process_peak_bytes)),
        ("Forward pass", f"{count(record.forward_flops)} operations a sample" if record.forward_flops else ""),
        ("Worker processes beside it", str(cost.concurrent_jobs - 1) if cost.concurrent_jobs > 1 else ""),
    ]
    return [(name, text) for name, text in pairs if text]


def _rate(value: float | None, what: str = "samples") -> str:
    return "" if value is None else f"{float(f'{value:.3g}'):,g} {what} a second"


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f} MB"


def _facts(row: BoardRow) -> list[tuple[str, Pairs]]:
    """Where the numbers come from: data, encoder, software, machine."""
    cell, spec, env = row.first, row.first.spec, row.first.env
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
        ("Saw this cohort", {"True": "yes", "False": "no"}.get(str(cell.encoder.get("saw_this_cohort")), "not known")),
    ]
    software = [
        ("Plugins", ", ".join(f"{p.get('name')} ({p.get('distribution')} {p.get('version')})" for p in cell.plugins)),
        ("Packages", env.get("packages") or {}),
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
    return [(title, _pairs(pairs)) for title, pairs in groups]


def _pairs(pairs: Sequence[tuple[str, Any]]) -> Pairs:
    return tuple((one_line(name, 80), fact(value)) for name, value in pairs if value not in ("", {}, [], None))


def fact(value: Any) -> str:
    """A value from a result as one line of text, without paths."""
    if isinstance(value, dict):
        return "; ".join(f"{one_line(str(name), 80)} {fact(each)}" for name, each in value.items())
    return _fact(value if isinstance(value, str) else json.dumps(value, default=str))


@functools.lru_cache(maxsize=8192)
def _fact(text: str) -> str:
    """Looked at once: thousands of rows have the same packages, processors and options."""
    return prose_without_paths(one_line(text, 2000))


def _cards(cell: CellResult) -> list[tuple[str, Pairs]]:
    """Title, paper, licence, options and places of each adapter, as the results say them."""
    cards = []
    titles = {"title": "Title", "paper": "Paper", "licence": "Licence", "options": "Options"}
    for name, facts in cell.adapters.items():
        if isinstance(facts, dict):
            said = [(titles[key], facts.get(key)) for key in titles]
            cards.append((one_line(str(name), 80), _pairs([*said, ("Places that it changes", facts.get("coverage"))])))
    return cards
