"""Zero-shot classification of radiographs by class prompts, and where a contrastive adapter gets its pairs.

The cohorts that the field evaluates on (RSNA, SIIM, NIH) have no reports. An adapter that is trained sees the
image-report pairs of MIMIC-CXR: a copy of it that lies in the cohort's folder, or one level below, is found by itself,
and its training split is what is trained on. Nothing of the evaluated cohort is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.cohorts.chest.mimic import MimicTable, has_mimic, read_mimic
from medgraft.benchmarks.tasks.chest.radiographs import PromptConfig, attributes, radiographs
from medgraft.task import RawInputs, Task, TaskConfig, TaskData

NO_PAIRS = (
    "the cohort has no image-report pairs to train on; put a copy of MIMIC-CXR (its tables, images and reports) into a "
    "folder below the cohort's, or choose an adapter that trains nothing (zero_shot)"
)


@dataclass(frozen=True)
class Scored:
    """The cohort that is predicted.

    Attributes:
        frame: One row per image: ``subject`` and ``image``.
        targets: ``int64 [n]`` classes or ``float32 [n, L]`` labels.
        splits: ``train``, ``val`` and ``test`` -> rows; ``val`` chooses the thresholds of labels, ``train`` stands in
            where there are no pairs.
        facts: For the provenance.
        phantom: Whether it was generated.
        mask: ``[n, L]``, true where a label counts, or ``None``.
        pairs: Pairs of the cohort's own, or ``None``.
    """

    frame: pd.DataFrame
    targets: np.ndarray
    splits: dict[str, np.ndarray]
    facts: dict[str, Any]
    phantom: bool
    mask: np.ndarray | None = None
    pairs: MimicTable | None = None


class ChestZeroShot(Task):
    """Base of the zero-shot tasks; a subclass says what is scored and how its classes are spoken of.

    Attributes:
        classes: Names of the classes or labels.
        spoken: What stands for each in a prompt.
        further_metrics: Metrics besides the objective's, for the comparison with published numbers.
        given_test: The cohort names its test split itself.
        attributes: Columns of the scored frame by whose groups metrics are told.
    """

    inputs = ("image", "text")
    objective = "contrastive"
    primary = "auc_macro"
    classes: ClassVar[tuple[str, ...]]
    spoken: ClassVar[tuple[str, ...]]
    further_metrics: ClassVar[tuple[str, ...]] = ()
    given_test: ClassVar[bool] = False
    attributes: ClassVar[tuple[str, ...]] = ()

    Config: ClassVar[type[TaskConfig]] = PromptConfig

    def scored(self, root: Path) -> Scored:
        """Reads what is scored."""
        raise TypeError(f"{type(self).__name__} must implement scored()")

    def load(self, root: Path) -> TaskData:
        """Reads the scored cohort and, where they are there, pairs."""
        assert isinstance(self.config, PromptConfig)
        scored = self.scored(root)
        pairs = scored.pairs
        if pairs is None and has_mimic(root):
            pairs = read_mimic(root)
        if pairs is not None:
            pairs = pairs.rows(np.flatnonzero(pairs.frame["split"] == "train"))
        n, n_pairs = len(scored.frame), 0 if pairs is None else len(pairs.frame)
        subjects, images, texts, labels = _joined(scored.frame, pairs)
        splits = dict(scored.splits)
        if n_pairs:
            splits["train"] = np.arange(n, n + n_pairs)
        blank = np.full(n_pairs, -1) if scored.targets.ndim == 1 else np.zeros((n_pairs, scored.targets.shape[1]))
        mask = scored.mask
        if mask is not None and n_pairs:
            mask = np.concatenate([mask, np.zeros((n_pairs, mask.shape[1]), bool)])
        return TaskData(
            inputs={"image": radiographs(images, root), "text": texts},
            targets=np.concatenate([scored.targets, blank.astype(scored.targets.dtype)]),
            subjects=subjects,
            splits=splits,
            given_test=self.given_test,
            classes=self.classes,
            mask=mask,
            labels=labels,
            prompts=self.config.prompts(self.spoken),
            variants=self.further_metrics,
            attributes=attributes(scored.frame, self.attributes, n_pairs),
            untrainable="" if n_pairs else NO_PAIRS,
            phantom=scored.phantom,
            provenance={
                **scored.facts,
                "pairs": n_pairs,
                "pairs_reader": None
                if pairs is None
                else {"skipped": dict(pairs.report.skipped), "notes": dict(pairs.report.notes)},
                "templates": list(self.config.templates),
            },
        )


def _joined(frame: pd.DataFrame, pairs: MimicTable | None) -> tuple[np.ndarray, list[str], RawInputs, np.ndarray]:
    """Subjects, image paths, texts and the 14 guiding labels of the scored images, then of the pairs."""
    subjects, images = frame["subject"].astype(str).tolist(), frame["image"].tolist()
    texts, labels = [""] * len(frame), np.zeros((len(frame), len(CHEXPERT_14)), np.float32)
    if pairs is not None:
        subjects += pairs.frame["subject"].astype(str).tolist()
        images += pairs.frame["image"].tolist()
        texts += pairs.frame["report"].tolist()
        # Blank and uncertain count as absent when labels only say which pairs are no negatives.
        pair_labels = (pairs.frame[list(CHEXPERT_14)].to_numpy(float) == 1).astype(np.float32)
        labels = np.concatenate([labels, pair_labels])
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return np.array(subjects), images, RawInputs(texts.__getitem__, len(texts), digest), labels
