"""Opens a folder of trained adapters as a graft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from medgraft.adapter import Adapter
from medgraft.checkpoints.folder import load, read_config
from medgraft.encoder import Encoder
from medgraft.errors import CheckpointError
from medgraft.grafting import Grafted
from medgraft.registry import RANDOM_SEED, build_adapter, build_encoder


def load_graft(folder: str | Path, encoder: Encoder | str | None = None, head: nn.Module | None = None) -> Grafted:
    """Builds the graft that a folder describes and loads it.

    Args:
        folder: What :meth:`medgraft.Grafted.save` wrote.
        encoder: An encoder or its name; by default the one that the folder names.
        head: A head of the shape that was saved, if one was.

    Returns:
        The graft, in evaluation mode, with the adapters active that were when it was saved.

    Raises:
        CheckpointError: The folder is damaged, belongs to another encoder, or holds a plugin that is not installed.
    """
    folder = Path(folder)
    config = read_config(folder)
    if encoder is None or isinstance(encoder, str):
        encoder = build_encoder(encoder or _base_name(folder, config))
    adapters: dict[str, Adapter] = {}
    for name, stored in config["adapters"].items():
        if stored["plugin"] is None:
            raise CheckpointError(
                f"{folder}: adapter {name!r} is {stored['class']}, which no installed plugin registers; install the "
                "package that has it, or graft an instance and load the folder into that"
            )
        adapters[name] = build_adapter(stored["plugin"], stored["config"])
    grafted = Grafted(encoder, adapters, head)
    load(grafted, folder)
    return grafted.eval()


def _base_name(folder: Path, config: dict[str, Any]) -> str:
    """Name that builds the encoder which a folder's adapters were trained on.

    Raises:
        CheckpointError: Its random weights came of another seed than this version draws them from.
    """
    base = config["base_encoder"]
    if base.get("weights") != "random":
        return base["name"]
    if (seed := config.get("base_seed")) not in (None, RANDOM_SEED):
        raise CheckpointError(
            f"{folder} was trained on random weights of {base['name']} from seed {seed}, and this medgraft draws them "
            f"from seed {RANDOM_SEED}; pass the encoder itself"
        )
    return base["name"] if "@" in base["name"] else f"{base['name']}@random"
