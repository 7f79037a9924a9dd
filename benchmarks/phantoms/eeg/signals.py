"""Generated EEG at rest: 19 electrodes, a background of 1/f, an alpha rhythm, slow activity, mains and artefacts.

A person is a few numbers (:class:`Person`), of which two say something of a diagnosis: how slow the alpha rhythm is and
how much slow activity there is over the front. All else (amplitudes, the slope of the background, blinks) differs from
person to person and says nothing. Amplitudes are in microvolts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

ELECTRODES = (
    *("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"),
    *("F7", "F8", "T3", "T4", "T5", "T6", "Fz", "Cz", "Pz"),
)
"""The 10-20 system, by the names and in the order of OpenNeuro's ds004504."""

PLACES = {
    "Fp1": (-0.31, 0.95), "Fp2": (0.31, 0.95), "F7": (-0.81, 0.59), "F3": (-0.45, 0.55), "Fz": (0.0, 0.5),
    "F4": (0.45, 0.55), "F8": (0.81, 0.59), "T3": (-1.0, 0.0), "C3": (-0.5, 0.0), "Cz": (0.0, 0.0), "C4": (0.5, 0.0),
    "T4": (1.0, 0.0), "T5": (-0.81, -0.59), "P3": (-0.45, -0.55), "Pz": (0.0, -0.5), "P4": (0.45, -0.55),
    "T6": (0.81, -0.59), "O1": (-0.31, -0.95), "O2": (0.31, -0.95),
}  # fmt: skip
"""Places of the electrodes on a head of radius 1 that is seen from above, the nose at (0, 1)."""

REACH = 0.5
"""Distance at which the backgrounds of two electrodes correlate by exp(-1/2)."""
ALPHA, SLOWING = 10.2, 0.75
"""Frequency in Hz of the alpha rhythm of a person with ``slow`` 0, and how much lower it is for each 1 more."""


@dataclass(frozen=True)
class Person:
    """What makes a recording.

    Attributes:
        slow: How slow the alpha rhythm is, in deviations of healthy people.
        frontal: How much slow activity there is over the front, likewise.
        gain: Factor on everything.
        slope: Exponent of the background, whose power is ``1 / f ** slope``.
        rhythm: Amplitude of the alpha rhythm in microvolts.
        blinks: For each minute.
    """

    slow: float
    frontal: float
    gain: float
    slope: float
    rhythm: float
    blinks: float


def drawn(rng: np.random.Generator, slow: float, frontal: float) -> Person:
    """A person whose two telling numbers are given."""
    return Person(
        slow,
        frontal,
        gain=float(np.exp(rng.normal(0, 0.2))),
        slope=float(rng.normal(1.2, 0.1)),
        rhythm=float(8 * np.exp(rng.normal(0, 0.25))),
        blinks=float(rng.uniform(0, 10)),
    )


def recording(rng: np.random.Generator, person: Person, seconds: float, rate: float, mains: float) -> np.ndarray:
    """Values in microvolts, ``float64 [19, seconds * rate]``, channels as in :data:`ELECTRODES`.

    Args:
        rng: Draws it.
        person: Whose it is.
        seconds: Its length.
        rate: Samples per second.
        mains: Frequency of the mains in Hz.
    """
    length = round(seconds * rate)
    frequencies = np.fft.rfftfreq(length, 1 / rate)
    background = _mixing() @ _shaped(rng, len(ELECTRODES), length, np.maximum(frequencies, 0.5) ** (-person.slope / 2))
    peak = ALPHA - SLOWING * person.slow
    alpha = _shaped(rng, 2, length, np.exp(-0.5 * ((frequencies - peak) / 0.6) ** 2))
    theta = _shaped(rng, 2, length, np.exp(-0.5 * ((frequencies - 5.0) / 1.2) ** 2))
    values = 9 * background
    values += person.rhythm * np.stack([_towards(side, -0.8) for side in (-0.4, 0.4)], axis=1) @ alpha
    slow = 4.0 * np.exp(0.35 * person.frontal)
    values += slow * np.stack([_towards(side, 0.6) for side in (-0.4, 0.4)], axis=1) @ theta
    values += _blinks(rng, person, length, rate) + _muscles(rng, length, rate)
    times = np.arange(length) / rate
    values += rng.uniform(0.5, 3) * np.sin(2 * np.pi * mains * times + rng.uniform(0, 6)) if mains < rate / 2 else 0.0
    return person.gain * values


def _shaped(rng: np.random.Generator, count: int, length: int, amplitude: np.ndarray) -> np.ndarray:
    """Noise of deviation 1 whose spectrum has an amplitude, ``[count, length]``."""
    spectrum = np.fft.rfft(rng.standard_normal((count, length))) * amplitude
    spectrum[:, 0] = 0
    noise = np.fft.irfft(spectrum, length)
    return noise / noise.std(axis=1, keepdims=True)


@cache
def _mixing() -> np.ndarray:
    """Matrix ``[19, 19]`` that makes independent backgrounds correlate as neighbours do; each keeps its deviation."""
    places = np.array([PLACES[name] for name in ELECTRODES])
    apart = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    return np.linalg.cholesky(np.exp(-0.5 * apart / REACH**2) + 1e-2 * np.eye(len(places)))


def _towards(x: float, y: float) -> np.ndarray:
    """How strongly a source below a place reaches each electrode, 0..1, ``[19]``."""
    places = np.array([PLACES[name] for name in ELECTRODES])
    return np.exp(-0.5 * ((places - (x, y)) ** 2).sum(axis=1) / 0.45**2)


def _blinks(rng: np.random.Generator, person: Person, length: int, rate: float) -> np.ndarray:
    """Blinks of a third of a second over the forehead, ``[19, length]``."""
    track, shape = np.zeros(length), np.hanning(max(round(0.35 * rate), 3))
    for start in rng.integers(0, length, rng.poisson(person.blinks * length / rate / 60)):
        part = shape[: length - start]
        track[start : start + len(part)] += rng.uniform(60, 120) * part
    return np.outer(_towards(0, 1.1), track)


def _muscles(rng: np.random.Generator, length: int, rate: float) -> np.ndarray:
    """A burst of muscles for each half minute, above one temple, ``[19, length]``."""
    values = np.zeros((len(ELECTRODES), length))
    for start in rng.integers(0, length, rng.poisson(length / rate / 30)):
        size = min(round(rng.uniform(0.3, 1.0) * rate), length - start)
        noise = np.diff(rng.standard_normal(size + 1))
        values[:, start : start + size] += np.outer(_towards(rng.choice([-1.0, 1.0]), 0.1), 8 * noise)
    return values
