"""What tasks on EEG share: windows as samples, and the plain baselines beside every result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.eeg.handcrafted import Samples, handcrafted_baselines
from medgraft.benchmarks.cohorts.eeg.windows import Cut, WindowOptions, read_window
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of
from medgraft.cohort import PHANTOM_MARKER, is_phantom
from medgraft.files.content import file_facts
from medgraft.modalities.signal import Recording
from medgraft.task import RawInputs, TaskConfig, TaskData


class EegConfig(WindowOptions, TaskConfig):
    """Options of windows, and whether the baselines are fitted.

    Attributes:
        baselines: Fit age and sex, band powers and tangent spaces beside the results, which reads every window once.
    """

    baselines: bool = True


def windows_as_samples(
    root: Path,
    files: pd.DataFrame,
    pieces: Cut,
    targets: np.ndarray,
    splits: dict[str, np.ndarray],
    classes: Sequence[str],
    config: EegConfig,
    report: ReadReport,
    variants: tuple[str, ...] = (),
    **more: Any,
) -> TaskData:
    """The task on windows.

    Args:
        root: Folder of the cohort.
        files: ``path``, ``bids_root``, ``subject``, ``sex``, ``age`` and ``site`` of each recording.
        pieces: The ``n`` windows.
        targets: ``int64 [n]``.
        splits: Split -> numbers of windows.
        classes: Names of the classes.
        config: Options of the task.
        report: What was left out so far.
        variants: Metrics beside those of classes.
        **more: Of :class:`medgraft.task.TaskData`; ``provenance`` is added to what is said here.
    """
    owner = np.array([window.recording for window in pieces.windows])
    frame = files.iloc[owner].reset_index(drop=True)
    roots = list(files["bids_root"])

    def read(index: int) -> Recording:
        window = pieces.windows[index]
        return read_window(window, config, roots[window.recording])

    inputs = RawInputs(read, len(targets), _fingerprint(root, files, pieces, config))
    facts: dict[str, Any] = {
        "recordings": len(pieces.headers),
        "rates": sorted({header.rate for header in pieces.headers.values()}),
        "common_channels": len(pieces.channels),
        "generator": generator_of(root),
        "reader": {"used": len(pieces.headers), "skipped": dict(report.skipped), "notes": dict(report.notes)},
        "split_by": "subject",
    }
    if config.baselines:
        facts["table_baselines"] = handcrafted_baselines(
            Samples(inputs.read, pieces.channels, frame, targets, splits, tuple(classes), inputs.fingerprint, variants)
        )
    return TaskData(
        inputs={"signal": inputs},
        targets=targets,
        subjects=frame["subject"].to_numpy(str),
        splits=splits,
        classes=tuple(classes),
        variants=variants,
        attributes={name: _told(frame[name]) for name in ("sex", "age", "site") if frame[name].notna().any()},
        phantom=more.pop("phantom", False) or is_phantom(root),
        provenance=facts | more.pop("provenance", {}),
        **more,
    )


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


def _fingerprint(root: Path, files: pd.DataFrame, pieces: Cut, config: EegConfig) -> str:
    """Digest of what is read: content of the files and what lies beside them, places of the windows, and options."""
    beside = [each for path in files["path"] for each in with_sidecars(Path(path))]
    told = hashlib.sha256(file_facts(beside, root).encode())
    for window in pieces.windows:
        told.update(f"{window.recording}|{window.start}|{window.length}\n".encode())
    told.update(repr((config.filters, config.unit)).encode())
    return told.hexdigest()


def with_sidecars(path: Path) -> list[str]:
    """A recording and the files beside it that belong to it: values, markers, and those of BIDS of the same name."""
    stem = path.name.removesuffix(path.suffix)
    start = stem.removesuffix("eeg") if stem.endswith("_eeg") else f"{stem}."
    return [str(path), *sorted(str(each) for each in path.parent.glob(f"{start}*") if each != path and each.is_file())]
