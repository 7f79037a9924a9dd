"""CheXpert: tables, films, CheXpert Plus's reports and the five-class set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.plugins.chest import ChestCohort, ChestConfig


class Chexpert(ChestCohort):
    """Tables, films, CheXpert Plus's reports and the five-class set."""

    layout = "chexpert"
    title = "CheXpert: films, fourteen labels and reports"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"train": 60, "valid": 12, "test": 24, "per_class": 4, "seed": 3, "size": 64}
    )

    class Config(ChestConfig):
        """Options of the phantom.

        Attributes:
            train: Training images.
            valid: Validation images.
            test: Test images.
            per_class: Images per class of the 5x200 table.
        """

        train: int = Field(1500, ge=1, alias="n_train")
        valid: int = Field(150, ge=1, alias="n_valid")
        test: int = Field(450, ge=1, alias="n_test")
        per_class: int = Field(60, ge=0, alias="n_5x200_per_class")

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.cohort import write_cohort

        return write_cohort


class ChexpertNoGap(Chexpert):
    """The hospital that the embedded encoder was trained on, without a gap to it."""

    title = "CheXpert's phantom without a gap between its hospital and that of pre-training"

    class Config(Chexpert.Config):
        """Options of the phantom."""

        setting: str = "pretrain"
