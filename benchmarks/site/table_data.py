"""What the script of the board's page reads: columns and rows of each table, short: ten thousand are a few MB."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from medgraft.benchmarks.board.document import Document, Row, Section
from medgraft.benchmarks.metrics.weighted import slug

COSTS = {
    "trainable": ("trainable", "Trainable parameters", False),
    "step_mb": ("step MB", "Peak of allocated tensors in a training step", False),
    "train_samples_per_s": ("train/s", "Samples a second in training", True),
    "inference_samples_per_s": ("infer/s", "Samples a second in inference", True),
    "generated_tokens_per_s": ("tokens/s", "Tokens of texts a second in decoding", True),
    "process_mb": ("process MB", "Peak resident memory of the worker", False),
    "forward_flops": ("FLOPs", "Operations of one sample's forward pass", False),
    "epochs": ("epochs", "Epochs of training", False),
}
"""Column -> its heading, what it is, and whether more is better."""
USUAL = ("trainable", "step_mb", "train_samples_per_s", "inference_samples_per_s")
DIGITS = 5


def table_data(document: Document, classes: dict[str, Sequence[str]], together: int) -> dict[str, Any]:
    """The data.

    Args:
        document: The board.
        together: Rows of a table up to which their pages are one file.
        classes: Table -> classes of its task, whose numbers stand on the pages of the rows.
    """
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in document.rows:
        rows[row.section].append(row)
    return {
        "together": together,
        "sections": [_section(section, rows[section.id], classes.get(section.id, ())) for section in document.sections],
    }


def _section(section: Section, rows: Sequence[Row], classes: Sequence[str]) -> dict[str, Any]:
    ends = tuple(f"_{slug(name)}" for name in classes)
    names = [*section.shown, *dict.fromkeys(name for row in rows for name in row.metrics)]
    metrics = [name for name in dict.fromkeys(names) if name in section.shown or not (ends and name.endswith(ends))]
    costs = [name for name in COSTS if any(_cost(row, name) is not None for row in rows)]
    failing = any(row.status != "success" for row in rows)
    columns = [
        *([_column("rank", "rank", "rank")] if any(row.standing for row in rows) else []),
        _column("adapter", "adapter", "text"),
        _column("encoder", "encoder", "long"),
        *(
            _column(
                name, section.labels.get(name, name), "metric", down=name not in section.lower_is_better,
                shown=name in section.shown,
            )
            for name in metrics
        ),
        *(
            _column(name, COSTS[name][0], "count", COSTS[name][1], down=COSTS[name][2], shown=name in USUAL)
            for name in costs
        ),
        _column("backend", "backend", "text", shown=False),
        _column("recipe", "trained", "long", shown=False),
        _column("seeds", "seeds", "count"),
        _column("status", "status", "long", shown=failing),
    ]  # fmt: skip
    keys = [column["key"] for column in columns]
    return {
        "id": section.id,
        "title": section.title,
        "task": section.task,
        "phantom": section.phantom,
        "tags": section.tags,
        "columns": columns,
        "rows": [_row(row, keys, set(metrics)) for row in rows],
    }


def _column(
    key: str, label: str, kind: str, title: str = "", *, down: bool = False, shown: bool = True
) -> dict[str, Any]:
    """A column; ``down`` says that the first press of its head sorts from the largest down."""
    return {"key": key, "label": label, "type": kind, "title": title, "down": down, "shown": shown}


def _row(row: Row, keys: Sequence[str], metrics: set[str]) -> list[Any]:
    marks = [*row.marks, *(["pre-training saw this cohort"] if row.saw_cohort else [])]
    marks += ["few subjects"] if row.warning else []
    tie = row.standing.tie if row.standing else 0
    values = [_triple(row, key) if key in metrics else _value(row, key) for key in keys]
    return [row.id, row.adapter, row.note, marks, tie, row.suite, row.title, values]


def _triple(row: Row, name: str) -> list[float | None] | None:
    value, low, high = row.metrics.get(name, (None, None, None))
    return None if value is None else [_rounded(value), _rounded(low), _rounded(high)]


def _value(row: Row, key: str) -> Any:
    match key:
        case "rank":
            return [row.standing.rank, row.standing.low, row.standing.high] if row.standing else None
        case "adapter":
            return row.adapter
        case "encoder":
            return row.encoder
        case "backend":
            return f"{row.backend} {row.precision}{'' if row.device == 'cpu' else f' {row.device}'}"
        case "recipe":
            return row.recipe
        case "seeds":
            return len(row.seeds)
        case "status":
            return row.status
        case _:
            return _cost(row, key)


def _cost(row: Row, key: str) -> float | None:
    match key:
        case "step_mb":
            return _rounded(None if row.train_step_peak_bytes is None else row.train_step_peak_bytes / 2**20)
        case "process_mb":
            return _rounded(None if row.process_peak_bytes is None else row.process_peak_bytes / 2**20)
        case "trainable" | "epochs":
            return getattr(row, key)
        case _:
            return _rounded(getattr(row, key))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
