"""T1, PET and diffusion maps of the same people, as a BIDS tree with derivatives or as ADNI's archive has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig

_SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+(?=/|_)")


class BrainScans(Cohort):
    """T1, PET with a reference region, and maps of diffusion; a person may lack any of them."""

    title = "T1, PET and diffusion maps of the same people (BIDS with derivatives, or ADNI's archive)"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 40, "size": 12, "seed": 3, "volumes": 4})

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            subjects: People; a quarter of them has a second visit.
            size: Voxels a side of every image.
            missing: Probability that a visit lacks PET, and that it lacks diffusion; of T1 a quarter of it.
            layout: ``bids``, or ``loni`` as ADNI's archive hands images out.
            volumes: Of a resting-state run at each visit, missing as often as PET; 0 for none.
        """

        subjects: int = Field(240, ge=4, le=9000, alias="n_subjects")
        size: int = Field(24, ge=8, le=128)
        missing: float = Field(0.2, ge=0, lt=1)
        layout: Literal["bids", "loni"] = "bids"
        volumes: int = Field(0, ge=0, le=400)

        @model_validator(mode="after")
        def _runs_have_a_place(self) -> BrainScans.Config:
            if self.volumes and self.layout == "loni":
                raise ValueError("runs of fMRI are derivatives of BIDS; set volumes: 0 or layout: bids")
            return self

    @classmethod
    def generator_version(cls) -> str:
        """That of the phantom."""
        from medgraft.benchmarks.phantoms.brain.scans import GENERATOR_VERSION

        return GENERATOR_VERSION

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.brain.scans import write_scans

        write_scans(out, **config.model_dump(by_alias=True))

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """Whether all people are called as the phantom's are."""
        files = list(files)
        names = {match[0] for file in files if (match := _SUBJECT.search(file))}
        if not names:
            return made_up_paths("adni", files)
        return all(re.fullmatch(r"sub-PHANTOM\d{4}", name) for name in names)
