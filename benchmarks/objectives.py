"""What a task optimises and how it predicts: classes, labels, or pairs of image and text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapters.kernels import backends
from medgraft.adapters.kernels.info_nce import label_info_nce
from medgraft.benchmarks.dense import DENSE, DetectionObjective, SegmentationObjective
from medgraft.benchmarks.logistic import Problem
from medgraft.encoder import Encoder, TextEncoder
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.task import TaskData

Outputs = Mapping[str, Features]


class Head(nn.Module):
    """Standardises the embeddings as they were before training, then one linear map, zero at the start.

    The statistics are fitted once on training samples through the fresh graft and stay fixed, so that features of any
    scale (grey values, unit vectors, layer-normed tokens) meet the same learning rate.

    Args:
        dim: Width of the joined embeddings.
        outputs: Classes or labels.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.linear = nn.Linear(dim, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def fit_scale(self, embeddings: Tensor) -> None:
        """Takes mean and deviation from ``[n, dim]``.

        A deviation counts as a hundredth of their root mean square at least: a column that barely varies in these
        samples, such as a voxel at the brain's edge, would otherwise outweigh all others in the next one.
        """
        self.mean.copy_(embeddings.mean(dim=0))
        deviation = embeddings.std(dim=0)
        floor = 0.01 * deviation.square().mean().sqrt()
        self.deviation.copy_(deviation.clamp(min=floor) if floor > 1e-6 else torch.ones_like(deviation))

    def forward(self, embeddings: Tensor) -> Tensor:
        """``[B, dim]`` -> logits ``[B, outputs]``."""
        return self.linear((embeddings - self.mean) / self.deviation)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight ``float64 [outputs, dim]`` and bias ``[outputs]`` of the same map on embeddings as they are."""
        parts = (self.linear.weight, self.linear.bias, self.mean, self.deviation)
        weight, bias, mean, deviation = (part.detach().double().cpu().numpy() for part in parts)
        return weight / deviation, bias - (weight / deviation) @ mean

    @torch.no_grad()
    def take(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """Becomes the linear map of weight ``[outputs, dim]`` and bias ``[outputs]`` on embeddings as they are.

        The statistics stay; the map is folded into :attr:`linear` behind them.
        """
        mean, deviation = (part.double().cpu().numpy() for part in (self.mean, self.deviation))
        self.linear.weight.copy_(torch.from_numpy(weight * deviation))
        self.linear.bias.copy_(torch.from_numpy(bias + weight @ mean))


def joined(outputs: Outputs, inputs: tuple[str, ...]) -> Tensor:
    """Pooled embeddings of the modalities side by side, ``[B, sum of widths]``."""
    return torch.cat([outputs[name].pooled.float() for name in inputs], dim=-1)


def embedding(tower: Encoder, features: Features) -> Tensor:
    """Unit embedding ``[B, E]`` in the space that the modalities share."""
    if features.embedding is not None:
        return features.embedding.float()
    with torch.autocast(features.pooled.device.type, enabled=False):  # class prompts are embedded under autocast
        return F.normalize(tower.project(features.pooled.to(tower.dtype)).float(), dim=-1)


@dataclass
class Batch:
    """Targets of a batch; its inputs travel beside it.

    Attributes:
        targets: ``[B]`` or ``[B, L]``.
        mask: ``[B, L]`` or ``None``.
        labels: ``[B, L]`` or ``None``.
        index: ``[B]`` numbers of the samples, by which a dense objective asks for their regions.
    """

    targets: Tensor
    mask: Tensor | None = None
    labels: Tensor | None = None
    index: np.ndarray | None = None


class ClassificationObjective:
    """A linear head with cross-entropy over classes, or binary cross-entropy over labels.

    Args:
        data: The task's data.
        inputs: Modalities in the order in which the head reads them.
        multilabel: Independent labels in place of exclusive classes.

    Attributes:
        reads_tokens: Whether it reads tokens of the features beside ``pooled``.
    """

    reads_tokens = False

    def __init__(self, data: TaskData, inputs: tuple[str, ...], multilabel: bool) -> None:
        self.inputs, self.multilabel = inputs, multilabel
        self.outputs = len(data.classes)

    def make_head(self, sample: Outputs) -> Head:
        """A head that fits the features of ``sample``, scaled by them."""
        embeddings = joined(sample, self.inputs)
        head = Head(embeddings.shape[-1], self.outputs)
        head.fit_scale(embeddings.detach())
        return head

    def logits(self, grafted: Grafted, outputs: Outputs) -> Tensor:
        """``[B, classes]``."""
        assert grafted.head is not None
        return grafted.head(joined(outputs, self.inputs))

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean loss over what counts."""
        logits = self.logits(grafted, outputs)
        if not self.multilabel:
            return F.cross_entropy(logits, batch.targets)
        losses = F.binary_cross_entropy_with_logits(logits, batch.targets.float(), reduction="none")
        if batch.mask is None:
            return losses.mean()
        return (losses * batch.mask).sum() / batch.mask.sum().clamp(min=1)

    def problems(self, data: TaskData, index: np.ndarray) -> list[Problem]:
        """The regressions that the loss is made of, on the samples ``index``; see :mod:`logistic`."""
        targets = data.targets[index].astype(np.int64)
        if not self.multilabel:
            return [Problem("", tuple(range(self.outputs)), np.ones(len(index), bool), targets)]
        counts = np.ones(targets.shape, bool) if data.mask is None else data.mask[index].astype(bool)
        each = self.outputs // len(data.classes)  # outputs of a label
        return [
            Problem(name, tuple(range(k * each, (k + 1) * each)), counts[:, k], targets[:, k])
            for k, name in enumerate(data.classes)
        ]

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Probabilities ``[B, classes]``."""
        logits = self.logits(grafted, outputs)
        return torch.sigmoid(logits) if self.multilabel else torch.softmax(logits, dim=-1)

    def context(self, grafted: Grafted) -> None:
        """Nothing is shared between batches of a prediction."""
        return None


class UncertainObjective(ClassificationObjective):
    """Labels with a third class, *uncertain*: a softmax over absent, present and uncertain for each label.

    U-MultiClass in Irvin et al., "CheXpert", AAAI 2019: the prediction is the softmax over absent and present only.

    Args:
        data: The task's data, targets in {0, 1, 2}.
        inputs: Modalities in the order in which the head reads them.
    """

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs, multilabel=True)
        self.outputs = 3 * len(data.classes)

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross-entropy over the labels that count."""
        logits = self.logits(grafted, outputs).unflatten(-1, (-1, 3))
        losses = F.cross_entropy(logits.transpose(1, 2), batch.targets.long(), reduction="none")
        if batch.mask is None:
            return losses.mean()
        return (losses * batch.mask).sum() / batch.mask.sum().clamp(min=1)

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """p(present) / (p(absent) + p(present)), ``[B, L]``."""
        logits = self.logits(grafted, outputs).unflatten(-1, (-1, 3))
        return torch.sigmoid(logits[..., 1] - logits[..., 0])


class ContrastiveObjective:
    """Label-guided InfoNCE on pairs; zero-shot prediction by class prompts.

    A class's embedding is the mean of its prompts' unit embeddings, normalised again (Radford et al., 2021), unless an
    adapter joins prompts in a way of its own.

    Args:
        data: The task's data, with prompts.
        inputs: The visual modality, then ``text``.

    Attributes:
        reads_tokens: Whether it reads tokens of the features beside ``pooled``.
    """

    reads_tokens = False

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        if data.prompts is None:
            raise DataError("a contrastive task needs prompts for its classes")
        if len(data.prompts) != len(data.classes) or not all(data.prompts):
            unspoken = [name for name, own in zip(data.classes, data.prompts, strict=False) if not own]
            unspoken += data.classes[len(data.prompts) :]
            raise DataError(f"no prompt for {', '.join(unspoken) or 'some class'}; every class needs one")
        self.visual, self.text = inputs
        self.prompts = data.prompts
        self.multilabel = data.targets.ndim == 2

    def make_head(self, sample: Outputs) -> None:
        """No head: prompts take its place."""
        return None

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Both directions, same-label pairs left out of the denominator."""
        towers = grafted.towers()
        image, text = (embedding(towers[name], outputs[name]) for name in (self.visual, self.text))
        return label_info_nce(image, text, grafted.logit_scale(), batch.labels, backend=backends.current())

    def context(self, grafted: Grafted) -> Tensor | None:
        """Class embeddings ``[K, E]``."""
        tower = grafted.towers()[self.text]
        assert isinstance(tower, TextEncoder)
        rows = []
        for prompts in self.prompts:
            with joining(grafted, len(prompts)):
                ids = tower.tokenize(prompts).to(tower.device)
                each = embedding(tower, grafted.encode({self.text: ids})[self.text])
            rows.append(F.normalize(each.mean(dim=0), dim=-1))
        return torch.stack(rows)

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Scores ``[B, K]``: softmax of scaled similarities to the class embeddings.

        For labels that do not exclude each other it is the cosine itself, moved from -1..1 to 0..1: a softmax would let
        one label's score depend on the others'.
        """
        similarity = embedding(grafted.towers()[self.visual], outputs[self.visual]) @ context.T
        return (1 + similarity) / 2 if self.multilabel else torch.softmax(grafted.logit_scale() * similarity, dim=-1)


def joining(grafted: Grafted, count: int) -> AbstractContextManager[None]:
    """The context in which an adapter joins a class's prompts itself, if one does."""
    found = (adapter.joining_prompts(count) for _, adapter in grafted.named_adapters())
    return next((each for each in found if each is not None), nullcontext())


AnyObjective = ClassificationObjective | ContrastiveObjective | SegmentationObjective | DetectionObjective


def make_objective(kind: str, data: TaskData, inputs: tuple[str, ...]) -> AnyObjective:
    """The objective of a task by its name."""
    if kind == "contrastive":
        return ContrastiveObjective(data, inputs)
    if kind == "prompted":
        from medgraft.benchmarks.prompted import PromptedObjective  # it is made of the contrastive one

        return PromptedObjective(data, inputs)
    if kind in DENSE:
        return DENSE[kind](data, inputs)
    if data.answers:
        from medgraft.benchmarks.answered import AnsweredObjective  # it is made of the one with classes

        return AnsweredObjective(data, inputs)
    if data.uncertain_class:
        return UncertainObjective(data, inputs)
    return ClassificationObjective(data, inputs, multilabel=kind == "multilabel")
