"""Tasks on the TUH corpora: normal or abnormal recordings (TUAB), and events (TUEV).

Both name their test split, ``edf/eval``; validation patients are drawn from ``edf/train``. A sample of TUAB is a window
of a recording, and the ``subject_`` metrics average a patient's windows of one label, of which the evaluation part has
one recording each. A sample of TUEV is a window around the middle of an event.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from medgraft.benchmarks.cohorts.eeg.recordings import Header
from medgraft.benchmarks.cohorts.eeg.tuh import CODES, abnormal_recordings, event_recordings, events_of
from medgraft.benchmarks.cohorts.eeg.windows import cut
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.tasks.eeg.windows import EegConfig, EegTask, Labelled, best_known
from medgraft.errors import DataError
from medgraft.options import Seed
from medgraft.task import TaskData, subject_split


class TuhConfig(EegConfig):
    """Options of both.

    Attributes:
        notch: Hz of the mains, filtered out; 0 for none.
        val_fraction: Share of the training patients in the validation split.
        split_seed: Defines it, for all seeds of a sweep.
    """

    notch: float = Field(60.0, ge=0)
    val_fraction: float = Field(0.1, gt=0, lt=1)
    split_seed: Seed = 0


class Tuab(EegTask):
    """Normal or abnormal, from windows of a recording."""

    cohort = "tuab"
    primary = "subject_f1_macro"
    Config = TuhConfig
    config: TuhConfig

    def load(self, root: Path) -> TaskData:
        """Reads names and headers; values are read when they are needed.

        Raises:
            ConfigError: A library of EEG is missing.
            DataError: The folder is not laid out as TUAB, or no window can be cut.
        """
        report, classes = ReadReport(), ("normal", "abnormal")
        files = abnormal_recordings(Path(root), report)
        files = _one_part(files, report)
        pieces = cut(list(files["path"]), self.config, report)
        owner = np.array([window.recording for window in pieces.windows])
        targets = np.array([classes.index(label) for label in files["label"]], np.int64)[owner]
        said = Labelled(files, pieces, targets, _splits(files, owner, targets, self.config), classes)
        known, phantom = best_known(Path(root), "normal-abnormal"), made_up("tuh", files["subject"])
        return self.data(Path(root), said, report, given_test=True, phantom=phantom, provenance=known)


class Tuev(EegTask):
    """One of six kinds of events, from a window around it."""

    cohort = "tuev"
    primary = "balanced_accuracy"
    beside = ()

    class Config(TuhConfig):
        """Options.

        Attributes:
            seconds: Length of a window, whose middle is the event's; where the recording begins or ends before, the
                window is moved to lie within it.
            windows: Most events of a recording, evenly spread over them in time.
        """

        seconds: float = Field(5.0, gt=0, le=3600)
        windows: int = Field(10_000, ge=1)

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads annotations and headers; values are read when they are needed.

        Raises:
            ConfigError: A library of EEG is missing.
            DataError: The folder is not laid out as TUEV, or no event can be used.
        """
        config, report = self.config, ReadReport()
        files = _one_part(event_recordings(Path(root), report), report)
        annotations, codes = list(files["annotation"]), []

        def starts(number: int, header: Header) -> list[int]:
            size = round(config.seconds * header.rate)
            if size > header.length:
                report.skip(f"a recording shorter than a window of {config.seconds:g} s")
                return []
            try:
                events = events_of(annotations[number], header.length / header.rate, report)
            except DataError as error:
                report.skip(f"a recording left out: {error.reason}", str(error))
                return []
            used = [events[k] for k in _spread(len(events), config.windows)]
            codes.extend(event.code for event in used)
            middles = [round((event.start + event.stop) / 2 * header.rate) for event in used]
            return [min(max(middle - size // 2, 0), header.length - size) for middle in middles]

        pieces = cut(list(files["path"]), config, report, starts=starts)
        owner = np.array([window.recording for window in pieces.windows])
        targets = np.array(codes, np.int64) - 1
        trained = files["part"].to_numpy(str) == "train"
        known = made_up("tuh", files["subject"].to_numpy(str)[trained])
        said = Labelled(files, pieces, targets, _splits(files, owner, 0 * targets, config), tuple(CODES.values()))
        return self.data(Path(root), said, report, given_test=True, phantom=known)


def _one_part(files: pd.DataFrame, report: ReadReport) -> pd.DataFrame:
    """Without the training recordings of patients who are also in the evaluation part."""
    tested = {name for name, part in zip(files["subject"], files["part"], strict=True) if part == "eval"}
    both = np.array(
        [part == "train" and name in tested for part, name in zip(files["part"], files["subject"], strict=True)]
    )
    if both.any():
        report.skip("a training recording of a patient of the evaluation part", count=int(both.sum()))
    return pd.DataFrame(files[~both]).reset_index(drop=True)


def _splits(files: pd.DataFrame, owner: np.ndarray, strata: np.ndarray, config: TuhConfig) -> dict[str, np.ndarray]:
    """The cohort's test split; validation patients are drawn from the others, alike of each stratum ``[n]``."""
    part, subjects = files["part"].to_numpy(str)[owner], files["subject"].to_numpy(str)[owner]
    rows = np.flatnonzero(part == "train")
    if not len(rows):
        raise DataError(
            "no window of edf/train can be used, so nothing can be trained; see the reasons that were counted"
        )
    fractions = {"train": 1 - config.val_fraction, "val": config.val_fraction}
    inner = subject_split(subjects[rows], strata[rows], fractions, config.split_seed)
    return {name: rows[index] for name, index in inner.items()} | {"test": np.flatnonzero(part == "eval")}


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` numbers, evenly spread."""
    chosen: Any = np.unique(np.linspace(0, count - 1, min(count, most)).round()) if count else np.array([])
    return [int(k) for k in chosen]
