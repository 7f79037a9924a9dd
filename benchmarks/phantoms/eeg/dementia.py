"""OpenNeuro's ds004504 as a phantom: EEG at rest in Alzheimer's disease, frontotemporal dementia, or neither.

In Alzheimer's disease the alpha rhythm is slower, in frontotemporal dementia there is more slow activity over the
front, and both have some of the other. Each person has two hidden numbers for that, normal with deviation 1 around the
means of :data:`MEANS`. No classifier of recordings does better than the one that is told the two numbers, and how well
that one does is in the marker file: it was counted over 200,000 draws of the two numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medgraft.benchmarks.phantoms.eeg.signals import ELECTRODES, drawn, recording
from medgraft.benchmarks.phantoms.eeg.writing import write_eeglab
from medgraft.cohort import PHANTOM_MARKER

GENERATOR_VERSION = "resting-1"
CLASSES = ("AD", "FTD", "CN")
LETTERS = {"AD": "A", "FTD": "F", "CN": "C"}
SHARES = np.array([36, 23, 29]) / 88
"""Share of each class in ds004504."""
MEANS = np.array([[2.2, 0.8], [0.8, 2.2], [0.0, 0.0]])
"""Mean of ``slow`` and ``frontal`` in each class."""
MAINS = 50.0
TASK = "eyesclosed"


def subject(index: int) -> str:
    """Label of person ``index``, which no cohort of people has."""
    return f"phantom{index + 1:03d}"


def write_dementia(out: Path, *, n_subjects: int, seconds: float, rate: float, seed: int) -> None:
    """Writes the recordings, their sidecars and cleaned copies, ``participants.tsv`` and the marker.

    Args:
        out: The folder.
        n_subjects: People, each with one recording.
        seconds: Length of a recording.
        rate: Samples per second.
        seed: Defines every file.
    """
    rng = np.random.default_rng([seed, 20])
    # Of each class its share of people, so that a small cohort has all three.
    classes = np.argsort(np.argsort(rng.random(n_subjects))) / n_subjects
    dx = np.searchsorted(np.cumsum(SHARES)[:-1], classes, side="right")
    lines = ["participant_id\tGender\tAge\tGroup\tMMSE"]
    out.mkdir(parents=True, exist_ok=True)
    for i, k in enumerate(dx):
        own = np.random.default_rng([seed, 21, i])
        slow, frontal = own.normal(MEANS[k])
        age = int(np.clip(own.normal((66.4, 63.6, 67.9)[k], 7), 44, 90))
        mmse = int(np.clip(own.normal((17.8, 22.2, 30.0)[k], (4.5, 2.6, 0.1)[k]), 4, 30))
        lines.append(f"sub-{subject(i)}\t{own.choice(['F', 'M'])}\t{age}\t{LETTERS[CLASSES[k]]}\t{mmse}")
        values = recording(own, drawn(own, slow, frontal), seconds, rate, MAINS)
        _write_recording(out, subject(i), values, rate)
    (out / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = {"Name": "Generated resting EEG; no person", "BIDSVersion": "1.2.1", "DatasetType": "raw"}
    (out / "dataset_description.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    marker = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "config": {"n_subjects": n_subjects, "seconds": seconds, "rate": rate},
        "bayes": {name: round(value, 4) for name, value in bayes_macro_f1().items()},
        "statement": "generated; no person",
    }
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _write_recording(out: Path, label: str, values: np.ndarray, rate: float) -> None:
    folder, stem = out / f"sub-{label}" / "eeg", f"sub-{label}_task-{TASK}"
    folder.mkdir(parents=True)
    write_eeglab(folder / f"{stem}_eeg.set", values, ELECTRODES, rate)
    facts = {
        "TaskName": TASK,
        "EEGReference": "A1 and A2",
        "SamplingFrequency": rate,
        "PowerLineFrequency": MAINS,
        "SoftwareFilters": "n/a",
        "EEGChannelCount": len(ELECTRODES),
        "RecordingDuration": values.shape[1] / rate,
        "RecordingType": "continuous",
    }
    (folder / f"{stem}_eeg.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    rows = ["name\ttype\tunits", *(f"{name}\tEEG\tuV" for name in ELECTRODES)]
    (folder / f"{stem}_channels.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    cleaned = out / "derivatives" / f"sub-{label}" / "eeg"
    cleaned.mkdir(parents=True)
    write_eeglab(cleaned / f"{stem}_eeg.set", _cleaned(values, rate), ELECTRODES, rate)


def _cleaned(values: np.ndarray, rate: float) -> np.ndarray:
    """As the authors' derivatives: 0.5 to 45 Hz."""
    from scipy.signal import butter, sosfiltfilt

    return sosfiltfilt(butter(4, (0.5, min(45.0, 0.45 * rate)), "bandpass", fs=rate, output="sos"), values, axis=1)


def bayes_macro_f1(samples: int = 200_000) -> dict[str, float]:
    """Macro F1 of the classifier that is told a person's two numbers, for each contrast.

    Args:
        samples: People drawn for it.
    """
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    dx = rng.choice(len(CLASSES), samples, p=SHARES)
    told = rng.normal(MEANS[dx])
    evidence = np.log(SHARES) - 0.5 * ((told[:, None] - MEANS[None]) ** 2).sum(axis=2)
    found: dict[str, float] = {}
    for contrast in ("AD-FTD-CN", "AD-CN", "FTD-CN"):
        kept = [CLASSES.index(name) for name in contrast.split("-")]
        rows = np.isin(dx, kept)
        guess = np.array(kept)[evidence[rows][:, kept].argmax(axis=1)]
        found[contrast] = float(f1_score(dx[rows], guess, average="macro"))
    return found
