"""What tasks on resting-state fMRI share: a table of runs becomes samples, targets, splits and baselines.

A sample is a run. A person may have several; splits and intervals are by person. A run is read, masked and, where
asked for, cleaned of motion when it is needed, so that no more than one is in memory. Beside every row stand what age
and sex, and what functional connectivity with a regression, reach on the same people (``data.table_baselines``): the
latter is hard to beat on cohorts of this size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.fmri.connectivity import connectivity
from medgraft.benchmarks.cohorts.fmri.runs import RUNS_VERSION, Cleaning, Confounds, RunFiles, read_run, steps_of
from medgraft.benchmarks.cohorts.fmri.table import RestTable
from medgraft.benchmarks.cohorts.fmri.tangent import tangent_connectivity
from medgraft.benchmarks.cohorts.scans.table import confounds
from medgraft.benchmarks.cohorts.tables.handcrafted import Handcrafted, handcrafted_baselines
from medgraft.benchmarks.cohorts.tables.reading import generator_of, is_phantom
from medgraft.benchmarks.cohorts.tables.visit_table import marker_of
from medgraft.benchmarks.tasks.splits import SiteSplitConfig
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, Variant

SEXES = ("F", "M")
FITTED = ("multiclass", "regression")
"""Objectives whose head is a regression, beside which those on tables stand."""
CONTRASTS: Mapping[str, Variant] = MappingProxyType(
    {
        "instance": Variant(objective="instance_contrast", primary="r1_anchor", tags=("self_supervised",)),
        "local": Variant(objective="local_contrast", primary="r1_anchor", tags=("self_supervised",)),
    }
)
"""Variants of a diagnosis that learn from windows of runs without labels."""


class RestConfig(SiteSplitConfig):
    """Options of every task on resting-state fMRI.

    Attributes:
        confounds: Parameters of motion that are regressed out of every voxel, from fMRIPrep's table: ``none``, the
            six, or ``24`` (with differences and squares).
        detrend: Take a linear trend out of every voxel.
        high_pass: Hz below which nothing is kept; 0 for no filter.
        low_pass: Hz above which nothing is kept; 0 for no filter.
        scrub: Volumes with more framewise displacement, in mm, are cut out; 0 keeps all.
        least_kept: Share of a run's volumes that must be left then, or the run is left out.
        spacing: Edge of the voxels in mm that runs are resampled to; 0 reads them as they are. SwiFT's weights were
            trained on 2.
        baseline: Whether functional connectivity is fitted beside the rows, for which all runs are read once.
        tangent: Whether tangent connectivity is, too, from the mean of the training runs.
    """

    later: ClassVar[Mapping[str, Any]] = MappingProxyType({"tangent": False})

    confounds: Confounds = "none"
    detrend: bool = False
    high_pass: float = Field(0.0, ge=0, le=1)
    low_pass: float = Field(0.0, ge=0, le=1)
    scrub: float = Field(0.0, ge=0, le=10)
    least_kept: float = Field(0.5, gt=0, le=1)
    spacing: float = Field(0.0, ge=0, le=20)
    baseline: bool = True
    tangent: bool = False

    @model_validator(mode="after")
    def _series_are_read(self) -> RestConfig:
        if self.tangent and not self.baseline:
            raise ValueError("tangent needs the regions that baseline reads; set baseline: true")
        return self

    def cleaning(self) -> Cleaning:
        """How runs are read."""
        return Cleaning(**{each.name: getattr(self, each.name) for each in fields(Cleaning)})


class RestTask(Task):
    """Base of tasks on runs; subclasses read a table of them.

    Attributes:
        identifiers: Kind of the cohort's identifiers, by which a phantom without its marker is known.
    """

    inputs = ("volume_sequence",)
    objective = "multiclass"
    primary = "auc_macro"
    Config: ClassVar[type[TaskConfig]] = RestConfig
    config: RestConfig
    identifiers: ClassVar[str] = ""

    def read(self, root: Path) -> RestTable:
        """The cohort's runs.

        Raises:
            DataError: The folder is no copy of the cohort.
        """
        raise TypeError(f"{type(self).__name__} must implement read()")

    def labels(self, frame: pd.DataFrame) -> tuple[list[Any], tuple[str, ...], str]:
        """A class for each row or None, the classes, and why a row without one is left out."""
        raise TypeError(f"{type(self).__name__} must implement labels()")

    def targets(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], dict[str, int]]:
        """Target of each used row ``[m]``, which rows are used ``bool [n]``, the classes, and what was left out.

        Raises:
            DataError: No row is of some class.
        """
        words, classes, why = self.labels(frame)
        used = np.array([word in classes for word in words], bool)
        targets = np.array([classes.index(word) for word in words if word in classes], np.int64)
        left_out = Counter({why: int((~used).sum())})
        if missing := [name for k, name in enumerate(classes) if not (targets == k).any()]:
            found = ", ".join(f"{n} {word}" for word, n in Counter(map(str, words)).items()) or "no run"
            raise DataError(
                f"the task tells {' from '.join(classes)}, and no run is of {missing[0]} (there are: {found})"
            )
        return targets, used, classes, {name: count for name, count in left_out.items() if count}

    def load(self, root: Path) -> TaskData:
        """Reads the table; runs are read when they are needed.

        Raises:
            DataError: The folder is no copy of the cohort, or nobody is of some class.
        """
        table, how = self.read(root), self.config.cleaning()
        targets, used, classes, left_out = self.targets(table.frame)
        frame = pd.DataFrame(table.frame[used]).reset_index(drop=True)
        subjects, sites = frame["subject"].to_numpy(str), frame["site"].to_numpy(object)
        strata = targets if classes else np.zeros(len(frame), int)
        splits = self.config.split(subjects, strata, sites)
        runs = [RunFiles(*row) for row in frame[["image", "mask", "confounds", "step"]].itertuples(index=False)]
        files = [
            part for run in runs for part in (run.image, run.mask, run.confounds if how.needs_table else "") if part
        ]
        facts = f"{file_facts(files, root)}|{how}|{[run.step for run in runs]}|{reading_facts(RUNS_VERSION)}"
        data = TaskData(
            inputs={"volume_sequence": RawInputs(lambda i: read_run(runs[i], how).values, len(runs), facts)},
            targets=targets,
            subjects=subjects,
            splits=splits,
            classes=classes,
            attributes={name: frame[name].to_numpy(object) for name in ("sex", "age", "site")},
            also_read=(file_facts([*files, *[path for path in frame["regions"] if path]], root),),
            phantom=is_phantom(root) or made_up(self.identifiers, subjects),
            provenance={
                "layout": table.layout,
                "generator": generator_of(root),
                "reader": {
                    "used": len(frame),
                    "skipped": dict(table.report.skipped),
                    "notes": dict(table.report.notes),
                },
                "left_out": left_out,
                **self.config.said_of_split(),
                "repetition_times": _repetition_times(runs),
                **self._bayes(root),
            },
        )
        if self.objective in FITTED:
            data.provenance["table_baselines"] = self._baselines(data, frame, runs, table, root)
        else:  # learns without labels, and is asked who is who
            facts, names = confounds(frame.assign(head_size=np.nan))
            data.columns, data.provenance["confounds"] = {"confounds": facts}, list(names)
        return data

    def _baselines(
        self, data: TaskData, frame: pd.DataFrame, runs: list[RunFiles], table: RestTable, root: Path
    ) -> dict[str, Any]:
        female = [{"F": 1.0, "M": 0.0}.get(sex, np.nan) for sex in frame["sex"]]
        known = {"age": frame["age"].to_numpy(float), "sex": np.array(female)}
        told = [name for name in known if name not in self.asked_for()]
        features = {", ".join(told): Handcrafted(tuple(told), np.stack([known[name] for name in told], axis=1))}
        if self.config.baseline:
            found = connectivity(runs, list(frame["regions"]), self.config.cleaning(), root, table.atlas)
            without = "".join(f"; {count} without: {reason}" for reason, count in found.reasons.items())
            words = f"Fisher z of {found.values.shape[1]} correlations, {found.regions}{without}"
            features["functional connectivity"] = Handcrafted((words,), found.values)
            if self.config.tangent:
                values, regions = tangent_connectivity(found.series, data.splits["train"])
                words = (
                    f"tangent vectors of {regions} regions at the mean of the training runs, {found.regions}{without}"
                )
                features["tangent connectivity"] = Handcrafted((words,), values)
        assert isinstance(self.objective, str)
        return handcrafted_baselines(data.check(), self.objective, self.inputs, features)

    def asked_for(self) -> tuple[str, ...]:
        """Facts of a person that are the target, and thus no baseline."""
        return ()

    def bayes_name(self) -> str:
        """Key of the phantom's best reachable score; empty where none is known."""
        return "f1_macro" if self.objective in FITTED else ""

    def _bayes(self, root: Path) -> dict[str, Any]:
        best = marker_of(root).get("bayes")
        value = best.get(self.bayes_name()) if isinstance(best, dict) else None
        return {"bayes_f1_macro": float(value)} if isinstance(value, int | float) else {}


def _repetition_times(runs: list[RunFiles]) -> dict[str, int]:
    """Seconds between volumes -> runs that have them; ``unknown`` where neither header nor sidecar says."""
    steps = Counter(steps_of(run) for run in runs)
    return {f"{step:g} s" if step else "unknown": count for step, count in sorted(steps.items())}


class RestDiagnosis(RestTask):
    """Classes of people: the diagnosis, or their sex."""

    class Config(RestConfig):
        """Options.

        Attributes:
            target: What is told from the run: the diagnosis, or the sex.
        """

        target: Literal["diagnosis", "sex"] = "diagnosis"

    config: Config
    diagnoses: ClassVar[tuple[str, ...]] = ()

    def labels(self, frame: pd.DataFrame) -> tuple[list[Any], tuple[str, ...], str]:
        """See :meth:`RestTask.labels`."""
        if self.config.target == "sex":
            return list(frame["sex"]), SEXES, "no sex"
        return list(frame["dx"]), self.diagnoses, "no diagnosis of the task"

    def asked_for(self) -> tuple[str, ...]:
        """See :meth:`RestTask.asked_for`."""
        return ("sex",) if self.config.target == "sex" else ()


class RestAge(RestTask):
    """Age in years."""

    objective = "regression"
    primary = "mae"

    def targets(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], dict[str, int]]:
        """The ages, ``float64 [n]``, of the rows ``bool [m]`` that have one.

        Raises:
            DataError: Nobody has one.
        """
        ages = frame["age"].to_numpy(float)
        used = np.isfinite(ages)
        if not used.any():
            raise DataError("no run is of a person whose age is known")
        left_out = {"no age": int((~used).sum())} if not used.all() else {}
        return ages[used], used, (), left_out

    def asked_for(self) -> tuple[str, ...]:
        """See :meth:`RestTask.asked_for`."""
        return ("age",)

    def bayes_name(self) -> str:
        """None is known."""
        return ""
