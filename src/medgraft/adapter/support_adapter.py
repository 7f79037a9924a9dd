"""Base of methods that classify by the frozen features of their training set, in the place of a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.class_prompts import shares_prompts
from medgraft.adapter.support_set import SupportSet
from medgraft.attachment.hooks import HALVES
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import ConfigError


class SupportAdapter(Adapter):
    """Leaves the encoder as it is and classifies by what it makes of labelled training features.

    A method makes its tensors in :meth:`fit_support` and hands them to :meth:`hold`; they are saved with it, and a
    fresh graft makes room for those of a file. It gives logits in :meth:`support_logits`, which take the place of a
    linear head, and of the comparison with class prompts.

    Attributes:
        kept: Names of the tensors that :meth:`fit_support` may make.
        trained: Those of them that count as trained: by the harness, or by a solver of the method's own.
        reads_prompts: It starts from the embeddings of class prompts, so the task must have some.
    """

    text_padding = 0
    kept: ClassVar[tuple[str, ...]] = ()
    trained: ClassVar[tuple[str, ...]] = ()
    reads_prompts: ClassVar[bool] = False

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__(config)
        for name in self.kept:
            if name in self.trained:
                self.register_parameter(name, None)
            else:
                self.register_buffer(name, None)

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder; one that starts from class prompts needs towers that share a space."""
        return shares_prompts(encoder) if self.reads_prompts else Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Notes that nothing before the features changes."""
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        return attachment

    def fit_support(self, support: SupportSet) -> None:
        """Called once, before any training.

        Args:
            support: The training samples ``[n, D]``, their classes and the embeddings of the classes' prompts.
        """
        raise TypeError(f"{type(self).__name__} must implement fit_support()")

    def support_logits(self, features: Tensor) -> Tensor:
        """Logits ``[B, K]`` of classes, or ``[B, L]`` of labels, for features ``[B, D]`` as in the support set."""
        raise TypeError(f"{type(self).__name__} must implement support_logits()")

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes tensors of the file's sizes: name in ``state_dict()`` -> shape."""
        self.hold(**{name: torch.zeros(shapes[name]) for name in self.kept if name in shapes})

    def hold(self, **tensors: Tensor) -> None:
        """Keeps tensors of any shape under names of :attr:`kept`, without their graph and in float32 at least."""
        for name, value in tensors.items():
            value = (value.float() if value.dtype in HALVES else value).detach().clone()
            setattr(self, name, nn.Parameter(value) if name in self.trained else value)

    def held(self, name: str) -> Tensor:
        """A tensor of any shape that :meth:`hold` was given.

        Raises:
            ConfigError: Nothing was fitted yet.
        """
        if (value := getattr(self, name)) is None:
            raise ConfigError(
                f"{type(self).__name__} has seen no training features, so it knows no class; call fit_support() or "
                "load a saved one first"
            )
        return value

    def classes_of(self, support: SupportSet) -> tuple[Tensor, float]:
        """Embeddings of the classes' prompts ``[K, D]`` and the multiplier of their similarity.

        Raises:
            ConfigError: The task has none.
        """
        if support.text is None or support.scale is None:
            raise ConfigError(
                f"{type(self).__name__} starts from the prompts of the classes, and the task has none; choose one of "
                "--tasks tag:few_shot, or knn, prototypes or logistic"
            )
        return support.text, support.scale
