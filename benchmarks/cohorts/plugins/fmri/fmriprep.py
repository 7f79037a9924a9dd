"""Resting-state runs as fMRIPrep writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.plugins.fmri.abide import RestConfig, RestPhantom
from medgraft.errors import DataError


class Fmriprep(RestPhantom):
    """Any study with a table of participants whose runs went through fMRIPrep."""

    title = "fMRIPrep's derivatives: resting-state fMRI and a table of participants"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"subjects": 24, "sites": 3, "runs": 2, "volumes": 40, "size": 12, "seed": 3}
    )

    class Config(RestConfig):
        """Options of the phantom.

        Attributes:
            runs: Runs of each person.
        """

        runs: int = Field(1, ge=1, le=10, alias="n_runs")

    layout = "fmriprep"

    def revision(self, root: Path) -> str:
        """Digest of the table of participants, which may lie above the derivatives, and of the runs.

        Raises:
            DataError: There is no such table, or no run.
        """
        from medgraft.benchmarks.cohorts.fmri.fmriprep import participants_file
        from medgraft.benchmarks.cohorts.places import data_files
        from medgraft.files.content import file_facts

        place, files = participants_file(Path(root)), data_files(Path(root))
        if place is None or not files:
            raise DataError(f"{root} has no participants.tsv, in it or above it, or no run")
        return file_facts([str(place), *(str(Path(root) / name) for name in files)], Path(root))[:16]
