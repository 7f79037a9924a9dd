"""What ``medgraft inspect`` tells of somebody's data before anything runs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medgraft.benchmarks.cohorts.own.data import OwnData
from medgraft.benchmarks.cohorts.own.readers import reader_of
from medgraft.errors import DataError
from medgraft.modality import TEXT
from medgraft.task import SPLITS

SUSPICIOUS = 0.9
"""As many different numbers in the names of files, as a share of the files, look like patients with several."""

ROUNDING = 2
"""Levels of 255 by which the channels of a grey pixel may differ, from the rounding of JPEG and of scanners."""

STRAY = 1e-3
"""Share of the pixels that may be coloured in an image that is grey all the same."""

IMBALANCED = 10.0
"""Times that the largest class may have the samples of the smallest before it is remarked on."""


@dataclass
class Inspection:
    """Facts of somebody's data.

    Attributes:
        samples: Split -> samples and subjects.
        classes: Class or label -> samples in each split, in the order of :data:`medgraft.task.SPLITS`.
        numbers: Smallest, median and largest of numbers or times; empty for classes.
        events: Samples whose event was seen, of times.
        sizes: Size of an image or volume, as text -> files that were read, the most frequent first.
        spacings: Voxel sizes in mm, as text -> files.
        unreadable: Reason -> files that were read and cannot be used.
        looked_at: Files that were read.
        coloured: Those of them that are in colour.
        words: Smallest, median and largest number of words of a text.
        warnings: Sentences about what may spoil a result.
    """

    samples: dict[str, tuple[int, int]]
    classes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    numbers: tuple[float, ...] = ()
    events: int | None = None
    sizes: Counter[str] = field(default_factory=Counter[str])
    spacings: Counter[str] = field(default_factory=Counter[str])
    unreadable: Counter[str] = field(default_factory=Counter[str])
    looked_at: int = 0
    coloured: int = 0
    words: tuple[int, ...] = ()
    warnings: list[str] = field(default_factory=list[str])


def inspected(data: OwnData, read: int, seed: int = 0, *, colour: bool = False) -> Inspection:
    """The facts.

    Args:
        data: The samples that would be used.
        read: Files to read whole, drawn from all.
        seed: Of the draw.
        colour: The task reads images in colour.
    """
    subjects = data.subjects
    facts = Inspection({name: (len(part), len(np.unique(subjects[part]))) for name, part in data.splits.items()})
    _labels(facts, data)
    if data.files:
        _look(facts, data, read, seed, colour=colour)
    if TEXT in data.inputs:
        lengths = [len(text.split()) for text in data.texts]
        facts.words = (min(lengths), int(np.median(lengths)), max(lengths))
    facts.warnings += [*data.notes, *_leaks(data), *_balance(facts), *_unseen_colour(facts, colour=colour)]
    return facts


def _labels(facts: Inspection, data: OwnData) -> None:
    values, parts = data.targets.values, [data.splits[name] for name in SPLITS]
    if not data.targets.classes:
        facts.numbers = tuple(float(x) for x in np.quantile(values, [0, 0.5, 1]))
        facts.events = None if data.targets.event is None else int(data.targets.event.sum())
        return
    for k, name in enumerate(data.targets.classes):
        has = values == k if data.targets.kind == "multiclass" else values[:, k] == 1
        facts.classes[name] = tuple(int(has[part].sum()) for part in parts)


def _look(facts: Inspection, data: OwnData, read: int, seed: int, *, colour: bool) -> None:
    """Reads some files whole, as training would, and pictures in colour besides."""
    n, kind = len(data.files), next(name for name in data.inputs if name != TEXT)
    chosen = sorted(np.random.default_rng(seed).permutation(n)[:read].tolist())
    facts.looked_at = len(chosen)
    for k in chosen:
        try:
            raw = reader_of(kind, colour=colour)(data.files[k])
            if kind == "signal":
                facts.sizes[f"{len(raw.channels)} channels at {raw.rate:g} Hz"] += 1
                continue
            facts.sizes[" x ".join(map(str, raw.shape[1::-1] if kind == "image" else raw.shape))] += 1
            if kind == "image":
                facts.coloured += has_colour(raw if colour else reader_of(kind, colour=True)(data.files[k]))
                continue
            facts.spacings[" x ".join(f"{x:.3g}" for x in raw.spacing)] += 1
        except DataError as error:
            facts.unreadable[error.reason or "unreadable"] += 1


def has_colour(image: np.ndarray) -> bool:
    """Whether an image is more than grey values stored three times, rounded.

    Args:
        image: ``uint8 [H, W, 3]``.
    """
    apart = np.ptp(image, axis=2) > ROUNDING
    return bool(apart.mean() > STRAY) if apart.size else False


def _unseen_colour(facts: Inspection, *, colour: bool) -> list[str]:
    seen = facts.looked_at - facts.unreadable.total()
    if not facts.sizes or facts.spacings:
        return []
    if facts.coloured and not colour:
        return [
            f"{facts.coloured} of {seen} files that were read are in colour, and only their brightness is used; "
            "--set colour=rgb gives encoders of three channels the colours"
        ]
    if colour and not facts.coloured:
        return [f"none of the {seen} files that were read is in colour; colour=grey says the same with less"]
    return []


def _leaks(data: OwnData) -> list[str]:
    warnings: list[str] = []
    if data.files:
        counts = Counter(data.digests)
        again = sum(count - 1 for count in counts.values())
        if again:
            warnings.append(f"files that repeat the content of another: {again}")
    if data.patients is None and (names := patients_in_names(data.files)):
        example, ids = names
        warnings.append(
            f"names of files look as if they held patients ({ids:,} different, such as {example!r}, in "
            f"{len(data.files):,} files); say so with subject_pattern, else one patient may be in two splits"
        )
    if TEXT in data.inputs and data.targets.kind == "multiclass":
        classes = [name.lower() for name in data.targets.classes]
        named = sum(classes[k] in text.lower() for k, text in zip(data.targets.values, data.texts, strict=True))
        if len(classes[0]) > 2 and named > 0.2 * len(data.texts):
            warnings.append(f"texts that contain the word of their class: {named} of {len(data.texts)}")
    return warnings


def patients_in_names(files: Sequence[str]) -> tuple[str, int] | None:
    """A number that many names of files begin with and share, and how many different ones there are.

    Example:
        >>> patients_in_names(["p001_a.png", "p001_b.png", "p002_a.png", "p002_b.png", "p003_a.png"])
        ('p001', 3)
        >>> patients_in_names(["a1.png", "a2.png"]) is None
        True
    """
    tokens = [re.search(r"[A-Za-z]*[-_]?\d{2,}", os.path.basename(path)) for path in files]
    named = [hit[0] for hit in tokens if hit]
    different = len(set(named))
    if len(named) < 0.8 * len(files) or not 2 < different <= SUSPICIOUS * len(files):
        return None
    return named[0], different


def _balance(facts: Inspection) -> list[str]:
    counts = {name: sum(split) for name, split in facts.classes.items()}
    if not counts:
        return []
    warnings = []
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] > IMBALANCED * max(counts[least], 1):
        warnings.append(
            f"{most!r} has {counts[most]:,} samples and {least!r} has {counts[least]:,}: accuracy says little"
        )
    test = SPLITS.index("test")
    if few := [name for name, split in facts.classes.items() if split[test] < 10]:
        warnings.append(f"fewer than 10 test samples of {', '.join(map(repr, few[:10]))}: intervals will be too narrow")
    return warnings
