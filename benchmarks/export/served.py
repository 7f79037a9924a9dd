"""A kept graft as one function of prepared inputs, and what makes an export of it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.errors import ConfigError
from medgraft.modality import find_modality

TOLERANCE = 1e-4
"""Largest difference of an exported model's outputs from the graft's, relative to the largest value above 1."""

BATCHES = (3, 1, 7)
"""Sizes of the batches that an export is tried on; the first is what is traced."""


class Served(nn.Module):
    """Prepared inputs ``[B, ...]``, one for each modality in order, to what :attr:`outputs` names.

    Args:
        predictor: In single precision.

    Attributes:
        inputs: Names of the inputs.
        outputs: ``logits`` and ``probabilities``, each ``[B, K]``; ``value`` ``[B, 1]`` where numbers are predicted.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.inputs = predictor.facts.inputs
        self.first, *self.rest = self.inputs
        self.scorer = predictor.scorer(self.first, {})
        self.outputs = ("logits", "probabilities") if predictor.facts.classes else ("value",)

    def forward(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Prepared inputs ``[B, ...]`` -> ``[B, K]`` of each output; see :class:`Served`."""
        scorer = self.scorer
        features = scorer.grafted.encode(dict(zip(self.inputs, batches, strict=True)))
        decision = scorer.objective.decision(scorer.grafted, features, scorer.context)
        if len(self.outputs) == 1:
            return (decision.float(),)
        return decision.float(), scorer.objective.activated(decision).float()


def examples(predictor: Predictor, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Prepared inputs of made-up raw samples, ``[count, ...]`` each; none of them is a person's."""
    random = np.random.default_rng(seed)
    rows: dict[str, Tensor] = {}
    for name in predictor.facts.inputs:
        raws = [find_modality(name).example(random) for _ in range(count)]
        rows[name] = torch.stack([torch.as_tensor(predictor.towers[name].prepare(raw)) for raw in raws])
    return rows


def apart(found: Sequence[Any], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Largest difference of outputs ``[B, K]``, as it is and relative to the largest expected value above 1.

    It is infinite where shapes differ or a value is not finite.
    """
    largest = relative = 0.0
    for one, other in zip(found, expected, strict=True):
        a, b = torch.as_tensor(one).double(), other.detach().double()
        if a.shape != b.shape or not bool(a.isfinite().all() and b.isfinite().all()):
            return float("inf"), float("inf")
        difference = float((a - b).abs().max())
        largest, relative = max(largest, difference), max(relative, difference / max(1.0, float(b.abs().max())))
    return largest, relative


def check_rows(served: Served, batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuses a graft whose result for a sample depends on the batch around it: a file could not say which.

    Args:
        served: The graft.
        batches: Prepared inputs, ``[B, ...]`` each.

    Raises:
        ConfigError: It does.
    """
    with torch.no_grad():
        for batch in batches:
            together = served(*batch.values())
            alone = [
                served(*(rows[k : k + 1] for rows in batch.values())) for k in range(len(next(iter(batch.values()))))
            ]
            joined = [torch.cat([each[i] for each in alone]) for i in range(len(together))]
            if (gap := apart(together, joined)[1]) > TOLERANCE:
                raise ConfigError(
                    f"the graft cannot be exported: its result for one sample changes by {gap:.2g} with the samples "
                    "beside it in the batch; predict with medgraft"
                )


def refuse_kept_samples(predictor: Predictor) -> None:
    """Refuses adapters that carry their training samples along.

    Raises:
        ConfigError: One does; the sentence says what it keeps.
    """
    for name, adapter in predictor.grafted.named_adapters():
        if adapter.export_refusal:
            raise ConfigError(f"adapter {name!r} cannot be exported: {adapter.export_refusal}; predict with medgraft")
