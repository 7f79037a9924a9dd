"""Generated data sets in the layout of MedMNIST: the same names of arrays, shapes and types, other content.

A class shows in the place of a disc or ball; in colour sets its hue is a second sign, which brightness does not hold.
Each label of a set of labels is a spot of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgraft.benchmarks.cohorts.medmnist.facts import DATA_SETS, MULTI_LABEL, DataSet
from medgraft.benchmarks.cohorts.medmnist.reading import file_name
from medgraft.task import SPLITS

SHARES = (0.6, 0.15, 0.25)
"""Of the samples, in training, validation and test."""

_NOISE, _GROUND, _BRIGHT = 14.0, 80.0, 70.0


def write_data_sets(out: Path, samples: int, size: int, seed: int) -> None:
    """Writes one file for each data set that has the size.

    Args:
        out: Folder; made where it is missing.
        samples: Images or volumes of each data set.
        size: Side of them.
        seed: Defines every file.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number, (name, facts) in enumerate(DATA_SETS.items()):
        if size in facts.sizes:
            arrays = _data_set(facts, samples, size, np.random.default_rng([seed, number, size]))
            np.savez_compressed(out / file_name(name, size), **arrays)  # pyright: ignore[reportArgumentType]


def _data_set(facts: DataSet, samples: int, size: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    ends = np.round(np.cumsum((0, *SHARES)) * samples).astype(int)
    arrays: dict[str, np.ndarray] = {}
    for split, low, high in zip(SPLITS, ends[:-1], ends[1:], strict=True):
        labels = _labels(facts, int(high - low), random)
        shown = labels if facts.task == MULTI_LABEL else np.eye(len(facts.labels), dtype=np.uint8)[labels[:, 0]]
        images = [_image(facts, signs, size, random) for signs in shown]
        arrays[f"{split}_images"] = np.stack(images)
        arrays[f"{split}_labels"] = labels
    return arrays


def _labels(facts: DataSet, count: int, random: np.random.Generator) -> np.ndarray:
    """``uint8 [count, 1]`` classes, all of which occur, or ``uint8 [count, K]`` labels."""
    K = len(facts.labels)
    if facts.task == MULTI_LABEL:
        return (random.random((count, K)) < 0.3).astype(np.uint8)
    return random.permutation(np.arange(count) % K).astype(np.uint8)[:, None]


def _image(facts: DataSet, signs: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """An image ``uint8 [size, size]`` or ``[size, size, 3]``, or a volume, that shows signs ``[K]`` of 0 and 1."""
    axes = 3 if facts.volumes else 2
    grid = np.stack(np.meshgrid(*[np.arange(size) / size] * axes, indexing="ij"))
    image = random.normal(_GROUND, _NOISE, (size,) * axes)
    for k in np.flatnonzero(signs):
        angle = 2 * np.pi * k / len(signs)
        place = 0.5 + 0.28 * np.array((np.sin(angle), np.cos(angle), 0.0))[:axes] + random.normal(0, 0.05, axes)
        image[((grid - place.reshape(-1, *[1] * axes)) ** 2).sum(0) < 0.13**2] += _BRIGHT
    if facts.channels == 3:
        hue = 2 * np.pi * int(signs.argmax()) / len(signs)
        image = image[..., None] + 16 * np.sin(hue + np.array((0, 2, 4)) * np.pi / 3) + random.normal(0, 12, 3)
    return image.clip(0, 255).astype(np.uint8)
