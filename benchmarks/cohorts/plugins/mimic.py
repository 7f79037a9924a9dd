"""MIMIC: MIMIC-CXR-JPG with its reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.plugins.chest import ChestCohort, ChestConfig


class Mimic(ChestCohort):
    """MIMIC-CXR-JPG with its reports."""

    layout = "mimic"
    title = "MIMIC-CXR: films, labels and reports"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"images": 60, "seed": 3, "size": 64})

    class Config(ChestConfig):
        """Options of the phantom.

        Attributes:
            images: Images.
            test_share: Share of the films in the test split.
        """

        images: int = Field(400, ge=4, alias="n_images")
        test_share: float = Field(0.2, gt=0, lt=1)

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.mimic import write_mimic

        return write_mimic
