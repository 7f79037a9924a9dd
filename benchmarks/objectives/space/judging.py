"""What a space is judged by: embeddings of the test samples, linear probes on them, and what confounds alone match."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.space.retrieval import modalities_of
from medgraft.benchmarks.objectives.space.probes import Embedded, fit_probes, match_confounds
from medgraft.metric import Array, Predictions
from medgraft.objective import Objective
from medgraft.task import TaskData


class SpaceObjective(Objective):
    """An objective whose predictions are :func:`predictions_of`."""

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        return misfit_of(p)

    @classmethod
    def strata(cls, p: Predictions) -> list[np.ndarray]:
        """The classes that probes tell apart, ``int64 [n]``."""
        return [p.targets]


def predictions_of(
    train: Embedded, test: Embedded, data: TaskData, splits: Mapping[str, Array], groups: Array
) -> Predictions:
    """Predictions of the test split; probes and the matcher of confounds are fitted on training samples.

    Args:
        train: Training samples, ``m``.
        test: Test samples, ``n``.
        data: Targets; ``columns["confounds"]``, where it is there, what two scans of a person share besides.
        splits: Split -> sample numbers.
        groups: ``int64 [n]`` anonymous subject numbers of the test samples.
    """
    index, targets = splits["train"], data.targets
    columns: dict[str, np.ndarray] = {
        **{f"present_{name}": test.present[:, k] for k, name in enumerate(test.z)},
        "common": np.full(len(test.present), test.common, np.int64),
        **fit_probes(train, test, targets[index], data.subjects[index], len(data.classes)),
    }
    if (facts := data.columns.get("confounds")) is not None and facts.shape[1]:
        columns |= match_confounds(train, test, facts[index])
    return Predictions(test.embeddings(), targets[splits["test"]], groups, data.classes, columns=columns)


def misfit_of(p: Predictions) -> str:
    """What makes stored arrays no predictions of a space, in words; empty if nothing does."""
    n, names = len(p.targets), modalities_of(p)
    if len(names) < 2 or p.scores.ndim != 2 or p.scores.shape[1] % len(names):
        return f"scores {p.scores.shape} are no embeddings of {len(names)} modalities"
    if p.targets.shape != (n,) or p.targets.dtype.kind not in "iu":
        return f"targets {p.targets.dtype} {p.targets.shape} are no classes"
    common, width = p.columns.get("common"), p.scores.shape[1] // len(names)
    if common is None or common.shape != (n,) or not 1 <= int(common[0]) <= width:
        return f"it does not say how many of {width} columns are common"
    for name, column in p.columns.items():
        if name.startswith(("probe_", "subset_")) and column.shape != (n, max(2, len(p.classes))):
            return f"its column {name!r} of shape {column.shape} is no probability of {len(p.classes)} classes"
    return ""
