"""Kept grafts made by hand: random values in place of training, everything else as a sweep keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medgraft.adapter.support_set import SupportSet
from medgraft.benchmarks.cell.encoder import select_encoder
from medgraft.benchmarks.cell.kept import KeptFacts, write_facts
from medgraft.grafting import Grafted
from medgraft.modality import find_modality
from medgraft.registry import build_adapters


def kept(folder: Path, adapter: str = "lora", encoder: str = "phantom_chest", **facts: Any) -> Path:
    """A kept graft in a new folder; ``facts`` are those of :class:`KeptFacts`."""
    classes = ("a", "b") if facts.get("objective", "multiclass") in ("multiclass", "multilabel", "prompted") else ()
    given = {"key": "k" * 16, "task": "t", "cohort": "c", "phantom": True, "encoder": encoder, "precision": "fp32"}
    given |= {"inputs": ("image",), "objective": "multiclass", "classes": classes, "primary": "auc_macro"}
    described = KeptFacts.model_validate(given | facts)
    prompted = described.prompts is not None
    towers = select_encoder(encoder, (*described.inputs, "text") if prompted else described.inputs)
    grafted = Grafted(towers, build_adapters(adapter, {})).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in grafted.adapters.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        blank = {name: find_modality(name).blank_batch(grafted.towers()[name]) for name in described.inputs}
        outputs = grafted.encode({name: torch.cat([x, x]) for name, x in blank.items()})
        grafted.head = described.make_objective().make_head(outputs)
        for parameter in [] if grafted.head is None else grafted.head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for _, each in grafted.named_adapters():
            if hasattr(each, "fit_support"):
                rows = torch.randn(12, sum(f.pooled.shape[1] for f in outputs.values()), generator=generator)
                subjects = torch.arange(12).numpy().astype(str)
                each.fit_support(SupportSet(rows, torch.arange(12) % 2, 2, subjects))  # type: ignore[operator]
                grafted.head = None
    folder.mkdir(parents=True)
    grafted.save(folder)
    write_facts(described, folder)
    return folder
