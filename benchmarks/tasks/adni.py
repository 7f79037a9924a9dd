"""Diagnosis on ADNI: cognitively normal, mild cognitive impairment or Alzheimer's disease, from image, text or both.

Splits are by subject. Training may see every visit of its subjects; validation and test hold the first visit only, as
Wen et al., "Convolutional neural networks for classification of Alzheimer's disease", Medical Image Analysis 2020,
recommend.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from medgraft.benchmarks.data.adni import AdniTable, baseline_only, load_volume, read_adni
from medgraft.benchmarks.data.clinical_text import TEXT_FIELDS, compose_text
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, subject_split

DIAGNOSES = ("CN", "MCI", "AD")


def file_facts(paths: list[str], root: Path) -> str:
    """Digest of the files' names below ``root``, sizes and times: changes when a file does."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = Path(path).stat()
            facts = f"{found.st_size}|{found.st_mtime_ns}"
        except OSError:
            facts = "missing"
        digest.update(f"{Path(path).relative_to(root) if Path(path).is_relative_to(root) else path}|{facts}\n".encode())
    return digest.hexdigest()


class AdniTask(Task):
    """Three-way diagnosis; subclasses say which inputs a sample has."""

    objective = "multiclass"
    cohort = "adni"

    class Config(TaskConfig):
        """Options.

        Attributes:
            text_policy: Which fields the clinical note may use; none of them ever holds the diagnosis, but the
                scores in ``full`` and ``cognitive`` are close to how it was made.
            train_visits: ``all`` visits of the training subjects, or their first one only.
            test_fraction: Share of subjects in the test split.
            val_fraction: Share of subjects in the validation split.
            split_seed: Defines the split, for all seeds of a sweep.
        """

        text_policy: Literal["demographic", "genetic", "cognitive", "full"] = "cognitive"
        train_visits: Literal["all", "baseline"] = "all"
        test_fraction: float = Field(0.3, gt=0, lt=1)
        val_fraction: float = Field(0.1, gt=0, lt=1)
        split_seed: int = Field(0, ge=0)

        @model_validator(mode="after")
        def _some_train(self) -> AdniTask.Config:
            if self.test_fraction + self.val_fraction >= 1:
                raise ValueError("test_fraction and val_fraction leave no subject for training")
            return self

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads a LONI or BIDS copy."""
        table = read_adni(root)
        frame = table.frame.reset_index(drop=True)
        targets = np.array([DIAGNOSES.index(dx) for dx in frame["dx"]], dtype=np.int64)
        return TaskData(
            inputs={name: self._raw(name, frame, root) for name in self.inputs},
            targets=targets,
            subjects=frame["subject"].to_numpy(str),
            splits=self._splits(frame),
            classes=DIAGNOSES,
            phantom=table.phantom,
            provenance=self._provenance(table),
        )

    def _splits(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        own = self.config
        fractions = {
            "train": 1 - own.test_fraction - own.val_fraction,
            "val": own.val_fraction,
            "test": own.test_fraction,
        }
        splits = subject_split(frame["subject"].to_numpy(str), frame["dx"].to_numpy(str), fractions, own.split_seed)
        first = np.zeros(len(frame), bool)
        first[baseline_only(frame.assign(row=np.arange(len(frame))))["row"].to_numpy()] = True
        only_first = {"val", "test"} | ({"train"} if own.train_visits == "baseline" else set())
        return {name: index[first[index]] if name in only_first else index for name, index in splits.items()}

    def _raw(self, modality: str, frame: pd.DataFrame, root: Path) -> RawInputs:
        if modality == "text":
            notes = [compose_text(row, self.config.text_policy) for row in frame.to_dict("records")]
            digest = hashlib.sha256("\n".join(notes).encode()).hexdigest()
            return RawInputs(notes.__getitem__, len(notes), digest)
        paths = [str(path) for path in frame["image"]]
        return RawInputs(lambda i: load_volume(paths[i])[0], len(paths), file_facts(paths, root))

    def _provenance(self, table: AdniTable) -> dict[str, Any]:
        report = table.report
        facts: dict[str, Any] = {
            "layout": table.layout,
            "generator": table.generator,
            "reader": {"used": report.used, "skipped": dict(report.skipped), "notes": dict(report.notes)},
            "dx_source": {str(k): int(v) for k, v in table.frame["dx_source"].value_counts().items()},
        }
        if "text" in self.inputs:
            facts["text_policy"] = self.config.text_policy
            facts["text_fields"] = list(TEXT_FIELDS[self.config.text_policy])
        if table.bayes:
            key = "both" if len(self.inputs) > 1 else ("text" if self.inputs == ("text",) else "image")
            facts["bayes_f1_macro"] = table.bayes[key]
        return facts


class AdniImage(AdniTask):
    """Diagnosis from the T1 volume."""

    inputs = ("volume",)


class AdniText(AdniTask):
    """Diagnosis from a note composed of the clinical tables."""

    inputs = ("text",)


class AdniImageText(AdniTask):
    """Diagnosis from volume and note."""

    inputs = ("volume", "text")


class AdniImageNoGap(AdniImage):
    """The same from a cohort whose scanners are those of the encoder's pre-training: a control without a domain gap."""

    cohort = "adni_nogap"
