"""A raw EEG as a network takes it: checked, in microvolts, resampled, with the network's channels, cut and scaled."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from pydantic import Field

from medgraft.encoders.parts.eeg.electrodes import Missing, channel_map
from medgraft.errors import ConfigError, DataError
from medgraft.modalities.eeg import AUXILIARY, MICROVOLTS, PLAUSIBLE, SATURATED, Unit, electrode
from medgraft.modality import find_modality
from medgraft.options import Options

FLAT = 1e-3
"""A channel whose standard deviation is below this share of the median channel's is flat."""

MARGIN = 1.0
"""Seconds that are resampled beyond the window, so that the filter's end is not in it."""


@dataclass(frozen=True)
class Scaling:
    """How values in microvolts become what a network was trained on.

    Attributes:
        words: What the values mean then.
        apply: Microvolts ``float64 [C, T]`` -> ``float64 [C', T]``; rows of ``nan`` are channels left out.
        extra: Names of channels that it adds behind the electrodes.
    """

    words: str
    apply: Callable[[np.ndarray], np.ndarray]
    extra: tuple[str, ...] = ()


def _z_scores(x: np.ndarray) -> np.ndarray:
    deviation = x.std(axis=1, keepdims=True)
    return (x - x.mean(axis=1, keepdims=True)) / np.where(deviation == 0, 1, deviation)


def _referenced(x: np.ndarray) -> np.ndarray:
    return (x - np.nanmean(x, axis=0, keepdims=True)) / 1e3


def _by_quantile(x: np.ndarray) -> np.ndarray:
    return x / (np.quantile(np.abs(x), 0.95, axis=1, keepdims=True) + 1e-8)


def _deep1010(x: np.ndarray) -> np.ndarray:
    low, high = np.nanmin(x), np.nanmax(x)
    spread = high - low if high > low else 1.0
    return np.concatenate([2 * (x - low) / spread - 1, np.zeros((1, x.shape[1]))])


SCALINGS = {
    "hundredth": Scaling("microvolts / 100", lambda x: x / 100),
    "microvolts": Scaling("microvolts", lambda x: x),
    "millivolts": Scaling("millivolts against the average of the channels", _referenced),
    "quantile": Scaling("each channel divided by the 95th percentile of its absolute values", _by_quantile),
    "deep1010": Scaling(
        "all channels together from their minimum to their maximum as -1..1, and a channel SCALE of 0",
        _deep1010,
        ("SCALE",),
    ),
    "z_scores": Scaling("z-scores of each channel over the window", _z_scores),
    "within_200": Scaling("microvolts, clipped at 200", lambda x: x.clip(-200, 200)),
    "clipped": Scaling("z-scores of each channel over the window, clipped at 15", lambda x: _z_scores(x).clip(-15, 15)),
}


@dataclass(frozen=True)
class Preparation:
    """What a network takes, and how a recording is brought there.

    Attributes:
        channels: Electrodes or differences, in the network's order.
        rate: Samples per second.
        length: Samples of a window.
        scaling: A key of :data:`SCALINGS`.
        unit: What the recordings' values are in.
        missing: What becomes of electrodes that a recording lacks.
    """

    channels: tuple[str, ...]
    rate: float
    length: int
    scaling: str
    unit: Unit = "uV"
    missing: Missing = "interpolate"

    @property
    def words(self) -> str:
        """What the values of a prepared recording mean."""
        treatment = {
            "interpolate": "interpolated by spherical splines",
            "drop": "left out",
            "refuse": "refused",
        }[self.missing]
        return (
            f"{SCALINGS[self.scaling].words}; the first {self.length / self.rate:g} s at {self.rate:g} Hz (polyphase "
            f"resampling), shorter ones followed by zeros; not filtered; recorded in {self.unit}; electrodes that are "
            f"missing, flat or saturated are {treatment}; channels {', '.join(self.channels)}"
        )

    def __call__(self, raw: Any) -> np.ndarray:
        """A :class:`~medgraft.modalities.signal.Recording` -> ``float32 [channels, length]``.

        Channels that are left out are ``nan``.

        Raises:
            DataError: The recording is none, or cannot be brought to what the network takes.
        """
        values = checked(raw) * MICROVOLTS[self.unit]
        names = tuple(raw.channels)
        brain = np.array([not AUXILIARY.match(electrode(name)) for name in names])
        usable = brain & alive(values, brain)
        check_amplitude(values[usable], self.unit)
        needed = int(np.ceil((self.length / self.rate + MARGIN) * raw.rate))
        windows = resampled(values[usable, :needed], float(raw.rate), self.rate)[:, : self.length]
        matrix = channel_map(tuple(np.array(names)[usable].tolist()), self.channels, self.missing)
        if np.isnan(matrix).any(axis=1).all():
            raise DataError(
                f"the recording has none of the electrodes {', '.join(self.channels)}; name some of its own as "
                "channels="
            )
        scaled = SCALINGS[self.scaling].apply(matrix @ windows)
        return np.pad(scaled, ((0, 0), (0, self.length - scaled.shape[1])), constant_values=0).astype(np.float32)


class Recorded(Options):
    """How recordings are read.

    Attributes:
        unit: What their values are in.
        missing: What becomes of electrodes that one lacks: they are interpolated, dropped, or it is refused.
        seconds: Length of a window; unless given, what the network was trained on.
    """

    unit: Unit = "uV"
    missing: Missing = "interpolate"
    seconds: float | None = Field(None, gt=0)


def preparation_of(
    name: str,
    channels: Sequence[str],
    rate: float,
    seconds: float,
    patch: int,
    scaling: str,
    unit: Unit,
    missing: Missing,
) -> Preparation:
    """How recordings are brought to a network, once channels and window are known to be right.

    Args:
        name: Of the encoder, for the error.
        channels: Electrodes or differences, in the network's order.
        rate: Samples per second.
        seconds: Length of a window.
        patch: Samples that a window is a multiple of.
        scaling: A key of :data:`SCALINGS`.
        unit: What the recordings' values are in.
        missing: What becomes of electrodes that a recording lacks.

    Raises:
        ConfigError: The channels are no list of different names, or the window is no whole number of patches.
    """
    if isinstance(channels, str) or not channels or len(set(channels)) != len(channels):
        raise ConfigError(f"encoder {name}: channels {channels!r} must be a list of different electrodes")
    length = seconds * rate
    if not length > 0 or abs(length - round(length)) > 1e-6 or round(length) % patch:
        raise ConfigError(
            f"encoder {name}: a window of {seconds:g} s is not a whole number of patches of {patch / rate:g} s"
        )
    return Preparation(tuple(channels), rate, round(length), scaling, unit, missing)


def checked(raw: Any) -> np.ndarray:
    """The values of a recording, ``float64 [C, T]``, once it is known to be one with one rate.

    Raises:
        DataError: It is no recording, its rate is missing or there are several, or a value is not finite.
    """
    rate = getattr(raw, "rate", 1.0)
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        several = isinstance(rate, Sequence | np.ndarray)
        remedy = "resample its channels to one rate" if several else "say how many samples a second has"
        raise DataError(f"a recording needs one rate in Hz, and this one has {rate!r}; {remedy}")
    find_modality("signal").check(raw)
    if raw.values.shape[1] < 2:
        raise DataError(f"a recording needs at least two samples, and this one has {raw.values.shape[1]}")
    return raw.values.astype(np.float64)


def alive(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Channels ``[C, T]`` that are neither flat nor saturated, ``bool [C]``.

    Args:
        values: Of one recording.
        brain: Which channels are EEG, ``bool [C]``; flatness is judged against their median.

    Raises:
        DataError: None of them is left.
    """
    deviation = values.std(axis=1)
    varied = brain & (deviation > 0)
    typical = float(np.median(deviation[varied])) if varied.any() else 0.0
    extremes = [values == edge(values, axis=1, keepdims=True) for edge in (np.max, np.min)]
    stuck = np.maximum(*(extreme.mean(axis=1) for extreme in extremes)) >= SATURATED
    # Of a few samples, one is a tenth: what says nothing about saturation is not counted as such.
    result = (deviation > FLAT * typical) & ~(stuck & (values.shape[1] >= 20 / SATURATED))
    if not (result & brain).any():
        raise DataError("every EEG channel of the recording is flat or saturated; it holds no signal")
    return result


def check_amplitude(values: np.ndarray, unit: Unit) -> None:
    """Refuses microvolts that no EEG has, such as volts that were taken for microvolts.

    Args:
        values: Usable channels in microvolts, ``[C, T]``.
        unit: What they were said to be recorded in.

    Raises:
        DataError: With the unit that would fit.
    """
    deviation = float(np.median(values.std(axis=1)))
    low, high = PLAUSIBLE
    if low <= deviation <= high:
        return
    as_given = deviation / MICROVOLTS[unit]
    fits = [name for name, factor in MICROVOLTS.items() if low <= as_given * factor <= high]
    remedy = f"say unit={fits[0]!r}" if fits else "check the unit and the gain of the amplifier"
    raise DataError(
        f"read in {unit}, the median channel of the recording has a standard deviation of {deviation:.3g} microvolts, "
        f"and an EEG has {low:g} to {high:g}; {remedy}"
    )


def resampled(values: np.ndarray, rate: float, goal: float) -> np.ndarray:
    """Channels at another rate, by a polyphase filter that keeps what is below half of the lower rate.

    ``scipy.signal.resample_poly`` and not MNE's resampling through the Fourier transform, which takes a window for a
    period and so mixes its two ends. Rates are taken as a ratio of integers up to 20,000.

    Args:
        values: ``[C, T]``.
        rate: Samples per second.
        goal: Samples per second of the result.

    Returns:
        ``float64 [C, ceil(T * goal / rate)]``, up to the rounding of the ratio.

    Raises:
        DataError: The rates are too far apart.
    """
    ratio = Fraction(goal / rate).limit_denominator(20_000)
    if not 1e-3 <= goal / rate <= 1e3:
        raise DataError(f"a recording of {rate:g} Hz cannot be brought to {goal:g} Hz")
    if ratio == 1:
        return values
    from scipy.signal import resample_poly  # only here, since it takes its time to import

    return resample_poly(values, ratio.numerator, ratio.denominator, axis=1, padtype="line")
