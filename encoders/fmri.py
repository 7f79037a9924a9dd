"""``fmri:<encoder of volumes>``: a frozen encoder of volumes reads a run of fMRI with time summed up.

``fmri:m3d:clip@FILE``, ``fmri:maps=deviation+centrality:phantom_brain``. A run ``[T, x, y, z]`` becomes a map for each
statistic of its voxels' time courses, side by side as the channels of one volume; how the first layer takes several,
says :mod:`medgraft.encoders.parts.volume_maps`. Statistics over time in front of 3D networks are what Thomas et al.,
"Classifying Autism Spectrum Disorder Using the Temporal Statistics of Resting-State Functional MRI Data With 3D
Convolutional Neural Networks", Front. Psychiatry 11:440, 2020, tried on ABIDE.

=============  =====================================================================================================
``mean``       Mean over time: anatomy, as far as the contrast shows it.
``deviation``  Standard deviation over time. Of a run filtered to 0.01 to 0.08 Hz (options of the task) it is the
               amplitude of low-frequency fluctuations (ALFF; Zang et al., Brain & Development 29:83, 2007) up to a
               factor: by Parseval's theorem the root of the mean power in the band.
``centrality`` Mean correlation of a voxel with all voxels of the brain, itself among them (global brain connectivity;
               Cole, Pathak and Schneider, NeuroImage 49:3132, 2010, without their threshold).
=============  =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.encoders.parts.volume_maps import MapsEncoder, on_volumes
from medgraft.errors import ConfigError, DataError
from medgraft.modality import find_modality
from medgraft.options import Options, checked
from medgraft.registry import check_encoder
from medgraft.sources import Source

Statistic = Literal["mean", "deviation", "centrality"]
SPREAD, FLOOR = 0.25, 0.05
"""Deviation and lowest value of a map over the brain, whose mean is 1: about those of a T1 volume by its mean."""


class Statistics(Options):
    """What a run is summed up by.

    Attributes:
        maps: Each once, in the order of the channels.
    """

    maps: tuple[Statistic, ...] = ("mean", "deviation", "centrality")


def statistic_maps(run: np.ndarray, names: Sequence[Statistic]) -> np.ndarray:
    """Maps of a run ``[T, x, y, z]``, ``float32 [M, x, y, z]``, with the background at 0.

    The brain is where the run is not 0 throughout. A voxel that never changes has no correlation, and counts as 0. One
    volume is in memory beside the run at a time, in double precision.

    Args:
        run: Values of any scale, finite.
        names: Which maps.

    Raises:
        DataError: It has one volume only, or nothing in it changes.
    """
    if len(run) < 2:
        raise DataError("a run of 1 volume has no course in time; leave the run out", "one volume only")
    brain = np.zeros(run.shape[1:], bool)
    for volume in run:
        brain |= volume != 0
    count = int(brain.sum())
    mean, squares = np.zeros(count), np.zeros(count)
    for volume in run:
        mean += volume[brain] / len(run)
    for volume in run:
        squares += np.square(volume[brain] - mean) / len(run)
    deviation = np.sqrt(squares)
    deviation[deviation <= 1e-6 * np.abs(mean)] = 0  # what rounding makes of a voxel that never changes
    if not deviation.any():
        raise DataError(
            f"a run of shape {list(run.shape)} has {count} voxels that are not 0, and none of them changes over time; "
            "leave the run out or look at its mask",
            "nothing changes over time",
        )
    values = {"mean": mean, "deviation": deviation}
    if "centrality" in names:
        values["centrality"] = _centrality(run, brain, mean, deviation)
    maps = np.zeros((len(names), *brain.shape), np.float32)
    for number, name in enumerate(names):
        maps[number, brain] = _as_intensities(values[name])
    return maps


def _centrality(run: np.ndarray, brain: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Mean correlation of each voxel of the brain with all, ``float64 [V]``.

    The mean over voxels of products of z-scores is the product with the mean z-score, so no ``[V, V]`` is made.
    """
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    total = np.zeros_like(mean)
    for volume in run:
        scores = (volume[brain] - mean) * scale
        total += scores * scores.mean()
    return total / len(run)


def _as_intensities(values: np.ndarray) -> np.ndarray:
    """Values of the brain with mean 1 and deviation 0.25, above 0 as intensities are: encoders take 0 for background.

    A map that is the same everywhere is 1.
    """
    deviation = values.std()
    scores = (values - values.mean()) / deviation if deviation > 1e-9 * np.abs(values).max() else np.zeros_like(values)
    return np.maximum(1 + SPREAD * scores, FLOOR)


class RunMapsEncoder(MapsEncoder):
    """An encoder of volumes on maps of a run; its prepared input has no axis of time.

    Args:
        volume: The encoder of one volume.
        modality: What a raw sample is called.
        maps: How many of them.
        name: The encoder's full name.

    Attributes:
        statistics: The maps; set by the source.
    """

    statistics: tuple[Statistic, ...] = ()

    def prepare(self, raw: Any) -> Tensor:
        """Run ``float32 [T, x, y, z]`` -> ``float32 [M * channels, *input_size]``; each map prepared as a volume.

        Raises:
            DataError: It is no run, or has no course in time.
        """
        find_modality("volume_sequence").check(raw)
        return super().prepare(statistic_maps(raw, self.statistics))


class FmriSource(Source):
    """Entry point ``fmri``."""

    name, hub_ids = "fmri", True

    @classmethod
    def check(cls, model: str, weights: str) -> None:
        """Raises for an encoder that there is not, and for maps that there are not."""
        check_encoder(parse(model, weights)[1])

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "maps=<statistic+statistic>:<encoder of volumes>": (
                "any encoder of volumes, on statistics over time of a run: mean, deviation and centrality by default"
            )
        }

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None) -> Encoder:
        """Builds the encoder.

        Args:
            model: Perhaps ``maps=<statistic+statistic>:``, and the name of the encoder of volumes.
            weights: Its weights.
            sha256: Not accepted; a checksum belongs to the encoder of volumes.

        Raises:
            ConfigError: A checksum is given, or a map is unknown or named twice.
            IncompatibleError: It reads no volumes.
        """
        if sha256 is not None:
            raise ConfigError(f"a checksum of fmri:{model} is that of the encoder in it; load this one by its own name")
        maps, inner = parse(model, weights)
        name = f"fmri:maps={'+'.join(maps)}:{inner}"
        encoder = on_volumes(inner, "volume_sequence", len(maps), name, RunMapsEncoder)
        encoder.statistics = maps
        words = f"{', '.join(maps)} over time, each with mean 1 and deviation {SPREAD:g} over the brain; then "
        encoder.spec = encoder.spec.model_copy(update={"intensity": words + encoder.spec.intensity})
        return encoder


def parse(model: str, weights: str = "default") -> tuple[tuple[Statistic, ...], str]:
    """Maps and encoder of a name.

    Raises:
        ConfigError: There is no such map, or it is named twice.

    Example:
        >>> parse("maps=mean+deviation:m3d:clip", "random")
        (('mean', 'deviation'), 'm3d:clip@random')
    """
    first, _, rest = model.partition(":")
    values: dict[str, Any] = {}
    if "=" in first:
        name, _, text = first.partition("=")
        values, model = {name: tuple(text.split("+"))}, rest
    maps = checked(Statistics, values, "options of fmri").maps
    if len(set(maps)) < len(maps):
        raise ConfigError(f"options of fmri: maps={'+'.join(maps)} names a map twice; give each once")
    return maps, model if weights == "default" else f"{model}@{weights}"
