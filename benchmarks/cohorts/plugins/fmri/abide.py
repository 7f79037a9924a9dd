"""ABIDE I as nilearn lays it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig

Layout = Literal["abide", "fmriprep", "adni"]


class RestConfig(CohortConfig):
    """Options of a phantom of resting-state fMRI; an option's alias is the writer's parameter.

    Attributes:
        subjects: People.
        sites: Sites; each has its own brightness, noise and time between volumes.
        volumes: Volumes of a run.
        size: Voxels along each axis of the image, which is 192 mm wide.
    """

    subjects: int = Field(160, ge=4, le=9999, alias="n_subjects")
    sites: int = Field(4, ge=1, le=40, alias="n_sites")
    volumes: int = Field(60, ge=4, le=1000)
    size: int = Field(16, ge=8, le=96)


class RestPhantom(Cohort):
    """Base of cohorts of resting-state fMRI, whose phantoms differ in their layout.

    Attributes:
        layout: Of the files.
    """

    layout: ClassVar[Layout]

    @classmethod
    def generator_version(cls) -> str:
        """That of the phantom."""
        from medgraft.benchmarks.phantoms.fmri.writing import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths(cls.layout, files)

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.fmri.writing import write_rest

        options = {"n_runs": 1, "regions": False} | config.model_dump(by_alias=True)
        write_rest(out, **options, layout=self.layout)


class Abide(RestPhantom):
    """Preprocessed runs of people with autism and controls from many sites, with ABIDE's table of people."""

    title = "ABIDE I, preprocessed: resting-state fMRI, autism and controls"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"subjects": 48, "sites": 3, "volumes": 12, "size": 16, "seed": 3}
    )
    layout = "abide"

    class Config(RestConfig):
        """Options of the phantom.

        Attributes:
            regions: Write series by region beside the runs, as ``rois_cc200`` are.
        """

        regions: bool = True
