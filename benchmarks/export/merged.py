"""Adapters folded into the encoder's weights: one file of tensors for whoever has the encoder's code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from medgraft.benchmarks.cell.encoder import select_encoder
from medgraft.benchmarks.export.served import Served
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted

WEIGHTS = "model.safetensors"


def merge(predictor: Predictor) -> None:
    """Folds the adapters of a graft into the weights, in place; those that only let a head read are dropped.

    Raises:
        ConfigError: One of them cannot be folded in; the sentence says which, or at which layer.
    """
    grafted = predictor.grafted
    acting = [name for name, adapter in grafted.named_adapters() if not _only_reads(grafted, name, adapter)]
    grafted.activate(*acting)
    if acting:
        grafted.merge()


def _only_reads(grafted: Grafted, name: str, adapter: Any) -> bool:
    """Whether an adapter leaves the encoder's features as they are and has nothing of its own, as a linear probe."""
    return (
        adapter.identity_at_init
        and not adapter.state_dict()
        and grafted.first_stage() == {key: tower.n_stages for key, tower in grafted.towers().items()}
    )


def state_of(predictor: Predictor) -> dict[str, Tensor]:
    """Tensors of any shape of a merged graft: the encoder's under ``encoder.``, the head's under ``head.``."""
    grafted = predictor.grafted
    parts = {"encoder": grafted.encoder.state_dict()}
    if grafted.head is not None:
        parts["head"] = grafted.head.state_dict()
    return {
        f"{part}.{key}": value.detach().cpu().clone().contiguous()
        for part, state in parts.items()
        for key, value in state.items()
    }


def write_merged(predictor: Predictor, folder: Path) -> Served:
    """Writes the tensors, and reads them into a fresh encoder.

    Args:
        predictor: Merged.
        folder: Where :data:`WEIGHTS` is written.

    Returns:
        The encoder and head that were read, without any adapter.
    """
    save_file(state_of(predictor), folder / WEIGHTS, metadata={"format": "pt"})
    return read_merged(predictor, load_file(folder / WEIGHTS))


def read_merged(predictor: Predictor, state: Mapping[str, Tensor]) -> Served:
    """A fresh encoder and a head with merged tensors, of any shape, in them, without any adapter.

    Raises:
        ConfigError: The encoder has other tensors, as where merging changed its modules.
    """
    encoder = select_encoder(predictor.facts.encoder, tuple(predictor.towers))
    try:
        encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    except RuntimeError as error:
        raise ConfigError(f"merging changes what encoder {predictor.facts.encoder} is made of: {error}") from error
    served = Served(predictor)
    grafted = Grafted(encoder, {}, predictor.grafted.head).eval()
    served.scorer.grafted = grafted
    with torch.no_grad():
        served.scorer.context = predictor.objective.context(grafted)
    return served


def usage(predictor: Predictor) -> dict[str, Any]:
    """How the file is used, for the JSON beside it."""
    head: Any = predictor.grafted.head
    reads = " and ".join(f"features[{name!r}].pooled" for name in predictor.facts.inputs)
    return {
        "file": WEIGHTS,
        "encoder": "tensors under 'encoder.': "
        f"medgraft.build_encoder({predictor.facts.encoder!r}).load_state_dict(...)",
        "head": None
        if head is None
        else f"tensors under 'head.': logits = head.linear.weight @ ((x - head.mean) / head.deviation) + "
        f"head.linear.bias, x being {reads} side by side",
    }
