"""Embeddings in the space that an encoder's modalities share."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapter.protocols import prompt_ensemble
from medgraft.encoder import Encoder
from medgraft.features import Features
from medgraft.grafting import Grafted


def embedding(tower: Encoder, features: Features) -> Tensor:
    """Unit embedding ``[B, E]`` in the space that the modalities share."""
    if features.embedding is not None:
        return features.embedding.float()
    with torch.autocast(features.pooled.device.type, enabled=False):  # class prompts are embedded under autocast
        return F.normalize(tower.project(features.pooled.to(tower.dtype)).float(), dim=-1)


def joining(grafted: Grafted, count: int) -> AbstractContextManager[None]:
    """The context in which an adapter joins a class's prompts itself, if one does."""
    return prompt_ensemble([adapter for _, adapter in grafted.named_adapters()], count)
