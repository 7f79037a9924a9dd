"""Adapters that classify by their training features, in objectives that would have a head or prompts do so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medgraft.adapter.protocols import ClassifiesBySupport
from medgraft.adapter.support_set import SupportSet
from medgraft.benchmarks.objectives.heads import joined
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted
from medgraft.objective import Outputs
from medgraft.task import TaskData

RUN_AT_ONCE = 64
"""Training samples that run in one batch where adapters meet them."""


def support_adapter(grafted: Grafted) -> ClassifiesBySupport | None:
    """The adapter that classifies by its training features, if the graft has one.

    Raises:
        ConfigError: Another adapter acts beside it, whose training would change the features that it was fitted on.
    """
    adapters = dict(grafted.named_adapters())
    for name, adapter in adapters.items():
        if isinstance(adapter, ClassifiesBySupport):
            if len(adapters) > 1:
                raise ConfigError(alone(name))
            return adapter
    return None


def alone(name: str) -> str:
    """Why an adapter that classifies by its training features is the only one of a graft."""
    return (
        f"adapter {name!r} classifies by the frozen features of its training set, which an adapter beside it would "
        "change in training; graft it alone"
    )


def embed(read: Callable[[Outputs], Tensor], run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> Tensor:
    """What is read of the samples ``index``, ``int64 [n]`` -> ``[n, D]``, batch by batch and without gradients."""
    parts = np.split(index, range(RUN_AT_ONCE, len(index), RUN_AT_ONCE))
    with torch.no_grad():
        return torch.cat([read(run(part)) for part in parts])


def fit_pooled(
    grafted: Grafted, data: TaskData, run: Callable[[np.ndarray], Outputs], inputs: tuple[str, ...], index: np.ndarray
) -> None:
    """Shows pooled training features to an adapter that classifies by them, and takes the head away.

    Args:
        grafted: The fresh graft.
        data: Targets, with one class or labels for each sample.
        run: Samples -> their features.
        inputs: Modalities whose pooled features are read side by side.
        index: Training samples ``int64 [n]``.

    Raises:
        ConfigError: The adapter needs class prompts, or another acts beside it.
    """
    if (adapter := support_adapter(grafted)) is None:
        return
    grafted.eval()
    features = embed(lambda outputs: joined(outputs, inputs), run, index)

    def rows(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[index]).to(features.device)

    mask = None if data.mask is None else rows(data.mask.astype(bool))
    targets = rows(data.targets).long()
    adapter.fit_support(SupportSet(features, targets, len(data.classes), data.subjects[index], mask))
    grafted.head = None  # nothing of it would be read


def refuse_support(grafted: Grafted, need: str, remedy: str) -> None:
    """Refuses adapters that classify by their training features, where an objective needs more than they know.

    Args:
        grafted: The graft.
        need: What the objective needs.
        remedy: What to choose.

    Raises:
        ConfigError: The graft has such an adapter.
    """
    if support_adapter(grafted) is not None:
        raise ConfigError(f"{need}, and the adapter classifies by its training features; choose {remedy}")


def pooled_logits(grafted: Grafted, outputs: Outputs, inputs: tuple[str, ...]) -> Tensor:
    """Logits ``[B, outputs]`` of the head, or of the adapter that took its place."""
    features = joined(outputs, inputs)
    if grafted.head is not None:
        return grafted.head(features)
    adapter = support_adapter(grafted)
    if adapter is None:
        raise ConfigError("the graft has no head, and no adapter that classifies in its place; add one first")
    return adapter.support_logits(features)
