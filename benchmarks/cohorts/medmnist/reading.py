"""A data set of MedMNIST as a task takes it: labels checked and joined over the splits, images read one by one."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from medgraft.benchmarks.cohorts.medmnist.archive import Member, Rows, members_of
from medgraft.benchmarks.cohorts.medmnist.facts import MULTI_LABEL, DataSet, facts_of
from medgraft.cohort import is_phantom
from medgraft.errors import DataError
from medgraft.task import SPLITS


def file_name(name: str, size: int) -> str:
    """Name of the file of a data set.

    Example:
        >>> file_name("pathmnist", 28), file_name("pathmnist", 224)
        ('pathmnist.npz', 'pathmnist_224.npz')
    """
    return f"{name}{'' if size == 28 else f'_{size}'}.npz"


@dataclass(frozen=True)
class Contents:
    """A data set that was read; samples of training, validation and test in this order.

    Attributes:
        path: Its file.
        facts: What it is.
        targets: ``int64 [n]`` classes, or ``float32 [n, K]`` labels.
        counts: Split -> samples.
        rows: Images of each split.
    """

    path: Path = field(repr=False)
    facts: DataSet
    targets: np.ndarray
    counts: Mapping[str, int]
    rows: tuple[Rows, ...] = field(repr=False)

    def splits(self) -> dict[str, np.ndarray]:
        """Split -> numbers of its samples ``int64 [m]``."""
        ends = list(accumulate(self.counts.values(), initial=0))
        return {name: np.arange(low, high) for name, low, high in zip(self.counts, ends[:-1], ends[1:], strict=True)}

    def sample(self, index: int) -> np.ndarray:
        """One image ``uint8 [H, W]`` or ``[H, W, 3]``, or volume ``float32 [D, H, W]`` in 0 to 1 as MedMNIST has it.

        Raises:
            DataError: The array that it is in is damaged.
        """
        ends = list(accumulate(self.counts.values()))
        split = bisect.bisect_right(ends, index)
        row = self.rows[split][index - (ends[split - 1] if split else 0)]
        return row.astype(np.float32) / 255 if self.facts.volumes else row


def read_data_set(root: Path, name: str, size: int) -> Contents:
    """Reads the labels of a data set, and where its images are.

    Args:
        root: Folder of the files, or the file, whatever it is called.
        name: Of the data set.
        size: Side of its images.

    Raises:
        DataError: The file is not there, damaged, or not what it is called.
    """
    facts, path = facts_of(name), root if root.is_file() else root / file_name(name, size)
    if not path.is_file():
        remedy = "copy it there, or add --download to fetch it (with pip install 'medgraft[medmnist]')"
        if is_phantom(root):
            remedy = f"medgraft cohort medmnist --out FOLDER --size {size} writes a phantom that has it"
        raise DataError(f"{path.name} is not in {root}; {remedy}", "no such file")
    members = members_of(path)
    wanted = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")]
    if missing := [key for key in wanted if key not in members]:
        there = ", ".join(sorted(members)[:8]) or "nothing"
        raise DataError(f"{path} has no {' and no '.join(missing)}; it has {there}; copy it again")
    images = [members[f"{split}_images"] for split in SPLITS]
    labels = [members[f"{split}_labels"] for split in SPLITS]
    for each in images:
        _check_images(each, facts, name, size)
    for picture, label in zip(images, labels, strict=True):
        _check_counts(picture, label, facts)
    targets = np.concatenate([_labels(member, facts) for member in labels])
    counts = {split: each.shape[0] for split, each in zip(SPLITS, images, strict=True)}
    return Contents(path, facts, targets, counts, tuple(map(Rows, images)))


def _check_images(member: Member, facts: DataSet, name: str, size: int) -> None:
    """Refuses images of another type, number of channels or size than the file should hold."""
    side = (size,) * 3 if facts.volumes else (size, size, 3) if facts.channels == 3 else (size, size)
    what = f"{member.name} of {member.path}"
    if member.dtype != np.uint8:
        raise DataError(f"{what} is {member.dtype}; images of MedMNIST are uint8; copy the file again")
    if member.shape[1:] == side:
        return
    other = member.shape[1] if len(member.shape) == len(side) + 1 else 0
    remedy = "copy the file again"
    if other != size and other in facts.sizes and member.shape[1:] == tuple(other if s == size else s for s in side):
        remedy = f"call it {file_name(name, other)} and read it with --set medmnist:{name}.size={other}"
    raise DataError(f"{what} is {list(member.shape)} and not [n, {', '.join(map(str, side))}]; {remedy}")


def _check_counts(images: Member, labels: Member, facts: DataSet) -> None:
    """Refuses labels that are no whole numbers, one row for each image."""
    what, count = f"{labels.name} of {labels.path}", images.shape[0]
    columns = len(facts.labels) if facts.task == MULTI_LABEL else 1
    if labels.dtype.kind not in "iub":
        raise DataError(f"{what} is {labels.dtype}; labels of MedMNIST are whole numbers; copy the file again")
    if labels.shape != (count, columns) and (columns > 1 or labels.shape != (count,)):
        raise DataError(f"{what} is {list(labels.shape)} and not [{count}, {columns}], a row for each image")


def _labels(member: Member, facts: DataSet) -> np.ndarray:
    """Classes ``int64 [n]`` or labels ``float32 [n, K]``, in range."""
    values, many = member.array(), facts.task == MULTI_LABEL
    highest = 1 if many else len(facts.labels) - 1
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= highest:
        strange = int(values.max()) if int(values.max()) > highest else int(values.min())
        raise DataError(
            f"{member.name} of {member.path} has a label {strange}; they are 0 to {highest}; copy the file again"
        )
    return values.astype(np.float32) if many else values.reshape(len(values)).astype(np.int64)
