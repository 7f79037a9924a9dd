"""The phase of training in which the better of two texts becomes likelier than the worse one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgraft.benchmarks.texts.preferences import (
    PREFERENCES,
    dpo_loss,
    log_probability,
    made_pairs,
    stored_pairs,
)
from medgraft.benchmarks.texts.stored import truths_of
from medgraft.errors import ConfigError, DataError
from medgraft.language_model import LanguageModel, Prompts
from medgraft.task import TaskData
from medgraft.task.text_options import CounterMeasures

if TYPE_CHECKING:
    from medgraft.benchmarks.texts.trl_losses import TrlLoss

AT_ONCE = 16
"""Samples whose pairs run in one batch before the phase begins."""


def trl_loss(name: str, beta: float) -> TrlLoss:
    """A loss of TRL's trainer.

    Raises:
        ConfigError: TRL is not installed.
    """
    try:
        from medgraft.benchmarks.texts.trl_losses import TrlLoss
    except ImportError as error:
        raise ConfigError(
            f"preference_loss={name} needs trl ({error.name} is not installed): pip install 'medgraft[preferences]', "
            "or take preference_loss=dpo"
        ) from error
    return TrlLoss(name, beta)


class PreferenceTuning:
    """Pairs of texts and the loss of a batch of them, by direct preference optimisation.

    Pairs are those of the data's column ``preferences``, people's feedback; where there is none, each is made of a
    sample's right text and a fault. The model that tuning is held to is the one that was trained before.

    Args:
        data: The task's data.
        references: Right text of each sample.
        measures: The loss, how strongly the model is held, and the weight of the better texts' own loss beside the
            comparison, as by Pang et al., "Iterative Reasoning Preference Optimization", NeurIPS 2024 (arXiv
            2404.19733), equation 1.
    """

    def __init__(self, data: TaskData, references: list[str], measures: CounterMeasures) -> None:
        self.data, self.references = data, references
        self.beta, self.chosen_weight = measures.beta, measures.chosen_weight
        self.name, self._trl = measures.preference_loss, None
        self.begun = False
        self.pairs: dict[int, list[tuple[str, str]]] = {}
        self._before: dict[tuple[int, int], tuple[float, float]] = {}
        self._turns: Counter[int] = Counter()

    def find_pairs(self, index: np.ndarray) -> None:
        """Finds the pairs of training samples ``index``, ``int64 [n]``.

        Raises:
            DataError: There is none.
            ConfigError: The loss is one of TRL, which is not installed.
        """
        if self.name != "dpo":
            self._trl = trl_loss(self.name, self.beta)
        if (column := self.data.columns.get(PREFERENCES)) is not None:
            self.pairs = stored_pairs(column, index)
            what = "the feedback has no row of a training sample"
        else:
            truths = dict(zip(map(int, index), truths_of(self.data, self.references, index), strict=True))
            self.pairs = made_pairs(self.references, truths, index)
            what = "no training text states a finding, so no worse one can be made of any"
        if not self.pairs:
            raise DataError(f"{what}; leave out preferences=")
        self.begun = True

    def batches(self, index: np.ndarray) -> Iterator[np.ndarray]:
        """Those of the samples ``[n]`` that have pairs, a few at once."""
        having = np.array([i for i in index if int(i) in self.pairs], np.int64)
        for start in range(0, len(having), AT_ONCE):
            yield having[start : start + AT_ONCE]

    def texts(self, index: np.ndarray) -> list[str]:
        """All texts of the pairs of some samples ``[n]``."""
        return [text for i in index for pair in self.pairs.get(int(i), ()) for text in pair] or [""]

    def note(self, model: LanguageModel, prompts: Prompts, index: np.ndarray) -> None:
        """Notes how likely the texts of some samples are now.

        Args:
            model: As it was trained so far.
            prompts: Of the samples.
            index: Which ones, ``int64 [B]``.
        """
        for turn in range(max(len(self.pairs[int(i)]) for i in index)):
            chosen, rejected = self._turn(index, dict.fromkeys(map(int, index), turn))
            both = [log_probability(model, prompts, texts).tolist() for texts in (chosen, rejected)]
            for i, *values in zip(map(int, index), *both, strict=True):
                self._before[i, turn % len(self.pairs[i])] = (values[0], values[1])

    def _turn(self, index: np.ndarray, turns: dict[int, int] | Counter[int]) -> tuple[list[str], list[str]]:
        """Better and worse text of each sample; of one without pairs twice the right one."""
        own = [[(self.references[i], self.references[i])] for i in index]
        pairs = [self.pairs.get(int(i), each) for i, each in zip(index, own, strict=True)]
        picked = [each[turns[int(i)] % len(each)] for i, each in zip(index, pairs, strict=True)]
        return [chosen for chosen, _ in picked], [rejected for _, rejected in picked]

    def loss(self, model: LanguageModel, prompts: Prompts, index: np.ndarray) -> Tensor:
        """Mean over samples of the loss of one of their pairs each, in turn; of a sample without, of its right text.

        Args:
            model: In training.
            prompts: Of the samples.
            index: Which ones, ``int64 [B]``.
        """
        chosen, rejected = self._turn(index, self._turns)
        ids, real = model.answers(chosen)
        mean = model.answer_loss(prompts, (ids, real))
        paired = torch.tensor([int(i) in self.pairs for i in index], device=mean.device)
        if not paired.any():
            return mean.mean()
        keys = [(int(i), self._turns[int(i)] % len(self.pairs.get(int(i), "x"))) for i in index]
        before = mean.new_tensor([self._before.get(key, (0.0, 0.0)) for key in keys])
        self._turns.update(int(i) for i in index)
        if self._trl is not None:
            compared = self._trl.of(model, prompts, (chosen, rejected), before, paired)
        else:
            worse = log_probability(model, prompts, rejected)
            compared = dpo_loss(-mean * real.sum(dim=1), worse, (before[:, 0], before[:, 1]), self.beta)
        return torch.where(paired, compared + self.chosen_weight * mean, mean).mean()
