"""``prompted``: classes by prompts, learnt from labelled images: cross-entropy over similarities to class prompts.

The protocol of CoOp, CLIP-Adapter, Tip-Adapter and CLIP-LoRA. Class prompts are embedded in full precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapter.class_prompts import class_adapters
from medgraft.adapter.protocols import HeldToPrompts, LearnsClasses
from medgraft.adapter.support_set import SupportSet
from medgraft.benchmarks.objectives.contrastive import ContrastiveObjective
from medgraft.benchmarks.objectives.shared_space import embedding, joining
from medgraft.benchmarks.objectives.support import embed, support_adapter
from medgraft.encoder import TextEncoder
from medgraft.errors import ConfigError
from medgraft.fast.short_texts import cut_texts
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.modality import TEXT
from medgraft.objective import Batch, Outputs
from medgraft.task import TaskData

IMAGES_AT_ONCE = 16
"""Images whose own class prompts are embedded in one batch."""


@dataclass(frozen=True)
class PromptBatch:
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

    needs = frozenset({"prompts", "text tower", "shared space"})
    compares = False
    gathers = False
    learns_classes = True
    takes_support = True
    one_class_each = True
    lowest_in_training = 0

    @classmethod
    def takes_classes(cls, data: TaskData) -> bool:
        """One class for each sample."""
        return True

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, (inputs[0], TEXT))
        self.names = tuple(name.replace("_", " ") for name in data.classes)
        self.targets = data.targets
        self._batch: PromptBatch | None = None

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Shows the training images ``index``, ``int64 [n]``, to adapters that learn classes; for a fresh graft.

        Args:
            grafted: The graft.
            run: Samples -> their features.
            index: Training samples.
        """
        learners, by_support = _learners(grafted), support_adapter(grafted)
        if not learners and by_support is None:
            return
        grafted.eval()
        tower = grafted.towers()[self.visual]
        images = embed(lambda outputs: embedding(tower, outputs[self.visual]), run, index)
        targets = torch.from_numpy(self.targets[index]).to(images.device)
        for adapter in learners:
            adapter.fit_classes(images, targets, len(self.names))
            if isinstance(adapter, HeldToPrompts):
                adapter.fit_prompts(partial(self._embed, grafted), self.names, self.prompts)
        if by_support is not None:
            with torch.no_grad():
                text, scale = self._classes(grafted, None)[0], float(grafted.logit_scale())
            subjects = self.data.subjects[index]
            by_support.fit_support(SupportSet(images, targets, len(self.names), subjects, text=text, scale=scale))

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross-entropy and what adapters add that are held to written prompts, a scalar."""
        classes = self.context(grafted)
        logits = self.logits(grafted, outputs, classes)
        loss = F.cross_entropy(logits, batch.targets)
        for adapter in _learners(grafted):
            if isinstance(adapter, HeldToPrompts) and classes is not None:
                images = embedding(grafted.towers()[self.visual], outputs[self.visual])
                if (term := adapter.prompt_loss(classes, images, logits)) is not None:
                    loss = loss + term
        return loss

    def decision(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Logits ``[B, K]``."""
        return self.logits(grafted, outputs, context)

    def context(self, grafted: Grafted) -> Tensor | None:
        """Class embeddings ``[K, E]``; ``None`` where each image has its own, or an adapter keeps some."""
        if support_adapter(grafted) is not None or any(adapter.per_image for adapter in _learners(grafted)):
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
        if (by_support := support_adapter(grafted)) is not None:
            return by_support.support_logits(images)
        if classes is None:
            parts = [self._classes(grafted, some) for some in images.split(IMAGES_AT_ONCE)]
            similarity = torch.einsum("be,bke->bk", images, torch.cat(parts))
        else:
            similarity = images @ classes.T
        logits = grafted.logit_scale() * similarity
        for adapter in _learners(grafted):
            if (extra := adapter.extra_logits(images)) is not None:
                logits = logits + extra
        return logits

    def _embed(self, grafted: Grafted, texts: Sequence[str]) -> Tensor:
        """Unit embeddings of texts ``[R, E]``, without gradients and in full precision."""
        tower = grafted.towers()[self.text]
        assert isinstance(tower, TextEncoder)
        with torch.no_grad(), torch.autocast(tower.device.type, enabled=False):
            ids = tower.tokenize(list(texts)).to(tower.device)
            return embedding(tower, grafted.encode({self.text: ids})[self.text])

    def _classes(self, grafted: Grafted, images: Tensor | None) -> Tensor:
        """Unit embeddings of the classes ``[1, K, E]``, or of each image's own ``[B, K, E]``."""
        texts, count = self._prompt_batch(grafted), 1 if images is None else len(images)
        K, batch = len(self.names), texts.batch
        if images is not None:
            assert isinstance(batch, Tensor)
            batch = batch.repeat(count, 1)
        owner = texts.classes.repeat(count) + K * torch.arange(count).repeat_interleave(len(texts.classes))
        seen = None if images is None else images.repeat_interleave(len(texts.classes), dim=0)
        tower = grafted.towers()[self.text]
        with (
            self._prompting(grafted, texts, owner % K, seen),
            torch.autocast(tower.device.type, enabled=False),
        ):
            rows = embedding(tower, grafted.encode(cut_texts(grafted, {self.text: batch}))[self.text])
        if len(rows) < len(owner):  # joined by an adapter
            return rows.view(count, K, -1)
        sums = rows.new_zeros(count * K, rows.shape[-1]).index_add(0, owner.to(rows.device), rows)
        return F.normalize(sums, dim=-1).view(count, K, -1)

    @contextmanager
    def _prompting(
        self, grafted: Grafted, texts: PromptBatch, classes: Tensor, images: Tensor | None
    ) -> Iterator[None]:
        with ExitStack() as stack:
            if texts.each:
                stack.enter_context(joining(grafted, texts.each))
            for adapter in _learners(grafted):
                stack.enter_context(adapter.prompting(classes, images))
            yield

    def _prompt_batch(self, grafted: Grafted) -> PromptBatch:
        """The prompts, tokenised once; embedded once too where nothing before the text's features is trained."""
        if self._batch is not None:
            return self._batch
        tower = grafted.towers()[self.text]
        assert isinstance(tower, TextEncoder)
        learnt = [
            adapter_prompts
            for adapter in _learners(grafted)
            if (adapter_prompts := adapter.class_prompts(self.names)) is not None
        ]
        if len(learnt) > 1:
            raise ConfigError("two adapters speak of classes in prompts of their own; graft one of them")
        prompts = learnt[0] if learnt else self.prompts
        counts = [len(each) for each in prompts]
        ids = tower.tokenize([prompt for each in prompts for prompt in each]).to(tower.device)
        batch: Tensor | Features = ids
        if grafted.first_stage()[self.text] >= tower.n_stages:
            with torch.no_grad():  # forward() and not a call, so that what adapters make of the features stays out
                batch = tower.forward(cut_texts(grafted, {self.text: ids})[self.text], scores=tower.has_scores)
        classes = torch.arange(len(prompts)).repeat_interleave(torch.tensor(counts))
        self._batch = PromptBatch(batch, classes, counts[0] if len(set(counts)) == 1 else 0)
        return self._batch


def _learners(grafted: Grafted) -> list[LearnsClasses]:
    return class_adapters(adapter for _, adapter in grafted.named_adapters())
