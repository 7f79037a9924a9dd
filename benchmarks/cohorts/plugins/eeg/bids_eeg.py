"""BIDS folders of EEG such as OpenNeuro's ds004504, with a group for each participant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.cohort import Cohort, CohortConfig


class BidsEeg(Cohort):
    """Recordings at rest, and Alzheimer's disease, frontotemporal dementia or neither."""

    title = "BIDS-EEG with groups, as OpenNeuro's ds004504: AD, FTD, CN"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"subjects": 12, "seconds": 12, "rate": 128, "seed": 3})

    class Config(CohortConfig):
        """Options of the phantom; an option's alias is the writer's parameter.

        Attributes:
            subjects: People, each with one recording.
            seconds: Length of a recording.
            rate: Samples per second; 500 in ds004504.
        """

        subjects: int = Field(88, ge=3, le=999, alias="n_subjects")
        seconds: float = Field(60.0, ge=4, le=3600)
        rate: float = Field(200.0, ge=100, le=2000)

    @classmethod
    def generator_version(cls) -> str:
        """That of the phantom."""
        from medgraft.benchmarks.phantoms.eeg.dementia import GENERATOR_VERSION

        return GENERATOR_VERSION

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths("bids_eeg", files)

    def write_phantom(self, out: Path, config: CohortConfig, jobs: int) -> None:
        """See :class:`medgraft.cohort.Cohort`."""
        from medgraft.benchmarks.phantoms.eeg.dementia import write_dementia

        write_dementia(out, **config.model_dump(by_alias=True))

    def revision(self, root: Path) -> str:
        """Digest of participants, recordings and what lies beside them.

        Raises:
            DataError: There is no ``participants.tsv``.
        """
        from medgraft.benchmarks.cohorts.eeg.revision import revision_of

        return revision_of(Path(root), ("participants.tsv",))
