"""OASIS-1, -2 and -3: T1 volumes and tables as they are distributed, or as Clinica converts OASIS-1 and -3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig
from medgraft.errors import DataError
from medgraft.files.cache_folder import cache_root


class Oasis(Cohort):
    """Volumes and Clinical Dementia Ratings; which of the three a folder holds is recognised from its images."""

    title = "OASIS-1, -2 or -3: T1 volumes and Clinical Dementia Ratings"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 40, "seed": 3, "spacing": 6.0})

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            study: ``oasis1``, ``oasis2`` or ``oasis3``.
            subjects: Subjects.
            visits: Most sessions per subject; OASIS-1 has one and, for some, a second within 90 days.
            layout: ``archive``, as distributed, or ``bids``, as Clinica converts OASIS-1 and -3.
            form: ``processed``, or ``raw`` as from the scanner.
            spacing: Voxel size in mm.
            setting: Named setting of the generator.
        """

        study: Literal["oasis1", "oasis2", "oasis3"] = "oasis1"
        subjects: int = Field(280, ge=4, le=1000, alias="n_subjects")
        visits: int = Field(3, ge=1, le=5, alias="max_visits")
        layout: Literal["archive", "bids"] = "archive"
        form: Literal["processed", "raw"] = "processed"
        spacing: float = 3.0
        setting: str = "oasis"

    @classmethod
    def generator_version(cls) -> str:
        """That of the brain phantom."""
        from medgraft.benchmarks.phantoms.brain.renderer import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths("oasis", files)

    def revision(self, root: Path) -> str:
        """Digest of the tables, which OASIS-3's download holds seven folders deep, or which lie beside the images.

        Raises:
            DataError: There is none.
        """
        from medgraft.benchmarks.cohorts.oasis.tables import tables_digest

        said = tables_digest(Path(root))
        if not said:
            raise DataError(
                f"{root} has no table of OASIS, in it or above it; put oasis_cross-sectional.csv, "
                "oasis_longitudinal.csv or OASIS3_UDSb4_cdr.csv there, as CSV"
            )
        return said

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.brain.oasis import write_oasis

        write_oasis(out, **config.model_dump(by_alias=True), jobs=jobs, cache_dir=cache_root())
