"""Alzheimer's disease, frontotemporal dementia or neither from EEG at rest, on OpenNeuro's ds004504 and the like.

Miltiadous et al., "A dataset of scalp EEG recordings of Alzheimer's disease, frontotemporal dementia and healthy
subjects from routine EEG", Data 8 (2023). A sample is a window of a recording, filtered and in microvolts; splits are
by subject, and the ``subject_`` metrics average a subject's windows. Every result holds what age and sex, band powers
and Riemannian tangent spaces predict on the same test subjects (``data.table_baselines``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.eeg.bids import recordings_of
from medgraft.benchmarks.cohorts.eeg.windows import cut
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.tasks.eeg.windows import EegConfig, EegTask, Labelled, best_known
from medgraft.benchmarks.tasks.splits import SplitConfig
from medgraft.task import TaskData, subject_split

GROUPS = {
    "AD": ("a", "ad", "alzheimer", "alzheimers"),
    "FTD": ("f", "ftd"),
    "CN": ("c", "cn", "hc", "control", "healthy"),
}
"""Class -> words of a column of groups, in lower case; the letters are those of ds004504."""


class Dementia(EegTask):
    """AD, FTD or CN from windows of a recording."""

    cohort = "bids_eeg"
    primary = "subject_f1_macro"

    class Config(EegConfig, SplitConfig):
        """Options.

        Attributes:
            contrast: The groups to be told apart; recordings of another one are left out and counted.
            condition: Task entity of the recordings, such as ``eyesclosed``; empty for all.
            cleaned: Read the recordings in ``derivatives/``.
        """

        contrast: Literal["AD-FTD-CN", "AD-CN", "FTD-CN"] = "AD-FTD-CN"
        condition: str = ""
        cleaned: bool = False

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads participants and headers; values are read when they are needed.

        Raises:
            ConfigError: A library of EEG is missing.
            DataError: The folder is not BIDS-EEG with groups, or no window can be cut.
        """
        config, report = self.config, ReadReport()
        root = Path(root)
        groups = {word: name for name, words in GROUPS.items() for word in words}
        files = recordings_of(root, groups, report, task=config.condition, cleaned=config.cleaned)
        classes = tuple(config.contrast.split("-"))
        used = np.isin(files["dx"].to_numpy(str), classes)
        if not used.all():
            report.skip("a recording of a group outside of the contrast", count=int((~used).sum()))
        files = pd.DataFrame(files[used]).reset_index(drop=True)
        pieces = cut(list(files["path"]), config, report, str(root / "derivatives" if config.cleaned else root))
        owner = np.array([window.recording for window in pieces.windows])
        targets = np.array([classes.index(dx) for dx in files["dx"]], np.int64)[owner]
        subjects = files["subject"].to_numpy(str)[owner]
        splits = subject_split(subjects, targets, config.fractions, config.split_seed)
        said = Labelled(files, pieces, targets, splits, classes)
        known, phantom = best_known(root, config.contrast), made_up("bids_eeg", subjects)
        return self.data(root, said, report, phantom=phantom, provenance=known)
