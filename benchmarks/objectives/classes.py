"""What objectives share whose predictions are scores of classes or labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from medgraft.benchmarks.metrics.calibration import OF_PROBABILITIES
from medgraft.benchmarks.metrics.classification import best_thresholds
from medgraft.errors import DataError
from medgraft.metric import Array, Predictions
from medgraft.objective import Objective
from medgraft.task import TaskData

OF_CLASSES = ("f1", "precision", "auc", "accuracy", *OF_PROBABILITIES)
OF_LABELS = ("f1", "auc", *OF_PROBABILITIES)


class ClassObjective(Objective):
    """Scores ``[n, K]`` of classes that exclude each other (targets ``[n]``) or of labels (targets ``[n, K]``)."""

    primary = "f1_macro"
    metrics = OF_CLASSES
    lowest_in_training: ClassVar[int] = 0
    """Smallest target of a sample that is not tested; -1 where such a sample need not have a class."""

    columns = ("f1_macro", "f1_weighted", "auc_macro")

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`; two classes or more, and targets that are numbers of them, or labels 0 and 1."""
        K = len(data.classes)
        if K < 2 or len(set(data.classes)) < K:
            raise DataError(f"classes are {data.classes}; give two different names or more")
        (check_classes if cls.takes_classes(data) else check_labels)(data, lowest_in_training=cls.lowest_in_training)

    @classmethod
    def takes_classes(cls, data: TaskData) -> bool:
        """Whether targets are classes, one for each sample, and not labels."""
        return cls.one_class_each

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """See :meth:`Objective.predictions`; labels get the thresholds that are best on validation samples, if any."""
        data, test = self.data, splits["test"]
        scores, targets = predict(test), data.targets[test]
        mask = None if data.mask is None else data.mask[test]
        thresholds = None
        if targets.ndim == 2:
            val = splits["val"]
            val_mask = None if data.mask is None else data.mask[val]
            thresholds = (
                best_thresholds(predict(val), data.targets[val], val_mask)
                if len(val)
                else np.full(targets.shape[1], 0.5)
            )
        return Predictions(
            scores,
            targets,
            groups,
            data.classes,
            mask,
            thresholds,
            variants=data.variants,
            asked=None if data.asked is None else data.asked[test],
            questions=data.questions,
            answers=data.answers,
        )

    @classmethod
    def judged_by(cls, p: Predictions) -> tuple[str, ...]:
        """Metrics of questions where there are some, else those of classes or of labels."""
        if p.answers:
            return ("questions",)
        return OF_CLASSES if p.targets.ndim == 1 else OF_LABELS

    @classmethod
    def strata(cls, p: Predictions) -> Sequence[np.ndarray]:
        """The classes ``int64 [n]``; of labels, each: who has it, and all others, what does not count among them."""
        if p.targets.ndim == 1:
            return (p.targets.astype(np.int64),)
        has = p.targets.astype(bool) if p.mask is None else p.targets.astype(bool) & p.mask.astype(bool)
        return tuple(has.T.astype(np.int64))

    @classmethod
    def subjects_by_class(cls, p: Predictions) -> dict[str, int]:
        """Of a label, the rarer of those who have it and those who have not."""
        if p.targets.ndim == 1:
            return {name: subjects_in(p, p.targets == k) for k, name in enumerate(p.classes)}
        counts = np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)
        has = p.targets.astype(bool)
        return {
            name: min(subjects_in(p, counts[:, k] & has[:, k]), subjects_in(p, counts[:, k] & ~has[:, k]))
            for k, name in enumerate(p.classes)
        }

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        n, K = len(p.scores), len(p.classes)
        if p.scores.shape != (n, K) or p.targets.shape not in ((n,), (n, K)):
            return f"scores {p.scores.shape} and targets {p.targets.shape} are not those of {K} classes"
        if p.targets.ndim == 1 and (p.targets.dtype.kind not in "iu" or p.targets.min() < 0 or p.targets.max() >= K):
            return f"its targets are no numbers of {K} classes"
        if p.mask is not None and p.mask.shape != (n, K):
            return f"mask {p.mask.shape} is not that of scores {p.scores.shape}"
        if p.thresholds is not None and p.thresholds.shape != (K,):
            return f"{p.thresholds.shape} thresholds are not those of {K} classes"
        if p.answers and (p.asked is None or p.asked.shape != (n,)):
            return "it does not say which question each sample asks"
        return ""


def subjects_in(p: Predictions, rows: Array) -> int:
    """Number of subjects that the samples ``bool [n]`` come from."""
    return len(np.unique(p.groups[rows]))


def check_classes(data: TaskData, *, lowest_in_training: int = 0) -> None:
    """Refuses targets that are no class numbers ``int64 [n]``.

    Raises:
        DataError: With the shape, or the split whose values are out of range.
    """
    K = len(data.classes)
    if data.targets.ndim != 1 or data.targets.dtype.kind not in "iu":
        raise DataError(
            f"targets are {data.targets.dtype} {list(data.targets.shape)}; classes are whole numbers, one per sample"
        )
    for name, index in data.splits.items():
        values, lowest = data.targets[index], 0 if name == "test" else lowest_in_training
        if len(values) and not lowest <= values.min() <= values.max() < K:
            raise DataError(
                f"the {name} split has targets from {values.min()} to {values.max()}; {K} classes are 0 to {K - 1}"
            )


def check_labels(data: TaskData, *, lowest_in_training: int = 0) -> None:
    """Refuses targets that are no labels ``[n, K]`` of 0 and 1 (and 2, where a label may be uncertain).

    Raises:
        DataError: With the shape, or the values that are neither.
    """
    K = len(data.classes)
    if data.targets.shape[1:] != (K,):
        raise DataError(f"targets are {list(data.targets.shape)}; {K} labels have one column each")
    counted = data.targets if data.mask is None else data.targets[data.mask.astype(bool)]
    allowed = (0, 1, 2) if data.uncertain_class else (0, 1)
    if not np.isin(counted, allowed).all():
        strange = np.unique(counted[~np.isin(counted, allowed)])[:3].tolist()
        raise DataError(f"labels that count hold {strange}; they are {' or '.join(map(str, allowed))}")
