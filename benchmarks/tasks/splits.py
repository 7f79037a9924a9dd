"""Options of a split by subject, for tasks whose data name none."""

from __future__ import annotations

from pydantic import Field, model_validator

from medgraft.options import Seed
from medgraft.task import TaskConfig


class SplitConfig(TaskConfig):
    """Shares of the subjects.

    Attributes:
        test_fraction: Share of subjects in the test split.
        val_fraction: Share of subjects in the validation split.
        split_seed: Defines the split, for all seeds of a sweep.
    """

    test_fraction: float = Field(0.3, gt=0, lt=1)
    val_fraction: float = Field(0.1, gt=0, lt=1)
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _some_train(self) -> SplitConfig:
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError("test_fraction and val_fraction leave no subject for training")
        return self

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the subjects in each split."""
        train = 1 - self.test_fraction - self.val_fraction
        return {"train": train, "val": self.val_fraction, "test": self.test_fraction}
