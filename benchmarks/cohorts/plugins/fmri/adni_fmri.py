"""ADNI's resting-state runs through fMRIPrep, with ADNIMERGE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from medgraft.benchmarks.cohorts.files.made_up import made_up_paths
from medgraft.benchmarks.cohorts.plugins.fmri.abide import RestConfig, RestPhantom
from medgraft.errors import DataError


class AdniFmri(RestPhantom):
    """Runs of people with Alzheimer's disease and of controls."""

    title = "ADNI: resting-state fMRI through fMRIPrep, with ADNIMERGE"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"subjects": 36, "sites": 3, "volumes": 12, "size": 16, "seed": 3}
    )
    Config = RestConfig
    layout = "adni"

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """See :func:`medgraft.benchmarks.cohorts.files.made_up.made_up_paths`."""
        return made_up_paths("adni", files)

    def revision(self, root: Path) -> str:
        """Digest of ADNIMERGE and of the runs.

        Raises:
            DataError: There is no such table.
        """
        from medgraft.benchmarks.cohorts.adni.merge import find_merge
        from medgraft.benchmarks.cohorts.places import data_files
        from medgraft.benchmarks.cohorts.tables.reading import ReadReport
        from medgraft.files.content import file_facts

        place, root = find_merge(Path(root), ReadReport()), Path(root)
        if place is None:
            raise DataError(f"{root} has no ADNIMERGE table, which has the diagnoses; put it there")
        return file_facts([str(place), *(str(root / name) for name in data_files(root))], root)[:16]
