"""What ``medgraft inspect`` tells of a file of MedMNIST."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from medgraft.benchmarks.cohorts.medmnist.facts import DATA_SETS
from medgraft.benchmarks.cohorts.medmnist.reading import file_name
from medgraft.benchmarks.cohorts.own.inspection import Inspection
from medgraft.errors import DataError
from medgraft.task import SPLITS, TaskData

MOST_COMPARED = 1 << 30
"""Bytes of a file above which its images are not compared with one another."""


def named(path: Path) -> tuple[str, int]:
    """Data set and side of a file, by its name.

    Raises:
        DataError: It is called otherwise than MedMNIST calls its files.

    Example:
        >>> named(Path("pathmnist.npz")), named(Path("data/organmnist3d_64.npz"))
        (('pathmnist', 28), ('organmnist3d', 64))
    """
    match = re.fullmatch(r"(\w+?)(?:_(\d+))?\.npz", path.name)
    name, size = (match[1], int(match[2] or 28)) if match else ("", 0)
    if name not in DATA_SETS or size not in DATA_SETS[name].sizes or path.name != file_name(name, size):
        known = ", ".join(DATA_SETS)
        raise DataError(
            f"{path.name} is no file of MedMNIST; they are called NAME.npz or NAME_64.npz, NAME being {known}"
        )
    return name, size


def inspected_file(data: TaskData, read: int, size: int) -> Inspection:
    """The facts of a data set.

    Args:
        data: Its samples.
        read: Images to read of each split; all are, to find repeated ones, where the file is small enough.
        size: Bytes of the file.

    Raises:
        DataError: The file is damaged.
    """
    facts = Inspection({name: (len(data.splits[name]), len(data.splits[name])) for name in SPLITS})
    for k, name in enumerate(data.classes):
        has = data.targets == k if data.targets.ndim == 1 else data.targets[:, k] == 1
        facts.classes[name] = tuple(int(has[data.splits[split]].sum()) for split in SPLITS)
    raw = next(iter(data.inputs.values()))
    whole = size <= MOST_COMPARED and read > 0
    digests: dict[str, set[bytes]] = {}
    for name in SPLITS:
        chosen = data.splits[name] if whole else data.splits[name][:read]
        digests[name] = set()
        for index in chosen:
            image = raw.read(int(index))
            digests[name].add(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
            sides = image.shape[1::-1] if image.dtype == np.uint8 else image.shape
            facts.sizes[" x ".join(map(str, sides))] += 1
        facts.looked_at += len(chosen)
    facts.warnings = list(data.provenance["notes"])
    if whole:
        for early, late in (("train", "test"), ("train", "val"), ("val", "test")):
            if count := len(digests[early] & digests[late]):
                facts.warnings.append(f"images that {early} and {late} both have: {count}")
    return facts
