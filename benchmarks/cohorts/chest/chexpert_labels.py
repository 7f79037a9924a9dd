"""The label language of CheXpert: names, uncertainty policies and the rule of the five-class set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from medgraft.errors import ConfigError, UnknownNameError

CHEXPERT_14: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The 14 labels in the order of the published tables; always address them by name."""

COMPETITION_5: tuple[str, ...] = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five labels that the CheXpert competition ranks."""

BEST_POLICY = {"Atelectasis": 1, "Cardiomegaly": 0, "Consolidation": 0, "Edema": 1, "Pleural Effusion": 1}
"""What an uncertain label becomes under the ``best`` policy: the per-label choice of GLoRIA (Huang et al. 2021)."""

POLICIES = ("ones", "zeros", "ignore", "multiclass", "best")
"""Ways to train with uncertain labels, see ``apply_uncertainty``."""


def exclusive_class(labels: pd.DataFrame) -> np.ndarray:
    """GLoRIA's rule for the five-class set: index into ``COMPETITION_5`` of the only positive label, else -1.

    Blank counts as 0, an uncertain label disqualifies, and so does any other finding; No Finding plays no part.

    Args:
        labels: A table ``[N]`` with the 14 label columns.

    Returns:
        Integers ``[N]`` in -1..4.
    """
    values = labels[list(CHEXPERT_14[1:])].fillna(0).to_numpy()
    single = (values != 0).sum(1) == 1
    targets = np.full(len(values), -1)
    for i, name in enumerate(COMPETITION_5):
        targets[single & (values[:, CHEXPERT_14.index(name) - 1] == 1)] = i
    return targets


def apply_uncertainty(
    labels: np.ndarray,
    policy: str,
    *,
    blank: Literal["zero", "ignore"] = "zero",
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Turns labels with uncertain and blank cells into targets and a mask of the cells that count.

    Args:
        labels: ``[N, L]`` of 1, 0, -1 (uncertain) and NaN (blank).
        policy: What an uncertain cell becomes: ``ones`` 1, ``zeros`` 0, ``ignore`` masked out, ``multiclass`` a class
            of its own, ``best`` what ``BEST_POLICY`` says of its label.
        blank: A blank cell counts as 0 (the convention: a report names what it finds) or is masked out.
        names: Label of each column, needed by ``best`` unless the columns are ``COMPETITION_5`` in order.

    Returns:
        Targets ``[N, L]`` and mask ``[N, L]`` (bool, True counts). Targets are float32 in {0, 1}, with 0 where the mask
        is False; for ``multiclass`` int64 in {0, 1, 2}, 2 for uncertain.

    Raises:
        UnknownNameError: The policy, or a name under ``best``, is unknown.
        ConfigError: The labels hold another value, or their shape does not fit.
    """
    if policy not in POLICIES:
        raise UnknownNameError("uncertainty policy", policy, POLICIES)
    if blank not in ("zero", "ignore"):
        raise UnknownNameError("treatment of blank labels", blank, ("zero", "ignore"))
    labels = np.asarray(labels, float)
    if labels.ndim != 2 or not np.isin(labels[~np.isnan(labels)], (1, 0, -1)).all():
        raise ConfigError(f"labels of shape {labels.shape} must be [N, L] with values 1, 0, -1 or NaN")
    unsure = labels == -1
    mask = ~np.isnan(labels) if blank == "ignore" else np.ones(labels.shape, bool)
    targets = np.nan_to_num(labels)
    if policy == "multiclass":
        return np.where(unsure, 2, targets).astype(np.int64), mask
    if policy == "ignore":
        mask &= ~unsure
    becomes = {"ones": 1.0, "zeros": 0.0, "ignore": 0.0}.get(policy)
    chosen = np.array(_best(labels.shape[1], names)) if becomes is None else becomes
    return np.where(unsure, chosen, targets).astype(np.float32), mask


def _best(width: int, names: Sequence[str] | None) -> list[float]:
    names = COMPETITION_5 if names is None else names
    if len(names) != width:
        raise ConfigError(f"the policy 'best' needs a name for each of the {width} labels, and has {len(names)}")
    for name in names:
        if name not in BEST_POLICY:
            raise UnknownNameError("label with a best policy", name, BEST_POLICY)
    return [float(BEST_POLICY[name]) for name in names]
