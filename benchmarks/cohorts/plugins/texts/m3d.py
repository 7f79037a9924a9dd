"""M3D-Cap and M3D-VQA: 3D arrays with texts and questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig


class M3d(Cohort):
    """Stacks of CT slices, their texts, and questions with four choices."""

    title = "M3D-Cap and M3D-VQA: stacks of CT slices, texts and questions"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"train": 20, "validation": 6, "test": 10, "seed": 3, "size": 32}
    )

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            train: Cases to train on.
            validation: Cases to validate on.
            test: Cases to test on.
            size: Places along height and width of the arrays; the real ones have 256.
        """

        train: int = Field(140, ge=1, alias="n_train")
        validation: int = Field(20, ge=1, alias="n_validation")
        test: int = Field(60, ge=1, alias="n_test")
        size: int = Field(64, ge=16, le=512)

    @classmethod
    def generator_version(cls) -> str:
        """That of the chest-CT phantom."""
        from medgraft.benchmarks.phantoms.ct.renderer import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths("m3d", files)

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.ct.m3d import write_m3d

        write_m3d(out, **config.model_dump(by_alias=True), jobs=jobs)
