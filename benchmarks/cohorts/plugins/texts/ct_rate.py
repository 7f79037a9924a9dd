"""CT-RATE: chest CTs with reports and labels, and RadGenome-Chest CT's questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig


class CtRate(Cohort):
    """Chest CTs in Hounsfield units, reports, eighteen labels, and questions by region."""

    title = "CT-RATE: chest CTs, reports, eighteen labels and RadGenome's questions"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"train": 24, "valid": 10, "seed": 3, "size": 32, "slices": 16}
    )

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            train: Patients to train on.
            valid: Patients of the published validation split.
            size: Voxels from side to side and from back to front.
            slices: Voxels from bottom to top.
        """

        train: int = Field(240, ge=1, le=90_000, alias="n_train")
        valid: int = Field(80, ge=1, le=90_000, alias="n_valid")
        size: int = Field(64, ge=16, le=512)
        slices: int = Field(32, ge=8, le=512)

    @classmethod
    def generator_version(cls) -> str:
        """That of the chest-CT phantom."""
        from medgraft.benchmarks.phantoms.ct.renderer import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths("ct_rate", files)

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.ct.ct_rate import write_ct_rate

        write_ct_rate(out, **config.model_dump(by_alias=True), jobs=jobs)
