"""Which metrics judge some texts: those whose columns are there and whose libraries are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from medgraft.benchmarks.metrics.texts.clinical.truth import TRUTH
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, texts_of
from medgraft.benchmarks.metrics.texts.kinds import KIND
from medgraft.benchmarks.metrics.texts.learned.bert_score import COLUMN as BERT_SCORE
from medgraft.benchmarks.metrics.texts.learned.chexbert_labels import GENERATED_LABELS
from medgraft.benchmarks.metrics.texts.learned.green import COLUMN as GREEN
from medgraft.benchmarks.metrics.texts.learned.judges import column_misfit
from medgraft.benchmarks.metrics.texts.learned.radgraph_f1 import COLUMN as RADGRAPH
from medgraft.benchmarks.metrics.texts.statements import from_json, statements_of
from medgraft.errors import DataError
from medgraft.metric import Predictions

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "rouge": ("rouge_score",),
    "bleu": ("sacrebleu",),
    "agreement": (),
    "chrf": ("sacrebleu",),
    "meteor_without_synonyms": ("nltk",),
    "cider": ("sacrebleu", "nltk"),
    "cider_d": ("sacrebleu",),
}
"""Metric of every text -> libraries that it is made with."""

OF_KINDS = ("answers_by_kind",)
"""Of questions, whose kinds are known."""

CLINICAL = (
    "finding_f1",
    "hallucination",
    "hallucination_counts",
    "entailment",
    "false_assertions",
    "assertion_coverage",
)
"""Of reports."""

LEARNED = {
    "bert_score": BERT_SCORE,
    "chexbert_f1": GENERATED_LABELS,
    "radgraph_f1": RADGRAPH,
    "green": GREEN,
}
"""By trained models -> the column that says that its weights were there."""

ALL = (*LIBRARIES, *LEARNED, *OF_KINDS, *CLINICAL)


def fitting(p: Predictions) -> tuple[str, ...]:
    """Names of the metrics that fit some predictions.

    Clinical ones are of reports, not of answers to questions, and need findings: those that the task knows
    (``truth``), or those that a reference states.
    """
    named = [name for name, needed in LIBRARIES.items() if _installed(needed)]
    named += [name for name, column in LEARNED.items() if column in p.columns]
    if KIND in p.columns:
        return (*named, *(OF_KINDS if _installed(("sacrebleu", "rouge_score")) else ()))
    return (*named, *(CLINICAL if TRUTH in p.columns or _states_findings(p) else ()))


def _installed(libraries: tuple[str, ...]) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in libraries)


def _states_findings(p: Predictions) -> bool:
    return any(statements_of(text) for text in texts_of(p.columns[REFERENCE]))


def misfit(p: Predictions) -> str:
    """What makes stored arrays no texts that the metrics can read, in words; empty if nothing does."""
    for name in (GENERATED, REFERENCE, TRUTH, KIND):
        column = p.columns.get(name)
        if column is None and name in (TRUTH, KIND):
            continue
        if column is None or column.ndim != 2 or column.dtype.kind not in "ui":
            return f"it has no column {name!r} of texts"
    if TRUTH in p.columns:
        try:
            for text in set(texts_of(p.columns[TRUTH])):
                from_json(text)
        except DataError as error:
            return f"its column {TRUTH!r} holds no statements: {error}"
    return column_misfit(p)
