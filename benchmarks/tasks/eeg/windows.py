"""What tasks on EEG share: windows as samples, and the plain baselines beside every result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.eeg.handcrafted import Samples, handcrafted_baselines
from medgraft.benchmarks.cohorts.eeg.windows import Cut, WindowOptions, read_window
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of
from medgraft.cohort import PHANTOM_MARKER, is_phantom
from medgraft.files.content import file_facts
from medgraft.modalities.signal import Recording
from medgraft.task import RawInputs, Task, TaskConfig, TaskData

ATTRIBUTES = ("sex", "age", "site")


class EegConfig(WindowOptions, TaskConfig):
    """Options of windows, and whether the baselines are fitted.

    Attributes:
        baselines: Fit age and sex, band powers and tangent spaces beside the results, which reads every window once.
    """

    baselines: bool = True


@dataclass(frozen=True)
class Labelled:
    """Windows and what is to be told of each.

    Attributes:
        files: ``path``, ``bids_root``, ``subject``, ``sex``, ``age`` and ``site`` of each recording.
        pieces: The ``n`` windows.
        targets: ``int64 [n]``.
        splits: Split -> numbers of windows.
        classes: Names of the classes.
    """

    files: pd.DataFrame
    pieces: Cut
    targets: np.ndarray
    splits: dict[str, np.ndarray]
    classes: tuple[str, ...]


class EegTask(Task):
    """Base of tasks whose samples are windows of recordings.

    Attributes:
        beside: Metrics beside those of classes.
    """

    inputs = ("signal",)
    objective = "multiclass"
    beside: ClassVar[tuple[str, ...]] = ("by_subject",)
    Config = EegConfig
    config: EegConfig

    def data(self, root: Path, said: Labelled, report: ReadReport, **more: Any) -> TaskData:
        """The task on windows, whose values are read when they are needed.

        Args:
            root: Folder of the cohort.
            said: The windows.
            report: What was left out so far.
            **more: Of :class:`medgraft.task.TaskData`; ``provenance`` is added to what is said here.
        """
        config, pieces, roots = self.config, said.pieces, list(said.files["bids_root"])

        def read(index: int) -> Recording:
            window = pieces.windows[index]
            return read_window(window, config, roots[window.recording])

        inputs = RawInputs(read, len(said.targets), _fingerprint(root, said, config))
        frame = said.files.iloc[[window.recording for window in pieces.windows]].reset_index(drop=True)
        facts = _facts(root, pieces, report)
        if config.baselines:
            channels, mark = pieces.channels, inputs.fingerprint
            facts["table_baselines"] = handcrafted_baselines(
                Samples(read, channels, frame, said.targets, said.splits, said.classes, mark, self.beside)
            )
        return TaskData(
            inputs={"signal": inputs},
            targets=said.targets,
            subjects=frame["subject"].to_numpy(str),
            splits=said.splits,
            classes=said.classes,
            variants=self.beside,
            attributes={name: _told(frame[name]) for name in ATTRIBUTES if frame[name].notna().any()},
            phantom=more.pop("phantom", False) or is_phantom(root),
            provenance=facts | more.pop("provenance", {}),
            **more,
        )


def _facts(root: Path, pieces: Cut, report: ReadReport) -> dict[str, Any]:
    """What a result records of recordings."""
    return {
        "recordings": len(pieces.headers),
        "rates": sorted({header.rate for header in pieces.headers.values()}),
        "common_channels": len(pieces.channels),
        "generator": generator_of(root),
        "reader": {"used": len(pieces.headers), "skipped": dict(report.skipped), "notes": dict(report.notes)},
        "split_by": "subject",
    }


def best_known(root: Path, name: str) -> dict[str, Any]:
    """A phantom's best reachable macro F1 under a name, as its marker says; nothing of data of people."""
    marker = root / PHANTOM_MARKER
    if not marker.is_file():
        return {}
    known = json.loads(marker.read_text(encoding="utf-8")).get("bayes", {})
    return {"bayes_f1_macro": known[name]} if name in known else {}


def _told(column: pd.Series) -> np.ndarray:
    """Words or numbers ``[n]``; a word that is missing is ``None``."""
    values = np.array(column, dtype=object)
    if column.name != "age":
        values[np.asarray(column.isna(), bool)] = None
    return values


def _fingerprint(root: Path, said: Labelled, config: EegConfig) -> str:
    """Digest of what is read: content of the files and what lies beside them, places of the windows, and options."""
    beside = [each for path in said.files["path"] for each in with_sidecars(Path(path))]
    told = hashlib.sha256(file_facts(beside, root).encode())
    for window in said.pieces.windows:
        told.update(f"{window.recording}|{window.start}|{window.length}\n".encode())
    told.update(repr((config.filters, config.unit)).encode())
    return told.hexdigest()


def with_sidecars(path: Path) -> list[str]:
    """A recording and the files beside it that belong to it: values, markers, and those of BIDS of the same name."""
    stem = path.name.removesuffix(path.suffix)
    start = stem.removesuffix("eeg") if stem.endswith("_eeg") else f"{stem}."
    return [str(path), *sorted(str(each) for each in path.parent.glob(f"{start}*") if each != path and each.is_file())]
