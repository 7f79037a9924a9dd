"""The last step, with the adapters off: how much the frozen encoder's features say of the site."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.prefix_cache.inputs import tower_inputs
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.prefix_cache.store import entry
from medgraft.benchmarks.results.site_report import SiteReport
from medgraft.benchmarks.statistics.sites import SITE, report_sites, site_words
from medgraft.fast.short_texts import padding_needed
from medgraft.objective import objective_name

REPORT = "sites.json"
REPORT_VERSION = 1
"""Raised whenever the same features would be reported differently."""


def site_report(ready: Ready) -> SiteReport | None:
    """The report of a cell whose adapters were taken off; ``None`` where its data know of fewer than two sites.

    The features are those that a linear probe of the encoder reads, from the cache where a row has left them there.

    Args:
        ready: The cell after its last step.
    """
    loaded = ready.loaded
    if SITE not in loaded.data.attributes:
        return None
    parts = [np.asarray(_features(ready, name).arrays["pooled"], np.float64) for name in loaded.task.inputs]
    features = np.concatenate(parts, axis=1)
    named = objective_name(loaded.task.objective)

    def build(folder: Path) -> None:
        found = report_sites(loaded.data, ready.runner.objective, named, loaded.task.primary, features, loaded.splits)
        (folder / REPORT).write_text("null" if found is None else found.model_dump_json())

    # Cells of other adapters and seeds have the same features, people and splits.
    kept = entry(_facts(ready, named, features), build, needs=(REPORT,))
    said = (kept.folder / REPORT).read_text()
    return None if said == "null" else SiteReport.model_validate_json(said)


def _facts(ready: Ready, objective: str, features: np.ndarray) -> dict[str, Any]:
    """All that a report is made of."""
    loaded, data = ready.loaded, ready.loaded.data
    whole = hashlib.sha256(features.tobytes())
    for part in (data.targets, data.mask, data.asked, *data.columns.values(), *loaded.splits.values()):
        whole.update(b"|" if part is None else np.ascontiguousarray(part).tobytes() + b"|")
    whole.update(json.dumps([list(map(str, data.subjects)), site_words(data.attributes[SITE])]).encode())
    versions = {name: _version(name) for name in ("combatlearn", "scikit-learn", "scipy", "numpy")}
    facts = {"kind": "sites", "of": whole.hexdigest(), "objective": objective, "primary": loaded.task.primary}
    said = {"classes": data.classes, "variants": data.variants, "questions": data.questions, "answers": data.answers}
    return facts | said | versions | {"report": REPORT_VERSION, "threads": torch.get_num_threads()}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _features(ready: Ready, modality: str) -> TowerInputs:
    mine = ready.inputs.get(modality)
    if mine is not None and "pooled" in mine.arrays and not mine.condensed:
        return mine
    grafted, tower = ready.grafted, ready.loaded.towers()[modality]
    return tower_inputs(
        ready.loaded.prepared[modality],
        tower,
        tower.n_stages,
        f"{grafted.base_digest}|{modality}",
        padding=padding_needed(grafted, frozen=True),
    )
