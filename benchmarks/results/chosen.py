"""What a result says of how its row was tuned and scaled, by which rows are compared fairly."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Dimension(_Model):
    """One option that a search varies.

    Attributes:
        name: As ``--set`` has it: ``lora.rank``, ``train.lr``.
        values: What may be chosen; the untuned row's is among them.
        default: The untuned row's value.
    """

    name: str
    values: list[Any]
    default: Any


class Trial(_Model):
    """One trained and validated choice of values.

    Attributes:
        number: From 0, which is the untuned row's choice.
        values: Dimension -> value.
        status: Of the cell that was trained; ``success`` also where the metric is undefined.
        score: Primary metric on the validation split; ``None`` where it is undefined or the trial failed.
        seconds: That it took, from start to end of its process.
        message: Why it failed.
        fits: Whether the adapter fits the encoder with these values; a trial without is none of those asked for.
    """

    number: int
    values: dict[str, Any]
    status: Literal["success", "error", "oom", "timeout", "killed"]
    score: float | None = None
    seconds: float = 0.0
    message: str = ""
    fits: bool = True


class Tuning(_Model):
    """How a row was tuned; the same for all its seeds.

    Attributes:
        asked: Trials that were asked for.
        trials: Those that ran, in order; fewer than asked for where the space has fewer points.
        space: What was searched.
        metric: That trials were compared by, on the validation split.
        higher_is_better: Whether more of it is better.
        chosen: Dimension -> value of the best trial.
        default_score: Of the untuned row's values.
        best_score: Of the chosen values; ``None`` where no trial had a score, and the defaults stay.
        seconds: That all trials took together.
        seed: That all trials trained with.
        sampler: Library, version and seed of what proposed the trials.
        folder: Of the trials' files, relative to the results folder.
    """

    asked: int
    trials: list[Trial]
    space: list[Dimension]
    metric: str
    higher_is_better: bool
    chosen: dict[str, Any]
    default_score: float | None
    best_score: float | None
    seconds: float
    seed: int
    sampler: str
    folder: str = ""

    @property
    def counted(self) -> int:
        """Trials whose values fit."""
        return sum(trial.fits for trial in self.trials)


class Sizing(_Model):
    """How large a row is beside the parameters that it was allowed.

    Attributes:
        budget: Trainable parameters that were allowed.
        reached: Those that the adapter trains, head left out.
        share: ``reached / budget``.
        knobs: Option -> value that the size was set by; empty for an adapter without a size knob.
    """

    budget: int
    reached: int
    share: float
    knobs: dict[str, int]
