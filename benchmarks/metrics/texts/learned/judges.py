"""Which trained judges are at hand, and the columns that they add to predictions.

``MEDGRAFT_JUDGES`` names a folder with a folder for each judge, ``bert_score``, ``chexbert``, ``radgraph`` and
``green``; what is there is used once, when a cell's texts are generated. Their numbers are then made of columns that
predictions hold, so that a reader of results needs no weights.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgraft.benchmarks.metrics.texts.learned.bert_score import COLUMN as BERT_SCORE
from medgraft.benchmarks.metrics.texts.learned.bert_score import bert_scores
from medgraft.benchmarks.metrics.texts.learned.chexbert_labels import GENERATED_LABELS, REFERENCE_LABELS
from medgraft.benchmarks.metrics.texts.learned.chexbert_model import chexbert_labels
from medgraft.benchmarks.metrics.texts.learned.green import COLUMN as GREEN
from medgraft.benchmarks.metrics.texts.learned.green_model import green_counts
from medgraft.benchmarks.metrics.texts.learned.radgraph_f1 import COLUMN as RADGRAPH
from medgraft.benchmarks.metrics.texts.learned.radgraph_model import model_in, radgraph_f1
from medgraft.errors import ConfigError, MedgraftError
from medgraft.metric import Array, Predictions

FOLDER = "MEDGRAFT_JUDGES"
logger = logging.getLogger(__name__)


class Added(NamedTuple):
    """What judges add.

    Attributes:
        columns: Column -> numbers of each sample, ``[n, ...]``.
        facts: Judge -> what a result says of it: its model, or why it was left out.
    """

    columns: dict[str, Array]
    facts: dict[str, str]


class Judged(NamedTuple):
    """What one judge makes of texts.

    Attributes:
        columns: Column -> numbers of each sample, ``[n, ...]``.
        note: What a result says of it beside its weights; empty for nothing.
    """

    columns: Mapping[str, Array]
    note: str = ""


def _bert_score(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Judged:
    return Judged({BERT_SCORE: bert_scores(folder, texts, references)})


def _chexbert(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Judged:
    labels = chexbert_labels(folder, [*texts, *references])
    return Judged({GENERATED_LABELS: labels[: len(texts)], REFERENCE_LABELS: labels[len(texts) :]})


def _radgraph(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Judged:
    return Judged({RADGRAPH: radgraph_f1(folder, texts, references)}, model_in(folder))


def _green(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Judged:
    counts = green_counts(folder, texts, references)
    return Judged({GREEN: counts}, f"{int(np.isnan(counts).any(axis=1).sum())} of {len(counts)} answers unreadable")


JUDGES: Mapping[str, Callable[[Path, Sequence[str], Sequence[str]], Judged]] = {
    "bert_score": _bert_score,
    "chexbert": _chexbert,
    "radgraph": _radgraph,
    "green": _green,
}
"""Name of a judge's folder -> what it makes of texts and references."""


def judged_columns(texts: Sequence[str], references: Sequence[str]) -> Added:
    """Columns of the judges whose folders are there; one that cannot be opened is left out, with the reason."""
    added = Added({}, {})
    named = os.environ.get(FOLDER, "")
    for name, judge in JUDGES.items() if named else ():
        folder = Path(named) / name
        if not folder.is_dir():
            added.facts[name] = f"left out: {FOLDER} has no folder {name}"
            continue
        try:
            judged = judge(folder, texts, references)
        except ConfigError as error:  # a library is missing, and the sentence names it
            added.facts[name] = f"left out: {error}"
        except (MedgraftError, OSError, ValueError, RuntimeError, KeyError) as error:
            added.facts[name] = f"left out: {type(error).__name__} while its weights were read"
            logger.warning("%s is left out: %s", name, error)
        else:
            added.columns.update(judged.columns)
            added.facts[name] = "; ".join(filter(None, (f"weights {_digest(folder)}", judged.note)))
    return added


def _digest(folder: Path) -> str:
    from medgraft.benchmarks.metrics.texts.learned.weights import digest_of_folder

    return digest_of_folder(folder)


COLUMNS: Mapping[str, tuple[int, str]] = {
    BERT_SCORE: (3, "f"),
    GENERATED_LABELS: (14, "iu"),
    REFERENCE_LABELS: (14, "iu"),
    RADGRAPH: (3, "f"),
    GREEN: (7, "f"),
}
"""Column -> its numbers for each sample, and their kinds of NumPy."""


def column_misfit(p: Predictions) -> str:
    """What makes stored columns none of these judges', in words; empty if nothing does."""
    for name, (width, kinds) in COLUMNS.items():
        column: Any = p.columns.get(name)
        if column is not None and (column.ndim != 2 or column.shape[1] != width or column.dtype.kind not in kinds):
            return f"its column {name!r} is not of {width} numbers for each sample"
    if (GENERATED_LABELS in p.columns) != (REFERENCE_LABELS in p.columns):
        return "it has CheXbert's labels of only one side"
    return ""
