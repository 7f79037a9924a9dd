"""What the cohorts of questions share: the options of their phantoms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from medgraft.benchmarks.cohorts.plugins.chest import ChestConfig

SMALL: Mapping[str, Any] = MappingProxyType({"images": 16, "per_image": 4, "seed": 3, "size": 64})
"""Such a phantom that is written in seconds."""


class AskedConfig(ChestConfig):
    """Options of the phantoms of questions.

    Attributes:
        images: Films, each of a person of its own.
        per_image: Questions about each film at most.
        test_share: Share of the films in the test split.
    """

    images: int = Field(300, ge=10, alias="n_images")
    per_image: int = Field(6, ge=1, le=40)
    test_share: float = Field(0.2, gt=0, lt=1)
