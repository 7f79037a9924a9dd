"""TUAB and TUEV as phantoms, in their layouts, with the names and the reference of the TUH corpora's channels.

TUAB: an abnormal recording is slow all over, a normal one is not. How slow a person's rhythms are is one hidden number,
normal with deviation 1 around 0 or :data:`APART`, so the best classifier errs in ``Phi(-APART / 2)`` of people of two
equally frequent classes. TUEV: each event is a shape of its own at an electrode of its own, on the background.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medgraft.benchmarks.cohorts.eeg.tuh import CODES
from medgraft.benchmarks.phantoms.eeg.signals import ELECTRODES, drawn, recording
from medgraft.benchmarks.phantoms.eeg.writing import write_edf
from medgraft.cohort import PHANTOM_MARKER

GENERATOR_VERSION = "tuh-1"
APART = 2.5
MAINS = 60.0
CHANNELS = tuple(f"EEG {name.upper()}-REF" for name in ELECTRODES)
SPACING = 4.0
"""Seconds from the middle of an event to that of the next."""


def patient(index: int) -> str:
    """Name of patient ``index``; real ones have eight letters and no digit."""
    return f"phantom{index + 1:03d}"


def write_tuab(out: Path, *, n_subjects: int, seconds: int, rate: int, seed: int) -> None:
    """Writes recordings, a third of the patients in ``eval``, normal and abnormal by turns, and the marker.

    Args:
        out: The folder.
        n_subjects: Patients, each with one recording.
        seconds: Length of a recording.
        rate: Samples per second.
        seed: Defines every file.
    """
    for i in range(n_subjects):
        rng = np.random.default_rng([seed, 31, i])
        part, abnormal = ("eval" if i % 6 > 3 else "train"), i % 2
        slow = rng.normal(APART * abnormal)
        values = recording(rng, drawn(rng, slow, slow), seconds, rate, MAINS)
        folder = out / "edf" / part / ("abnormal" if abnormal else "normal") / "01_tcp_ar"
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / f"{patient(i)}_s001_t000.edf", values, rate, rng, patient(i))
    from sklearn.metrics import f1_score

    told = np.random.default_rng(0).normal(np.repeat([0.0, APART], 100_000))
    bayes = f1_score(np.repeat([0, 1], 100_000), told > APART / 2, average="macro")
    config = {"n_subjects": n_subjects, "seconds": seconds, "rate": rate}
    _mark(out, "tuab", seed, config, {"bayes": {"normal-abnormal": round(float(bayes), 4)}})


def write_tuev(out: Path, *, n_subjects: int, seconds: int, rate: int, seed: int) -> None:
    """Writes recordings with events of all six kinds, a third of the patients in ``eval``, and the marker.

    Args:
        out: The folder.
        n_subjects: Patients, each with one recording.
        seconds: Length of a recording; an event for each four.
        rate: Samples per second.
        seed: Defines every file.
    """
    for i in range(n_subjects):
        rng = np.random.default_rng([seed, 32, i])
        values = recording(rng, drawn(rng, 0.0, 0.0), seconds, rate, MAINS)
        folder, stem = (f"eval/{i + 1:03d}", f"evts_{i + 1:03d}_a_") if i % 3 == 2 else (f"train/{patient(i)}", "")
        stem = stem or f"{patient(i)}_00000001"
        (out / "edf" / folder).mkdir(parents=True)
        lines = []
        for k in range(int(seconds / SPACING)):
            code, middle = (k + i) % len(CODES) + 1, SPACING * (k + 0.5)
            channel = _add_event(values, code, middle, rate, rng)
            lines.append(f"{channel},{middle - 0.5:.1f},{middle + 0.5:.1f},{code}")
        place = out / "edf" / folder / stem
        _write(place.with_suffix(".edf"), values, rate, rng, patient(i))
        place.with_suffix(".rec").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _mark(out, "tuev", seed, {"n_subjects": n_subjects, "seconds": seconds, "rate": rate}, {})


def _add_event(values: np.ndarray, code: int, middle: float, rate: int, rng: np.random.Generator) -> int:
    """Draws an event of a second into ``[19, T]``; gives the channel that an annotator would name."""
    first = round((middle - 0.5) * rate)
    times = np.arange(rate) / rate - 0.5
    spike = 90 * np.exp(-0.5 * (times / 0.02) ** 2) - 50 * np.exp(-0.5 * ((times - 0.18) / 0.08) ** 2)
    train = sum(70 * np.exp(-0.5 * ((times - shift) / 0.04) ** 2) for shift in (-0.35, 0.0, 0.35))
    side = rng.integers(2)
    left, right = ("F3", "C3", "P3", "T3"), ("F4", "C4", "P4", "T4")
    shape, where = {
        1: (spike, (("T3", "F7"), ("T4", "F8"))[side]),
        2: (train, ELECTRODES),
        3: (train, (left, right)[side]),
        4: (90 * np.exp(-0.5 * (times / 0.12) ** 2), ("Fp1", "Fp2")),
        5: (35 * rng.standard_normal(rate), (("T3", "T5"), ("T4", "T6"))[side]),
        6: (np.zeros(rate), ()),
    }[code]
    for name in where:
        values[ELECTRODES.index(name), first : first + rate] += rng.uniform(0.8, 1.2) * np.asarray(shape)
    return int(side) * 8


def _write(path: Path, values: np.ndarray, rate: int, rng: np.random.Generator, code: str) -> None:
    sex, age = str(rng.choice(["F", "M"])), int(rng.integers(20, 90))
    write_edf(path, values, CHANNELS, rate, code=code, sex=sex, age=age)


def _mark(out: Path, name: str, seed: int, config: dict[str, int], more: dict[str, object]) -> None:
    marker = {"generator": f"{name}-{GENERATOR_VERSION}", "seed": seed, "config": config, **more}
    marker["statement"] = "generated; no person"
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
