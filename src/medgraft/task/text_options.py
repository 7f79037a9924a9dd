"""What keeps generated texts from stating what nobody saw, as options of every task that has texts generated."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from medgraft.options import Options
from medgraft.task import TaskConfig

PreferenceLoss = Literal[
    "dpo", "sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"
]
"""Losses of pairs of texts that ask for no further number."""


class CounterMeasures(Options):
    """Counter-measures, all of them off unless asked for.

    Attributes:
        retrieval: Reports of so many similar training samples stand in front of each prompt; 0 for none.
        supported: What becomes of a sentence that asserts a finding which a linear head on the frozen features does not
            support: it stays (``keep``), is left out (``drop``), or says the opposite (``negate``).
        abstain: Largest share of wrong statements on validation samples; what is less sure than that takes becomes "not
            assessed". 0 for no abstention.
        confidence: What a statement's confidence is: the ``head``'s probability, or the ``likelihood`` of its sentence.
        preferences: Share of the training steps, the last ones, that prefer the better of two texts; 0 for none.
        preference_loss: How two texts are compared: ``dpo``, or a loss of TRL's ``DPOTrainer`` by its name there, of
            which ``sigmoid`` is the same as ``dpo``.
        beta: How strongly preferences are held to what was learnt before them.
        chosen_weight: Weight of the better texts' own loss beside the comparison, which alone may make both texts of a
            pair less likely; 0 for the comparison alone.
        feedback: Table of preferred texts, a CSV file in the folder of the data; without one, pairs are made of the
            right texts.
    """

    retrieval: int = Field(0, ge=0, le=32)
    supported: Literal["keep", "drop", "negate"] = "keep"
    abstain: float = Field(0.0, ge=0, lt=1)
    confidence: Literal["head", "likelihood"] = "head"
    preferences: float = Field(0.0, ge=0, lt=1)
    preference_loss: PreferenceLoss = "dpo"
    beta: float = Field(0.1, gt=0)
    chosen_weight: float = Field(0.0, ge=0)
    feedback: str = ""

    @property
    def need_features(self) -> bool:
        """Whether any of them reads the frozen features."""
        return self.retrieval > 0 or self.need_head

    @property
    def need_head(self) -> bool:
        """Whether any of them asks the linear head."""
        return self.supported != "keep" or (self.abstain > 0 and self.confidence == "head")

    @property
    def change_texts(self) -> bool:
        """Whether any of them changes what the language model wrote."""
        return self.supported != "keep" or self.abstain > 0


OFF: Mapping[str, Any] = MappingProxyType(CounterMeasures.model_validate({}).model_dump(mode="json"))
"""No counter-measure."""


class TextTaskConfig(TaskConfig, CounterMeasures):
    """Base of the options of tasks that have texts generated; a task's results say only the counter-measures in use."""

    later: ClassVar[Mapping[str, Any]] = OFF

    def countermeasures(self) -> dict[str, Any]:
        """What :attr:`medgraft.task.TaskData.countermeasures` is to be."""
        return {name: getattr(self, name) for name in CounterMeasures.model_fields}
