"""The leaderboard's files, derived from any folders of results: ``leaderboard.md`` and ``leaderboard.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.board.adapters import recipe, title
from medgraft.benchmarks.board.document import suite_of
from medgraft.benchmarks.board.external import tested_rows
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import SPEEDS, BoardRow, median
from medgraft.benchmarks.board.text import as_csv
from medgraft.benchmarks.garbage import uncollected
from medgraft.errors import MedgraftError

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
            "suite": suite_of(cell) or None,
            "marks": "; ".join(row.marks) or None,
            "rank": row.standing.rank if row.standing else None,
            "rank_low": row.standing.low if row.standing else None,
            "rank_high": row.standing.high if row.standing else None,
            "backend": cell.spec.backend,
            "precision": cell.spec.precision,
            "device": cell.spec.device,
            "plain": cell.spec.plain,
            "seeds": len(row.cells),
            "status": row.status,
            "few_subjects": row.warning,
            "epochs": cell.spec.train.epochs,
            "recipe": recipe(cell),
            "hardware": row.hardware or None,
            "tune": cell.spec.tune or None,
            "budget": cell.spec.budget,
            "limit": cell.spec.limit,
            "split_hash": cell.data.get("split_hash"),
            "trainable": sum(cell.efficiency.trainable.values()) if cell.efficiency and cell.metrics else None,
        }
        for name in (*SPEEDS, "train_step_peak_bytes", "forward_flops"):
            record[name] = median(row, name)
        for name, (value, low, high) in row.metrics.items():
            record |= {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
        for test in tested_rows([row]):
            for side, (value, low, high) in test.numbers.items():
                name = f"{test.number}_{side}_{test.on}"
                record |= {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}
        records.append(record)
    frame = pd.DataFrame(records)
    return frame.drop(columns=[name for name in frame if name not in ALWAYS and bool(np.all(frame[name].isna()))])


def write_board(rows: Sequence[BoardRow], folder: Path, options: BoardOptions) -> tuple[Path, Path]:
    """Writes ``leaderboard.md`` and ``leaderboard.csv``, see :func:`markdown`; returns their paths."""
    text, data = folder / "leaderboard.md", folder / "leaderboard.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with uncollected():
            board, frame = markdown(rows, options), as_csv(table(rows))
        text.write_text(board, encoding="utf-8")
        data.write_text(frame, encoding="utf-8")
    except OSError as error:
        raise MedgraftError(f"the leaderboard cannot be written to {folder}: {error}; choose another folder") from error
    return text, data
