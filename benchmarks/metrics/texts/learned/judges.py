"""Which trained judges are at hand, and the columns that they add to predictions.

``MEDGRAFT_JUDGES`` names a folder with a folder for each judge, ``bert_score`` and ``chexbert``; what is there is used
once, when a cell's texts are generated. Their numbers are then made of columns that predictions hold, so that a reader
of results needs no weights.

Two that papers report are not there. RadGraph-F1 (Jain et al., 2021; Delbrouck et al., 2022) runs a DyGIE++ model in a
copy of AllenNLP that its package brings along and that loads a tokenizer from the hub by name; GREEN (Ostmeier et
al., 2024) is a language model of seven billion parameters with a prompt of its own. Neither can be opened from a folder
and tested without its weights, so neither is claimed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medgraft.benchmarks.metrics.texts.learned.bert_score import COLUMN as BERT_SCORE
from medgraft.benchmarks.metrics.texts.learned.bert_score import bert_scores
from medgraft.benchmarks.metrics.texts.learned.chexbert_labels import GENERATED_LABELS, REFERENCE_LABELS
from medgraft.benchmarks.metrics.texts.learned.chexbert_model import chexbert_labels
from medgraft.errors import MedgraftError
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


def _bert_score(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Mapping[str, Array]:
    return {BERT_SCORE: bert_scores(folder, texts, references)}


def _chexbert(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Mapping[str, Array]:
    labels = chexbert_labels(folder, [*texts, *references])
    return {GENERATED_LABELS: labels[: len(texts)], REFERENCE_LABELS: labels[len(texts) :]}


JUDGES: Mapping[str, Callable[[Path, Sequence[str], Sequence[str]], Mapping[str, Array]]] = {
    "bert_score": _bert_score,
    "chexbert": _chexbert,
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
            added.columns.update(judge(folder, texts, references))
        except (MedgraftError, OSError, ValueError, RuntimeError, KeyError) as error:
            added.facts[name] = f"left out: {type(error).__name__} while its weights were read"
            logger.warning("%s is left out: %s", name, error)
            continue
        added.facts[name] = f"weights {_digest(folder)}"
    return added


def _digest(folder: Path) -> str:
    from medgraft.benchmarks.metrics.texts.learned.weights import digest_of_folder

    return digest_of_folder(folder)


def column_misfit(p: Predictions) -> str:
    """What makes stored columns none of these judges', in words; empty if nothing does."""
    wanted: dict[str, tuple[int, str]] = {
        BERT_SCORE: (3, "f"),
        GENERATED_LABELS: (14, "iu"),
        REFERENCE_LABELS: (14, "iu"),
    }
    for name, (width, kinds) in wanted.items():
        column: Any = p.columns.get(name)
        if column is not None and (column.ndim != 2 or column.shape[1] != width or column.dtype.kind not in kinds):
            return f"its column {name!r} is not of {width} numbers for each sample"
    if (GENERATED_LABELS in p.columns) != (REFERENCE_LABELS in p.columns):
        return "it has CheXbert's labels of only one side"
    return ""
