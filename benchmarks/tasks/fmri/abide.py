"""Autism or control, sex and age from the resting-state runs of ABIDE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from medgraft.benchmarks.cohorts.fmri.abide import read_abide
from medgraft.benchmarks.cohorts.fmri.table import RestTable
from medgraft.benchmarks.tasks.fmri.resting import CONTRASTS, RestAge, RestDiagnosis
from medgraft.task import Variant


class Abide(RestDiagnosis):
    """Autism or control; the sex as a variant."""

    cohort = "abide"
    identifiers = "abide"
    diagnoses = ("control", "autism")
    variants: ClassVar[Mapping[str, Variant]] = {"sex": Variant(defaults={"target": "sex"}), **CONTRASTS}

    def read(self, root: Path) -> RestTable:
        """Reads a copy as nilearn lays it out."""
        return read_abide(root)


class AbideAge(RestAge):
    """Age in years."""

    cohort = "abide"
    identifiers = "abide"

    def read(self, root: Path) -> RestTable:
        """Reads a copy as nilearn lays it out."""
        return read_abide(root)
