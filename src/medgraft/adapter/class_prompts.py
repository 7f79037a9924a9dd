"""Adapters that learn classes: from labelled images, scored by the similarity of image and class prompts.

Most adapters change what a tower gives, and whoever compares image and prompts needs to know nothing of them. The
methods here also change how a class is spoken of, or add what they remember of its images. They need a task whose
training images have one class each (objective ``prompted``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapter import Adapter, Support
from medgraft.adapter.protocols import LearnsClasses
from medgraft.encoder import DualEncoder, Encoder, TextEncoder
from medgraft.features import Features


class ClassAdapter(Adapter):
    """Base of adapters that take part in the comparison of images with class prompts.

    Attributes:
        per_image: Prompts are embedded anew for every image, which :meth:`prompting` is then given.
    """

    per_image: ClassVar[bool] = False

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders whose image and text towers share a space."""
        return shares_prompts(encoder)

    def class_prompts(self, names: Sequence[str]) -> tuple[tuple[str, ...], ...] | None:
        """Prompts of each class in the form of the method; ``None`` leaves them to the task."""
        return None

    def fit_classes(self, images: Tensor, targets: Tensor, count: int) -> None:
        """Called once, before training.

        Args:
            images: Unit embeddings of the training images through the fresh graft, ``[n, E]``.
            targets: Their classes, ``int64 [n]``.
            count: Number of classes ``K``.
        """
        return

    def prompting(self, classes: Tensor, images: Tensor | None) -> AbstractContextManager[None]:
        """Inside it, row ``r`` of a text batch is a prompt of class ``classes[r]``.

        Args:
            classes: ``int64 [R]``.
            images: Unit embedding ``[R, E]`` of the image that each row is compared with, where :attr:`per_image`.
        """
        return nullcontext()

    def extra_logits(self, images: Tensor) -> Tensor | None:
        """What is added to the logits ``[B, K]`` of unit embeddings ``[B, E]``; ``None`` for nothing."""
        return None

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Called before a checkpoint is loaded, for tensors whose size only :meth:`fit_classes` knew.

        Args:
            shapes: Name in ``state_dict()`` -> shape in the file.
        """
        return


def shares_prompts(encoder: Encoder) -> Support:
    """Whether class prompts can be compared with images: by towers that share a space, one of which reads text."""
    if not isinstance(encoder, DualEncoder) or encoder.logit_scale is None:
        return Support(False, "it has no space that image and text share")
    if not isinstance(encoder.towers().get("text"), TextEncoder):
        return Support(False, "it has no text tower that reads prompts")
    return Support(True)


def shared_embedding(tower: Encoder, features: Features) -> Tensor:
    """What stands for a sample in the space that modalities share, ``[B, E]``, not yet of unit length.

    In the precision of the encoder's weights also under autocast.
    """
    if features.embedding is not None:
        return features.embedding
    kind = next((p.dtype for p in tower.parameters()), features.pooled.dtype)
    with torch.autocast(features.pooled.device.type, enabled=False):
        return tower.project(features.pooled.to(kind))


def unit_embedding(tower: Encoder, features: Features) -> Tensor:
    """The same with unit length, ``[..., C]``."""
    return F.normalize(shared_embedding(tower, features), dim=-1)


def class_adapters(modules: Iterable[nn.Module]) -> list[LearnsClasses]:
    """Those of the modules that learn classes, in their order."""
    return [module for module in modules if isinstance(module, LearnsClasses)]
