"""Weights between regions, a matrix or several for each person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from medgraft.cohort import Cohort, CohortConfig

_SUBJECT = re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+(?=/|_)")


class Connectomes(Cohort):
    """Connectomes as files, with ``participants.tsv``."""

    title = "Connectomes: weights between regions as files, and a table of participants"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 30, "regions": 12, "seed": 3})

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            subjects: People, a session each.
            regions: Regions of the atlas.
            kinds: Which weights: correlations, streamlines or both.
        """

        subjects: int = Field(300, ge=4, le=9999, alias="n_subjects")
        regions: int = Field(40, ge=4, le=1000)
        kinds: Literal["correlation", "streamlines", "both"] = "correlation"

    @classmethod
    def generator_version(cls) -> str:
        """That of the phantom."""
        from medgraft.benchmarks.phantoms.brain.connectomes import GENERATOR_VERSION

        return GENERATOR_VERSION

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.brain.connectomes import write_connectomes

        write_connectomes(out, **config.model_dump(by_alias=True))

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """Whether all people are called as the phantom's are."""
        names = {match[0] for file in files if (match := _SUBJECT.search(file))}
        return bool(names) and all(re.fullmatch(r"sub-PHANTOM\d{4}", name) for name in names)
