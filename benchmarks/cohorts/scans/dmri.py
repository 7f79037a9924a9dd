"""Maps of the diffusion tensor side by side: FA, MD, AD and RD of one scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.scans.pet import check_grids
from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.errors import DataError

MAPS = ("FA", "MD", "AD", "RD")


def load_maps(files: Sequence[Path]) -> NDArray[np.float32]:
    """Maps of one scan.

    Args:
        files: NIfTI files of one volume each, in the order of the channels.

    Returns:
        ``float32 [M, x, y, z]`` in RAS, in the files' own units. What is no number, as tensor fits leave outside of the
        brain, is not accepted.

    Raises:
        DataError: A file cannot be used, or the maps are not on one grid.
    """
    loaded = [load_volume(file) for file in files]
    shapes = {volume.shape for volume, _ in loaded}
    if len(shapes) > 1:
        said = ", ".join(f"{file.name} {list(volume.shape)}" for file, (volume, _) in zip(files, loaded, strict=True))
        raise DataError(f"maps of one scan have different shapes: {said}", "maps of different shapes")
    for file, (volume, affine) in zip(files[1:], loaded[1:], strict=True):
        check_grids(loaded[0][1], affine, volume.shape, f"{files[0].name} and {file.name}")
    return np.stack([volume for volume, _ in loaded])
