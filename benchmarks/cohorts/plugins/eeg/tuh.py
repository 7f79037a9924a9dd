"""The TUH EEG corpora TUAB (normal and abnormal recordings) and TUEV (events)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig


class TuhCohort(Cohort):
    """What both share: ``edf/train`` and ``edf/eval``."""

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            subjects: Patients, each with one recording.
            seconds: Length of a recording.
            rate: Samples per second; 250 in most of the corpora's files.
        """

        subjects: int = Field(60, ge=6, le=999, alias="n_subjects")
        seconds: int = Field(60, ge=4, le=3600)
        rate: int = Field(250, ge=100, le=2000)

    @classmethod
    def generator_version(cls) -> str:
        """That of the phantom."""
        from medgraft.benchmarks.phantoms.eeg.tuh import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths("tuh", [path for path in files if "/eval/" not in f"/{path}"])

    def revision(self, root: Path) -> str:
        """Digest of recordings and annotations; the folder may be ``edf`` itself."""
        from medgraft.benchmarks.cohorts.eeg.revision import revision_of

        return revision_of(Path(root), ())


class Tuab(TuhCohort):
    """Normal and abnormal recordings."""

    title = "TUAB: the TUH corpus of normal and abnormal EEG"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 18, "seconds": 10, "rate": 128, "seed": 3})

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.eeg.tuh import write_tuab

        write_tuab(out, **config.model_dump(by_alias=True))


class Tuev(TuhCohort):
    """Events in recordings."""

    title = "TUEV: the TUH corpus of EEG events"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 12, "seconds": 24, "rate": 128, "seed": 3})

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.eeg.tuh import write_tuev

        write_tuev(out, **config.model_dump(by_alias=True))
