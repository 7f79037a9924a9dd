"""ADNI: T1 volumes and tables as the archive or Clinica's BIDS converter gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig
from medgraft.files.cache_folder import cache_root


class Adni(Cohort):
    """Volumes of Alzheimer's disease, mild cognitive impairment and controls."""

    title = "ADNI: T1 volumes, diagnoses and demographic tables"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 40, "seed": 3, "spacing": 6.0, "visits": 2})

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            subjects: Subjects.
            visits: Most visits per subject.
            layout: ``loni`` or ``bids``.
            form: ``processed``, or ``raw`` as from the scanner.
            spacing: Voxel size in mm.
            setting: Named setting of the generator.
            site_confound: 0 for none; at 1 the site nearly tells the diagnosis.
        """

        subjects: int = Field(280, ge=4, alias="n_subjects")
        visits: int = Field(2, ge=1, le=8, alias="max_visits")
        layout: str = "loni"
        form: str = "processed"
        spacing: float = 3.0
        setting: str = "default"
        site_confound: float = Field(0.0, ge=0, le=1)

    @classmethod
    def generator_version(cls) -> str:
        """That of the brain phantom."""
        from medgraft.benchmarks.phantoms.brain.renderer import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths("adni", files)

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.brain.cohort import write_cohort

        write_cohort(out, **config.model_dump(by_alias=True), jobs=jobs, cache_dir=cache_root())


class AdniVisits(Adni):
    """Subjects who come back for years, to be told who will convert."""

    title = "ADNI with many visits per subject; a real copy is that of adni"
    real = "adni"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 110, "seed": 3, "spacing": 6.0, "visits": 5})

    class Config(Adni.Config):
        """Options of the phantom."""

        visits: int = Field(8, ge=1, le=8, alias="max_visits")


class AdniNoGap(Adni):
    """The scanners that the embedded encoder was trained on, without a gap between hospitals."""

    title = "ADNI's phantom without a gap between its scanners and those of pre-training"

    class Config(Adni.Config):
        """Options of the phantom."""

        setting: str = "nogap"
