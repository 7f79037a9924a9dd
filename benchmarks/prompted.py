"""Classes by prompts, learnt from labelled images: cross-entropy over the similarities of image and class prompts.

The protocol of CoOp, CLIP-Adapter, Tip-Adapter and CLIP-LoRA. Class prompts are embedded in full precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.objectives import Batch, ContrastiveObjective, Outputs, embedding, joining
from medgraft.classes import ClassAdapter, class_adapters
from medgraft.encoder import TextEncoder
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.task import TaskData

RUN_AT_ONCE = 64
"""Training images that run in one batch where adapters meet them."""

IMAGES_AT_ONCE = 16
"""Images whose own class prompts are embedded in one batch."""


@dataclass(frozen=True)
class Spoken:
    """The prompts of all classes as a text batch.

    Attributes:
        batch: Token ids ``[R, L]``, or the features of a text tower that nothing trains.
        classes: Class of each row, ``[R]``.
        each: Prompts per class; 0 where classes differ in it.
    """

    batch: Tensor | Features
    classes: Tensor
    each: int


class PromptedObjective(ContrastiveObjective):
    """Cross-entropy over classes; scores are the softmax of the same logits.

    A class's embedding is the mean of its prompts' unit embeddings, normalised again, unless an adapter joins prompts,
    speaks of classes in prompts of its own, or embeds them anew for each image.

    Args:
        data: The task's data, with prompts and one class per training image.
        inputs: The visual modality.
    """

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, (inputs[0], "text"))
        self.names = tuple(name.replace("_", " ") for name in data.classes)
        self.targets = data.targets
        self._spoken: Spoken | None = None

    def introduce(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Shows the training images to adapters that learn classes; for a fresh graft.

        Args:
            grafted: The graft.
            run: Samples -> their features.
            index: Training samples.
        """
        if not (learners := _learners(grafted)):
            return
        grafted.eval()
        tower = grafted.towers()[self.visual]
        with torch.no_grad():
            parts = [
                embedding(tower, run(index[start : start + RUN_AT_ONCE])[self.visual])
                for start in range(0, len(index), RUN_AT_ONCE)
            ]
        images = torch.cat(parts)
        targets = torch.from_numpy(self.targets[index]).to(images.device)
        for adapter in learners:
            adapter.meet_classes(images, targets, len(self.names))

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self.logits(grafted, outputs, self.context(grafted)), batch.targets)

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Probabilities ``[B, K]``."""
        return torch.softmax(self.logits(grafted, outputs, context), dim=-1)

    def context(self, grafted: Grafted) -> Tensor | None:
        """Class embeddings ``[K, E]``; ``None`` where each image has its own."""
        if any(adapter.per_image for adapter in _learners(grafted)):
            return None
        return self._classes(grafted, None)[0]

    def logits(self, grafted: Grafted, outputs: Outputs, classes: Tensor | None) -> Tensor:
        """``[B, K]``.

        Args:
            grafted: The graft.
            outputs: Features of the images.
            classes: What :meth:`context` gave.
        """
        images = embedding(grafted.towers()[self.visual], outputs[self.visual])
        if classes is None:
            parts = [self._classes(grafted, some) for some in images.split(IMAGES_AT_ONCE)]
            similarity = torch.einsum("be,bke->bk", images, torch.cat(parts))
        else:
            similarity = images @ classes.T
        logits = grafted.logit_scale() * similarity
        for adapter in _learners(grafted):
            if (evidence := adapter.evidence(images)) is not None:
                logits = logits + evidence
        return logits

    def _classes(self, grafted: Grafted, images: Tensor | None) -> Tensor:
        """Unit embeddings of the classes ``[1, K, E]``, or of each image's own ``[B, K, E]``."""
        spoken, count = self._speak(grafted), 1 if images is None else len(images)
        K, batch = len(self.names), spoken.batch
        if images is not None:
            assert isinstance(batch, Tensor)
            batch = batch.repeat(count, 1)
        owner = spoken.classes.repeat(count) + K * torch.arange(count).repeat_interleave(len(spoken.classes))
        seen = None if images is None else images.repeat_interleave(len(spoken.classes), dim=0)
        tower = grafted.towers()[self.text]
        with self._prompting(grafted, spoken, owner % K, seen), torch.autocast(tower.device.type, enabled=False):
            rows = embedding(tower, grafted.encode({self.text: batch})[self.text])
        if len(rows) < len(owner):  # joined by an adapter
            return rows.view(count, K, -1)
        sums = rows.new_zeros(count * K, rows.shape[-1]).index_add(0, owner.to(rows.device), rows)
        return F.normalize(sums, dim=-1).view(count, K, -1)

    @contextmanager
    def _prompting(self, grafted: Grafted, spoken: Spoken, classes: Tensor, images: Tensor | None) -> Iterator[None]:
        with ExitStack() as stack:
            if spoken.each:
                stack.enter_context(joining(grafted, spoken.each))
            for adapter in _learners(grafted):
                stack.enter_context(adapter.prompting(classes, images))
            yield

    def _speak(self, grafted: Grafted) -> Spoken:
        """The prompts, tokenised once; embedded once too where nothing before the text's features is trained."""
        if self._spoken is not None:
            return self._spoken
        tower = grafted.towers()[self.text]
        assert isinstance(tower, TextEncoder)
        own = [found for adapter in _learners(grafted) if (found := adapter.own_prompts(self.names)) is not None]
        if len(own) > 1:
            raise ConfigError("two adapters speak of classes in prompts of their own; graft one of them")
        prompts = own[0] if own else self.prompts
        counts = [len(each) for each in prompts]
        batch: Tensor | Features = tower.tokenize([prompt for each in prompts for prompt in each]).to(tower.device)
        if grafted.first_stage()[self.text] >= tower.n_stages:
            with torch.no_grad():  # forward() and not a call, so that what adapters make of the features stays out
                batch = tower.forward(batch, scores=tower.has_scores)
        classes = torch.arange(len(prompts)).repeat_interleave(torch.tensor(counts))
        self._spoken = Spoken(batch, classes, counts[0] if len(set(counts)) == 1 else 0)
        return self._spoken


def _learners(grafted: Grafted) -> list[ClassAdapter]:
    return class_adapters(adapter for _, adapter in grafted.named_adapters())
