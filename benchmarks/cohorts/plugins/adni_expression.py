"""ADNI's blood arrays, with ADNIMERGE beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.cohort import Cohort, CohortConfig


class AdniExpression(Cohort):
    """Expression of genes in blood, diagnoses, APOE and polygenic scores."""

    title = "ADNI: expression of genes in blood, with ADNIMERGE"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 60, "genes": 80, "seed": 3})

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            subjects: Subjects, a sample each.
            genes: Genes, of which a quarter have two probe sets.
        """

        subjects: int = Field(400, ge=4, le=9000, alias="n_subjects")
        genes: int = Field(1000, ge=4, le=50_000, alias="n_genes")

    @classmethod
    def generator_version(cls) -> str:
        """That of the phantom."""
        from medgraft.benchmarks.phantoms.omics.blood import GENERATOR_VERSION

        return GENERATOR_VERSION

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.omics.blood import write_blood

        write_blood(out, **config.model_dump(by_alias=True))

    def revision(self, root: Path) -> str:
        """Digest of the table of expression, which may be h5ad, and of the tables that say whose it is.

        Raises:
            DataError: There is no table of expression.
        """
        from medgraft.benchmarks.cohorts.adni.merge import find_merge
        from medgraft.benchmarks.cohorts.omics.adni_blood import SCORES, find_profile
        from medgraft.benchmarks.cohorts.tables.reading import ReadReport
        from medgraft.files.content import file_facts

        place, merge = Path(root), find_merge(Path(root), ReadReport())
        files = [find_profile(place), *([merge] if merge else []), place / SCORES]
        return file_facts([str(file) for file in files if file.is_file()], place)
