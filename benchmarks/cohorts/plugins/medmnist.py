"""``medmnist``: a folder of the npz files of MedMNIST, and a generated one in its place."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.medmnist.phantom import write_data_sets
from medgraft.cohort import Cohort, CohortConfig


class MedMnist(Cohort):
    """The npz files of MedMNIST, 2D and 3D, in one folder."""

    title = "MedMNIST's npz files, 12 data sets of images and 6 of volumes"
    takes_files = True
    small = MappingProxyType({"samples": 120})

    class Config(CohortConfig):
        """Options of the phantom.

        Attributes:
            samples: Images or volumes of each data set.
            size: Side of them in pixels or voxels; volumes have 28 and 64.
        """

        samples: int = Field(240, ge=100, le=100_000)
        size: Literal[28, 64, 128, 224] = 28

    def revision(self, root: Path) -> str:
        """Nothing of the folder: a task knows the one file that it reads, and others may come and go beside it."""
        return "npz files, each known to its task"

    def write_phantom(self, out: Path, config: Any, jobs: int) -> None:
        """Writes one npz file for each data set."""
        write_data_sets(out, config.samples, config.size, config.seed)
