"""How much features say of the site, and of the task once they say less of it.

Embeddings of a frozen encoder may carry more of the scanner than of the disease. A probe that predicts the site from
them shows it; ComBat takes out what a linear reader sees, and the probe of the task on what is left shows what the
task owed to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.metrics.bootstrap import Estimate, estimates
from medgraft.benchmarks.results.site_report import SiteProbe, SiteReport
from medgraft.benchmarks.statistics.combat import combat
from medgraft.benchmarks.training.logistic import Logistic
from medgraft.benchmarks.training.probing import fit_probe, probe_predictions
from medgraft.errors import DataError
from medgraft.metric import Predictions
from medgraft.metric.judging import judged
from medgraft.objective import Objective
from medgraft.task import TaskData

Array = NDArray[Any]

SITE = "site"
LEAST_SUBJECTS = 3
"""Training subjects that a site needs to take part."""

MOST_SITES = 30
"""Sites that take part, those with most training subjects; a regression over more takes minutes."""


def site_words(values: Array) -> list[str | None]:
    """Name of each sample's site, ``None`` where it is unknown.

    Args:
        values: ``[n]`` words or numbers.

    Example:
        >>> site_words(np.array(["PITT", 941.0, None, float("nan"), " "], dtype=object))
        ['PITT', '941', None, None, None]
    """
    return [_word(value) for value in values]


def _word(value: Any) -> str | None:
    if value is None or value != value or not str(value).strip():
        return None
    number = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if number else " ".join(str(value).split())


def report_sites(
    data: TaskData, objective: Objective, name: str, primary: str, features: Array, splits: Mapping[str, Array]
) -> SiteReport | None:
    """The report; ``None`` where the data know of fewer than two sites.

    Args:
        data: The task's data; the sites are its attribute ``site``.
        objective: Of the task.
        name: Its name.
        primary: The task's primary metric.
        features: ``float64 [n, D]``, finite in the samples of the splits.
        splits: ``train``, ``val`` and ``test`` -> sample numbers.
    """
    if SITE not in data.attributes:
        return None
    words = np.array(site_words(data.attributes[SITE]), object)
    used = np.concatenate([splits["train"], splits["test"]])
    if len({word for word in words[used] if word is not None}) < 2:
        return None
    chosen, left_out = _taking_part(words, data.subjects, splits)
    report = SiteReport(sites=len(chosen), left_out=left_out, features=features.shape[1], metric=primary)
    if len(chosen) < 2:
        why = f"{len(chosen)} of the sites have {LEAST_SUBJECTS} training subjects and a test subject; two are needed"
        return report.model_copy(update={"note": why})
    of_chosen = np.isin(words.astype(str), chosen)
    parts = {each: index[of_chosen[index]] for each, index in splits.items() if len(index)}
    parts = {"val": np.array([], np.int64), **parts}
    judge = _Judge(data, objective, name, primary, words.astype(str), chosen, parts)
    found: dict[str, Any] = {"train_samples": len(parts["train"]), "test_samples": len(parts["test"])}
    found["frozen"] = judge.probe(features)
    try:
        rows = np.concatenate(list(parts.values()))
        harmonised, how = combat(features[rows], words[rows].astype(str), np.flatnonzero(np.isin(rows, parts["train"])))
    except DataError as error:
        return report.model_copy(update={**found, "note": str(error)})
    whole = features.copy()
    whole[rows] = harmonised
    return report.model_copy(update={**found, "harmonised": judge.probe(whole), "harmonisation": how})


def _taking_part(words: Array, subjects: Array, splits: Mapping[str, Array]) -> tuple[list[str], dict[str, int]]:
    """Names of the sites, and why samples of training and test take no part -> how many."""
    train, test = splits["train"], splits["test"]
    pairs = {(word, subject) for word, subject in zip(words[train], subjects[train], strict=True) if word is not None}
    counts = Counter(word for word, _ in pairs)
    seen = {word for word in words[test] if word is not None}
    large = sorted((word for word in counts if counts[word] >= LEAST_SUBJECTS), key=lambda word: (-counts[word], word))
    both = [word for word in large if word in seen]
    chosen, left_out = sorted(both[:MOST_SITES]), Counter[str]()
    for word in words[np.concatenate([train, test])]:
        if word is None:
            left_out["site unknown"] += 1
        elif word not in counts:
            left_out["a site without training subjects"] += 1
        elif word not in large:
            left_out[f"a site with fewer than {LEAST_SUBJECTS} training subjects"] += 1
        elif word not in both:
            left_out["a site without test subjects"] += 1
        elif word not in chosen:
            left_out[f"beyond the {MOST_SITES} largest sites"] += 1
    return chosen, dict(left_out)


class _Judge:
    """Fits and scores the two probes on any features of the same samples."""

    def __init__(
        self,
        data: TaskData,
        objective: Objective,
        name: str,
        primary: str,
        words: Array,
        chosen: list[str],
        parts: Mapping[str, Array],
    ) -> None:
        self.data, self.objective, self.name, self.primary, self.parts = data, objective, name, primary, parts
        self.classes = tuple(f"site {k}" for k in range(len(chosen)))
        self.numbers = np.array([chosen.index(word) if word in chosen else -1 for word in words], np.int64)

    def probe(self, features: Array) -> SiteProbe:
        """What both reach on features ``[n, D]``."""
        predictions = probe_predictions(self.objective, self.name, self.data, features, self.parts)
        task = None if predictions is None else _estimate(predictions, self.primary)
        return SiteProbe(site_auc=_estimate(self._sites(features), "auc_macro"), task=task)

    def _sites(self, features: Array) -> Predictions:
        train, test = self.parts["train"], self.parts["test"]
        outputs = tuple(range(len(self.classes)))
        problem = Logistic("", outputs, np.ones(len(train), bool), self.numbers[train])
        logits = fit_probe(features[train], [problem], self.data.subjects[train])(features[test])
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        _, groups = np.unique(self.data.subjects[test], return_inverse=True)
        scores = odds / odds.sum(axis=1, keepdims=True)
        return Predictions(scores, self.numbers[test], groups, self.classes, objective="multiclass")


def _estimate(predictions: Predictions, number: str) -> Estimate | None:
    numbers = judged(predictions)
    if number not in numbers.statistics:
        return None
    return estimates({number: numbers.statistics[number]}, predictions, metrics=numbers.metrics)[number]
