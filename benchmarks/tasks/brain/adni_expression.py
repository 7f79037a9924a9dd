"""Diagnosis from the expression of genes in blood and the genotype, on ADNI's arrays.

Genes are chosen by their variance, and scaled, on the training subjects alone. A sample is a row of standardised genes,
then the number of APOE e4 alleles and the polygenic score, scaled likewise: what the encoders ``omics:...`` read. Every
result holds what age and sex, APOE and the whole genotype predict alone on the same test subjects
(``data.table_baselines``): APOE is strong, and expression in blood has to add to it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.omics.adni_blood import find_profile, people_of, read_profile
from medgraft.benchmarks.cohorts.omics.expression import Logarithm, in_logarithms
from medgraft.benchmarks.cohorts.omics.scaling import GeneScaling
from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER, generator_of, is_phantom
from medgraft.benchmarks.cohorts.tables.tabular import table_baselines
from medgraft.benchmarks.tasks.brain.visits import Contrast
from medgraft.benchmarks.tasks.splits import SiteSplitConfig
from medgraft.errors import DataError
from medgraft.task import RawInputs, Task, TaskData

PREDICTORS = {"age, sex": ("age", "female"), "APOE": ("apoe4",), "APOE, polygenic score": ("apoe4", "prs")}


class AdniExpression(Task):
    """CN, MCI or AD from a row of genes."""

    inputs = ("table",)
    objective = "multiclass"
    cohort = "adni_expression"

    class Config(SiteSplitConfig):
        """Options.

        Attributes:
            contrast: The diagnoses to be told apart; samples with another one are left out and counted.
            genes: Most genes that are read, those of largest variance among training subjects.
            log: Whether values become ``log2(1 + x)``; ``auto`` where they are no logarithms yet.
            genotype: Whether the row's last two numbers are told, or missing.
            least_rin: Samples whose RNA integrity number is lower are left out; 0 keeps all.
        """

        contrast: Contrast = "CN-MCI-AD"
        genes: int = Field(2000, ge=1, le=50_000)
        log: Logarithm = "auto"
        genotype: bool = True
        least_rin: float = Field(0.0, ge=0, le=10)

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads expression and people.

        Raises:
            DataError: A table is missing or not laid out as ADNI's; or no sample has a diagnosis of the contrast.
        """
        config = self.config
        table, samples = read_profile(find_profile(root))
        table, scale = in_logarithms(table, config.log)
        people = people_of(root, samples, table.report).assign(rin=samples["rin"].to_numpy(float))
        used, left_out = self._used(people.assign(measured=np.isfinite(table.values).any(axis=1)))
        if not used.any():
            raise DataError(f"no sample has a diagnosis of {config.contrast} ({left_out})")
        frame, values = pd.DataFrame(people[used]).reset_index(drop=True), table.values[used]
        classes = tuple(config.contrast.split("-"))
        targets = np.array([classes.index(dx) for dx in frame["dx"]], np.int64)
        subjects = frame["subject"].to_numpy(str)
        splits = config.split(subjects, targets, frame["site"].to_numpy(object))
        scaling = GeneScaling.of(values[splits["train"]], config.genes)
        genotype = _standardised(frame[["apoe4", "prs"]].to_numpy(float), splits["train"])
        genotype = genotype if config.genotype else np.full_like(genotype, np.nan)
        rows = np.concatenate([scaling.apply(values), genotype], axis=1)
        facts = {
            "genes": len(scaling.columns),
            "genes_in_table": len(table.genes),
            "scale": scale,
            "generator": generator_of(root),
            "reader": {"used": len(frame), "skipped": dict(table.report.skipped), "notes": dict(table.report.notes)},
            "dx_source": {str(k): int(v) for k, v in frame["dx_source"].value_counts().items()},
            "left_out": left_out,
            **config.said_of_split(),
            "table_baselines": table_baselines(frame, targets, splits, classes, PREDICTORS),
        }
        return TaskData(
            inputs={"table": RawInputs(rows.__getitem__, len(rows), hashlib.sha256(rows.tobytes()).hexdigest())},
            targets=targets,
            subjects=subjects,
            splits=splits,
            classes=classes,
            attributes={name: frame[name].to_numpy(object) for name in ("sex", "age", "site")},
            phantom=is_phantom(root) or made_up("adni", subjects),
            provenance=facts | _bayes(root, config.contrast, genotype=config.genotype),
        )

    def _used(self, people: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
        """Which samples are used, ``bool [n]``, and how many are not for each reason."""
        used, left_out = np.zeros(len(people), bool), Counter[str]()
        seen: set[str] = set()
        columns = [people[name] for name in ("subject", "dx", "rin", "measured")]
        for i, (subject, dx, rin, measured) in enumerate(zip(*columns, strict=True)):
            if dx not in self.config.contrast.split("-"):
                left_out["no diagnosis of the contrast"] += 1
            elif rin < self.config.least_rin:
                left_out["RNA integrity too low"] += 1
            elif not measured:
                left_out["no number of expression"] += 1
            elif subject in seen:
                left_out["a further sample of a subject"] += 1
            else:
                used[i] = True
                seen.add(subject)
        return used, dict(left_out)


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Columns ``[n, 2]`` by mean and deviation of the training rows, ``float32``; one without any stays missing."""
    scaled = np.full(values.shape, np.nan, np.float32)
    for k in range(values.shape[1]):
        known = values[train, k][np.isfinite(values[train, k])]
        if len(known) and known.std() > 0:
            scaled[:, k] = (values[:, k] - known.mean()) / known.std()
    return scaled


def _bayes(root: Path, contrast: str, *, genotype: bool) -> dict[str, Any]:
    """A phantom's best reachable score, known for three classes."""
    marker = root / PHANTOM_MARKER
    if contrast != "CN-MCI-AD" or not marker.is_file():
        return {}
    known = json.loads(marker.read_text(encoding="utf-8")).get("bayes", {})
    return {"bayes_f1_macro": known["both" if genotype else "expression"]} if "both" in known else {}
