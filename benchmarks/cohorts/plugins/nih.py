"""NIH: ChestX-ray14 with the lists of its official split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from medgraft.benchmarks.cohorts.plugins.chest import ChestCohort, ChestConfig


class Nih(ChestCohort):
    """ChestX-ray14 with the lists of its official split."""

    layout = "nih"
    title = "NIH ChestX-ray14: films and fourteen labels"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"images": 60, "pairs": 24, "seed": 3, "size": 64})

    class Config(ChestConfig):
        """Options of the phantom.

        Attributes:
            images: Images.
            pairs: MIMIC-CXR pairs beside the images, to train on.
            test_share: Share of the films in the test list.
        """

        images: int = Field(400, ge=4, alias="n_images")
        pairs: int = Field(0, ge=0, alias="n_pairs")
        test_share: float = Field(0.25, gt=0, lt=1)

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.layouts import write_nih

        return write_nih
