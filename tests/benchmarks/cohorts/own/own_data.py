"""Small tables and folders of one's own, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

from medgraft.benchmarks.tasks.own.table import Table
from medgraft.options import checked


def picture(path: Path, seed: int = 0, shape: tuple[int, ...] = (12, 10), dtype: Any = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)).save(path)
    return path


def volume(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).uniform(1, 100, (8, 9, 7)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def pictures(folder: Path, count: int, start: int = 0) -> list[str]:
    """Names of ``count`` different pictures below a folder."""
    return [str(picture(folder / f"x{start + k}.png", start + k).relative_to(folder)) for k in range(count)]


def table(folder: Path, columns: Mapping[str, Sequence[Any]], name: str = "cohort.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(dict(columns)).to_csv(folder / name, index=False)
    return folder / name


def two_classes(folder: Path, count: int = 12, **columns: Sequence[Any]) -> Path:
    """A table of ``count`` pictures of two classes in turns, with further columns."""
    data = {"image": pictures(folder, count), "label": ["ab"[k % 2] for k in range(count)], **columns}
    return table(folder, {name: values for name, values in data.items() if values is not None})


def task(**options: Any) -> Table:
    return Table(checked(Table.Config, options, "options"))
