"""What a result says of its probabilities: reliability, temperatures and conformal sets."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.calibration.conformal import SetRule
from medgraft.benchmarks.calibration.reliability import Reliability
from medgraft.benchmarks.metrics.bootstrap import Estimate


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scaling(_Model):
    """Temperatures, and what they changed.

    Attributes:
        temperatures: One for classes, or one for each label; ``None`` where none is best and nothing was changed.
        loss: Mean negative log-likelihood of the validation samples before and after; ``None`` where no label counts.
        before: Metrics of probabilities, of test samples before; those after it are the result's.
    """

    temperatures: tuple[float | None, ...]
    loss: tuple[float, float] | None = None
    before: dict[str, Estimate] = Field(default_factory=dict)


class Sets(_Model):
    """Conformal sets.

    Attributes:
        rule: How they are made.
        numbers: Coverage and size on test samples, see :func:`.conformal.set_statistics`.
    """

    rule: SetRule
    numbers: dict[str, Estimate]


class Calibration(_Model):
    """All of it.

    Attributes:
        reliability: Curves of the test samples.
        scaling: Of the temperatures; ``None`` where none was asked for.
        sets: Of the conformal sets; ``None`` without validation samples.
    """

    reliability: Reliability
    scaling: Scaling | None = None
    sets: Sets | None = None
