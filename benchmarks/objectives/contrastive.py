"""``contrastive``: pairs of two modalities, such as image and text, and zero-shot prediction by class prompts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapters.kernels.info_nce.op import label_info_nce
from medgraft.benchmarks.metrics.calibration import OF_PROBABILITIES
from medgraft.benchmarks.objectives.classes import ClassObjective
from medgraft.benchmarks.objectives.shared_space import embedding, joining
from medgraft.encoder import TextEncoder
from medgraft.errors import DataError
from medgraft.fast.short_texts import cut_texts
from medgraft.grafting import Grafted
from medgraft.losses import gathered_info_nce
from medgraft.metric import Predictions
from medgraft.modality import TEXT, is_text
from medgraft.objective import Batch, Outputs, default_pair
from medgraft.ops import backends
from medgraft.task import TaskData
from medgraft.world import World


class ContrastiveObjective(ClassObjective):
    """Label-guided InfoNCE on pairs; zero-shot prediction by class prompts.

    A class's embedding is the mean of its prompts' unit embeddings, normalised again (Radford et al., 2021), unless an
    adapter joins prompts in a way of its own. The modality of the pair that is no text is compared with them.

    Args:
        data: The task's data, with prompts.
        inputs: Modalities of a sample; text is among them.
    """

    needs = frozenset({"prompts", "shared space"})
    compares = True
    gathers = True
    lowest_in_training = -1

    @classmethod
    def takes_classes(cls, data: TaskData) -> bool:
        """Classes or labels, as the targets are."""
        return data.targets.ndim == 1

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`."""
        if data.prompts is None:
            raise DataError("a contrastive task needs prompts for its classes")
        if len(data.prompts) != len(data.classes) or not all(data.prompts):
            unspoken = [name for name, prompts in zip(data.classes, data.prompts, strict=False) if not prompts]
            unspoken += data.classes[len(data.prompts) :]
            raise DataError(f"no prompt for {', '.join(unspoken) or 'some class'}; every class needs one")
        if cls.compares and TEXT not in inputs:
            raise DataError(f"class prompts need text, and the task's inputs are {' and '.join(inputs)}; add text")
        if all(is_text(name) for name in inputs):
            raise DataError("class prompts are compared with an image or the like, and the task reads text alone")
        super().check(data, inputs)

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        assert data.prompts is not None
        self.pair = self.pair or (default_pair(inputs)[0], TEXT)
        self.text = TEXT
        self.prompts = data.prompts
        self.multilabel = data.targets.ndim == 2
        self.activation = "(1 + cosine) / 2" if self.multilabel else "softmax"

    @property
    def visual(self) -> str:
        """The modality that class prompts are compared with: the first of the pair that is no text."""
        return next(name for name in self.pair if name != self.text)

    @classmethod
    def judged_by(cls, p: Predictions) -> tuple[str, ...]:
        """As of all classes and labels, but that the scores of labels are cosines and no probabilities."""
        named = super().judged_by(p)
        return named if p.targets.ndim == 1 else tuple(name for name in named if name not in OF_PROBABILITIES)

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Both directions, same-label pairs left out of the denominator, over the pairs of all processes; a scalar."""
        towers = grafted.towers()
        first, second = (embedding(towers[name], outputs[name]) for name in self.pair)
        if World().size > 1:
            return gathered_info_nce(first, second, grafted.logit_scale(), batch.labels)
        return label_info_nce(first, second, grafted.logit_scale(), batch.labels, backend=backends.current())

    def context(self, grafted: Grafted) -> Tensor | None:
        """Class embeddings ``[K, E]``."""
        tower = grafted.towers()[self.text]
        assert isinstance(tower, TextEncoder)
        rows = []
        for prompts in self.prompts:
            with joining(grafted, len(prompts)):
                ids = tower.tokenize(prompts).to(tower.device)
                each = embedding(tower, grafted.encode(cut_texts(grafted, {self.text: ids}))[self.text])
            rows.append(F.normalize(each.mean(dim=0), dim=-1))
        return torch.stack(rows)

    def decision(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Similarities ``[B, K]`` to the class embeddings: scaled, of classes; the cosine itself, of labels."""
        similarity = embedding(grafted.towers()[self.visual], outputs[self.visual]) @ context.T
        return similarity if self.multilabel else grafted.logit_scale() * similarity

    def activated(self, decision: Tensor) -> Tensor:
        """The softmax of scaled similarities ``[B, K]``.

        For labels that do not exclude each other it is the cosine moved from -1..1 to 0..1: a softmax would let one
        label's score depend on the others'.
        """
        return (1 + decision) / 2 if self.multilabel else torch.softmax(decision, dim=-1)

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Scores ``[B, K]`` from 0 to 1; see :meth:`activated`."""
        return self.activated(self.decision(grafted, outputs, context))
