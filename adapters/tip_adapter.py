"""Tip-Adapter: a cache of labelled training images that votes for classes, beside the class prompts.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022 (arXiv 2207.09519),
equations 3 to 5: ``logits = scale f W^T + alpha exp(-beta (1 - f F^T)) L`` with the unit embeddings ``F [n, E]`` of the
training images as keys, their one-hot classes ``L [n, K]`` as values, and the class prompts ``W [K, E]``.
Tip-Adapter-F trains the keys, starting from the same cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import AdapterConfig, Attachment
from medgraft.adapter.class_prompts import ClassAdapter
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site


class TipAdapter(ClassAdapter):
    """The cache model; features of either tower stay as they are, so a fresh graft changes nothing.

    The cache is made of the training images as they are. The authors average the embeddings of ten random crops, and
    choose ``alpha`` and ``beta`` by a search on the validation split; here both are options. A saved Tip-Adapter holds
    the embeddings of its training images.
    """

    paper = (
        "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, ECCV 2022 (arXiv "
        "2207.09519)"
    )
    licence = "Apache-2.0"
    formula = r"z = s\, f W^\top + \alpha \exp\left(-\beta\, (1 - f F^\top)\right) L"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 20, "warmup": 0.0})
    search = MappingProxyType({"alpha": (0.3, 0.6, 1.17, 2.5, 5.0), "beta": (0.5, 1.0, 2.0, 4.0, 8.0)})
    text_padding = 0
    export_refusal = "it holds the embeddings of every training image, which are not to leave with a model"

    class Config(AdapterConfig):
        """Options; the defaults are those that the authors' search starts from on ImageNet.

        Attributes:
            alpha: Weight of the cache.
            beta: Sharpness of the affinity.
            train_keys: Train the keys: Tip-Adapter-F.
        """

        alpha: float = Field(1.17, ge=0)
        beta: float = Field(1.0, gt=0)
        train_keys: bool = False

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.register_parameter("keys", None)
        self.register_buffer("values", None)

    keys: Tensor | None
    values: Tensor | None

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Notes that nothing before the features changes."""
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        return attachment

    def fit_classes(self, images: Tensor, targets: Tensor, count: int) -> None:
        """Fills the cache: keys ``[n, E]`` are the images, values ``[n, K]`` their classes."""
        self._hold(images.detach().clone(), F.one_hot(targets, count).to(images.dtype))

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes a cache of the file's size."""
        if "keys" in shapes and "values" in shapes:
            self._hold(torch.zeros(shapes["keys"]), torch.zeros(shapes["values"]))

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys = nn.Parameter(keys, requires_grad=self.config.train_keys)
        self.values = values.to(keys.device)

    def extra_logits(self, images: Tensor) -> Tensor | None:
        """``alpha exp(-beta (1 - f F^T)) L``, ``[B, K]``; ``None`` for an empty cache."""
        if self.keys is None or self.values is None:
            return None
        affinity = images @ self.keys.to(images.dtype).T
        return self.config.alpha * torch.exp(-self.config.beta * (1 - affinity)) @ self.values.to(images.dtype)
