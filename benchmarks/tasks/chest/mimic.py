"""MIMIC-CXR: contrastive training on image-report pairs, scored zero-shot on the official test split.

Johnson et al., Scientific Data 2019. The labels of the test split are those that the CheXpert labeler found in its
reports, not a radiologist's reading of the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from medgraft.benchmarks.cohorts.chest.chexpert_labels import COMPETITION_5, apply_uncertainty
from medgraft.benchmarks.cohorts.chest.mimic import read_mimic
from medgraft.benchmarks.tasks.chest.radiographs import PromptConfig, reading
from medgraft.benchmarks.tasks.zero_shot import ChestZeroShot, Scored


class MimicZeroShot(ChestZeroShot):
    """The five findings of the CheXpert competition by prompts; trains on the frontal pairs of the training split."""

    cohort = "mimic"
    classes = COMPETITION_5
    given_test = True
    spoken = tuple(name.lower() for name in COMPETITION_5)
    attributes = ("view",)

    class Config(PromptConfig):
        """Options: the prompt templates, and below.

        Attributes:
            section: Part of a report that is its caption.
        """

        section: Literal["findings+impression", "impression", "findings"] = "findings+impression"

    config: Config

    def scored(self, root: Path) -> Scored:
        """Reads the pairs; uncertain labels are not scored against, blank ones count as absent."""
        table = read_mimic(root, section=self.config.section)
        held = table.rows(np.flatnonzero(table.frame["split"] != "train"))
        part = held.frame["split"].to_numpy(str)
        targets, mask = apply_uncertainty(held.frame[list(COMPETITION_5)].to_numpy(float), "ignore")
        splits = {"val": np.flatnonzero(part == "validate"), "test": np.flatnonzero(part == "test")}
        facts = reading(table.report, table.generator, section=self.config.section)
        return Scored(held.frame, targets, splits, facts, table.phantom, mask, table)
