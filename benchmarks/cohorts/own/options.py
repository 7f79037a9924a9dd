"""What a user may say of data of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from medgraft.benchmarks.cohorts.own.columns import AUTO
from medgraft.options import Seed
from medgraft.task import TaskConfig

Input = Literal["auto", "image", "volume", "signal", "text"]


class OwnConfig(TaskConfig):
    """What a user may say of data of their own; ``auto`` leaves it to the data.

    Attributes:
        objective: What is learnt.
        inputs: What a sample is: an image, a volume, a signal, a text, or one of the first three and a text.
        colour: ``rgb`` reads images in colour, where the default takes their brightness.
        shared: What becomes of a subject, or a file, that the data's own splits name twice.
        subject_pattern: Regular expression; what it finds in the name of a file (its first group, if it has one) is the
            subject, where no column says it: ``"sub-[0-9]+"``.
        test_fraction: Share of the subjects in the test split, where the data have no splits.
        val_fraction: Share of the subjects in the validation split.
        split_seed: Defines the split, for all seeds of a sweep.
    """

    later: ClassVar[Mapping[str, Any]] = MappingProxyType({"colour": "grey"})

    objective: Literal["auto", "multiclass", "multilabel", "regression", "survival"] = AUTO
    inputs: tuple[Input, ...] = Field((AUTO,), min_length=1, max_length=2)
    colour: Literal["grey", "rgb"] = "grey"
    shared: Literal["refuse", "drop"] = "refuse"
    subject_pattern: str = ""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    val_fraction: float = Field(0.1, gt=0, lt=1)
    split_seed: Seed = 0

    @field_validator("subject_pattern")
    @classmethod
    def _is_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _some_train(self) -> OwnConfig:
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError("test_fraction and val_fraction leave no subject for training")
        return self
