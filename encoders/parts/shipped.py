"""Weights that come with the package, each with a JSON beside it that says how they were made."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from medgraft.errors import CheckpointError


def weights_folder() -> Path:
    """Where they lie."""
    return Path(str(resources.files("medgraft.encoders"))) / "weights"


def read_card(name: str) -> dict[str, Any]:
    """The JSON beside the weights: what a model is built from, training log and held-out result.

    Raises:
        CheckpointError: It cannot be read.
    """
    path = weights_folder() / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; install medgraft again") from error
