"""Classes of people from weights between regions: structural connectomes, functional ones, or both.

A sample is a session. Beside every row stand age and sex, and a logistic regression on the weights above the diagonal,
which graph networks find hard to beat on cohorts of this size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.connectomes.reader import Connectomes, read_connectomes, whole
from medgraft.benchmarks.cohorts.connectomes.weights import WEIGHTS_VERSION, Weights, read_weights
from medgraft.benchmarks.cohorts.tables.handcrafted import Handcrafted, handcrafted_baselines
from medgraft.benchmarks.cohorts.tables.reading import generator_of, is_phantom
from medgraft.benchmarks.cohorts.tables.visit_table import marker_of
from medgraft.benchmarks.tasks.splits import SiteSplitConfig
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.task import RawInputs, Task, TaskData, Variant

MOST_CLASSES = 10
SEXES = ("F", "M")
COUNTS = 1.0
"""A kind with weights above this is one of counts, whose logarithms the regression reads."""


class ConnectomeTask(Task):
    """The words of a column of ``participants.tsv``; the sex as a variant."""

    inputs = ("graph",)
    objective = "multiclass"
    primary = "auc_macro"
    cohort = "connectomes"
    variants: ClassVar[Mapping[str, Variant]] = {"sex": Variant(defaults={"target": "sex"})}

    class Config(SiteSplitConfig):
        """Options.

        Attributes:
            target: What is told: the diagnosis, or the sex.
            column: Column of ``participants.tsv`` with the diagnosis; empty to find it by its name.
            classes: The words that are told apart, in the order of the classes; others are left out and counted. Empty
                for all that the column has, by name.
            kinds: A word for each kind of weights, which stands in the names of its files or folders; empty where
                people have one matrix.
            baseline: Whether the regression on the weights is fitted beside the rows.
        """

        target: Literal["diagnosis", "sex"] = "diagnosis"
        column: str = ""
        classes: tuple[str, ...] = ()
        kinds: tuple[str, ...] = ()
        baseline: bool = True

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the matrices.

        Raises:
            DataError: The folder has no table of people or no usable matrix, or nobody is of some class.
        """
        found = read_connectomes(root, kinds=self.config.kinds, column=self.config.column)
        words = list(found.frame["sex" if self.config.target == "sex" else "dx"])
        classes = self._classes(words)
        weights = read_weights(found.files, list(found.frame["subject"]), root)
        left_out = Counter(reason for reason in weights.reasons if reason)
        labelled = np.array([word in classes for word in words])
        usable = np.array([not reason for reason in weights.reasons])
        if other := int((usable & ~labelled).sum()):
            left_out[f"no {self.config.target} of the task"] = other
        rows = np.flatnonzero(usable & labelled)
        targets = np.array([classes.index(words[row]) for row in rows], np.int64)
        if missing := [name for k, name in enumerate(classes) if not (targets == k).any()]:
            why = "; ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "nothing was left out"
            raise DataError(f"no usable connectome is of class {missing[0]} ({why})")
        return self._data(root, found, weights, rows, targets, classes, dict(left_out))

    def _classes(self, words: list[Any]) -> tuple[str, ...]:
        if self.config.target == "sex":
            return SEXES
        classes = self.config.classes or tuple(sorted({word for word in words if word is not None}))
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise DataError(
                f"the diagnosis of participants.tsv has {len(classes)} different words; name another column, or the "
                "classes"
            )
        return classes

    def _data(
        self,
        root: Path,
        found: Connectomes,
        weights: Weights,
        rows: np.ndarray,
        targets: np.ndarray,
        classes: tuple[str, ...],
        left_out: dict[str, int],
    ) -> TaskData:
        frame = found.frame.iloc[rows].reset_index(drop=True)
        subjects = frame["subject"].to_numpy(str)
        values = weights.values[rows]
        files = [str(path) for row in rows for path in found.files[row]]
        data = TaskData(
            inputs={
                "graph": RawInputs(
                    lambda i: whole(values[i]), len(rows), f"{file_facts(files, root)}|{WEIGHTS_VERSION}"
                )
            },
            targets=targets,
            subjects=subjects,
            splits=self.config.split(subjects, targets, frame["site"].to_numpy(object)),
            classes=classes,
            attributes={name: frame[name].to_numpy(object) for name in ("sex", "age", "site")},
            phantom=is_phantom(root) or cohort_class(self.cohort).made_up([f"{name}/" for name in subjects]),
            provenance={
                "generator": generator_of(root),
                "reader": {
                    "used": len(rows),
                    "skipped": dict(found.report.skipped),
                    "notes": dict(found.report.notes),
                },
                "left_out": left_out,
                "regions": weights.regions,
                "kinds": list(self.config.kinds) or ["the one that there is"],
                **self.config.said_of_split(),
            },
        )
        best: dict[str, float] = marker_of(root).get("bayes") or {}
        read = set(self.config.kinds) or set(best)
        if known := best.get("both" if len(read) > 1 else next(iter(read), "")):
            data.provenance["bayes_f1_macro"] = known
        data.provenance["table_baselines"] = self._baselines(data, frame, values)
        return data

    def _baselines(self, data: TaskData, frame: pd.DataFrame, values: np.ndarray) -> dict[str, Any]:
        known = {"age": frame["age"].to_numpy(float)}
        if self.config.target != "sex":
            known["sex"] = np.array([{"F": 1.0, "M": 0.0}.get(sex, np.nan) for sex in frame["sex"]])
        features = {", ".join(known): Handcrafted(tuple(known), np.stack(list(known.values()), axis=1))}
        if self.config.baseline:
            weights = np.asarray(values, np.float64)
            counts = np.abs(weights[data.splits["train"]]).max(axis=(0, 2)) > COUNTS
            weights[:, counts] = np.sign(weights[:, counts]) * np.log1p(np.abs(weights[:, counts]))
            said = [f"logarithms of kind {k + 1}" for k in np.flatnonzero(counts)]
            words = "; ".join([f"{weights.shape[1]} x {weights.shape[2]} weights above the diagonal", *said])
            features["upper triangle"] = Handcrafted((words,), weights.reshape(len(weights), -1))
        assert isinstance(self.objective, str)
        return handcrafted_baselines(data.check(), self.objective, self.inputs, features)
