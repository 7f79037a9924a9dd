"""What the phantoms of chest cohorts share: size, setting, the generator's version and how one is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig


class ChestConfig(CohortConfig):
    """Options of every chest phantom; an option's alias is the writer's parameter.

    Attributes:
        size: Side in pixels.
        setting: Named setting of the generator.
    """

    size: int = Field(256, ge=64)
    setting: str = "default"


class FindingConfig(ChestConfig):
    """Options of the phantoms of challenges about one finding.

    Attributes:
        images: Images.
        pairs: MIMIC-CXR pairs beside the images, to train on.
        positive_share: Share of the films with the finding.
    """

    images: int = Field(400, ge=4, alias="n_images")
    pairs: int = Field(0, ge=0, alias="n_pairs")
    positive_share: float = Field(0.25, gt=0, lt=1)


FINDING_SMALL: Mapping[str, Any] = MappingProxyType(
    {"images": 60, "pairs": 24, "positive_share": 0.4, "seed": 3, "size": 64}
)
"""Such a phantom that is written in seconds."""


class ChestCohort(Cohort):
    """Base of the chest cohorts.

    Attributes:
        layout: Name of the cohort, whose layout the phantom has.
    """

    layout: ClassVar[str]

    @classmethod
    def generator_version(cls) -> str:
        """That of the chest phantom."""
        from medgraft.benchmarks.phantoms.chest.cohort import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths(cls.layout, files)

    def writer(self) -> Callable[..., Any]:
        """The function that writes the phantom: ``writer(out, *, jobs, **options by their aliases)``."""
        raise TypeError(f"{type(self).__name__} must implement writer()")

    def write_phantom(self, out: Path, config: ChestConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        self.writer()(out, **config.model_dump(by_alias=True), jobs=jobs)
