"""Adapter checkpoints: ``adapter_config.json`` beside ``adapter_model.safetensors``; head included, no encoder.

The configuration has a ``format_version``. A folder of an older version is brought up step by step by ``MIGRATIONS``
when it is read; one of a newer version is refused.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

import medgraft
from medgraft import plugins
from medgraft.adapter import Adapter
from medgraft.adapter.protocols import ResizesForLoad
from medgraft.checkpoints.model_card import write_card
from medgraft.checkpoints.weights import UNRECORDED, file_digest, load_strict, read_weights
from medgraft.errors import CheckpointError
from medgraft.files.documents import read_json
from medgraft.registry import RANDOM_SEED
from medgraft.typed.values import is_a

if TYPE_CHECKING:
    from medgraft.grafting import Grafted

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def _trained_state(grafted: Grafted) -> dict[str, Tensor]:
    state = {f"adapters.{key}": value for key, value in grafted.adapters.state_dict().items()}
    if grafted.head is not None:
        state |= {f"head.{key}": value for key, value in grafted.head.state_dict().items()}
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def save(grafted: Grafted, folder: Path) -> Path:
    """Writes a graft's adapters and head, and a model card; each file appears whole or not at all.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        weights, description = Path(temporary) / WEIGHTS_NAME, Path(temporary) / CONFIG_NAME
        save_file(_trained_state(grafted), weights, metadata={"format": "pt"})
        config = {
            "format_version": FORMAT_VERSION,
            "medgraft_version": medgraft.__version__,
            "base_encoder": grafted.encoder.spec.model_dump(mode="json"),
            "base_digest": grafted.base_digest,
            "base_seed": RANDOM_SEED if grafted.encoder.spec.weights == "random" else None,
            "adapters": {name: _description(adapter) for name, adapter in grafted.adapters.items()},
            "active": list(grafted.active),
            "head": type(grafted.head).__name__ if grafted.head is not None else None,
            "weights_sha256": file_digest(weights),
        }
        description.write_text(json.dumps(config, indent=2) + "\n")
        os.replace(weights, folder / WEIGHTS_NAME)
        os.replace(description, folder / CONFIG_NAME)
    write_card(grafted, config, folder)
    return folder


def _description(adapter: nn.Module) -> dict[str, Any]:
    assert isinstance(adapter, Adapter)
    target = f"{type(adapter).__module__}:{type(adapter).__qualname__}"
    plugin = next((name for name, plugin in plugins.discover("adapter").items() if plugin.target == target), None)
    return {"plugin": plugin, "class": target, "config": adapter.config.model_dump(mode="json")}


def _from_1(config: dict[str, Any]) -> dict[str, Any]:
    """Version 1 named only the class of an adapter, had all of them active and no digest of the weights."""
    by_target = {plugin.target: name for name, plugin in plugins.discover("adapter").items()}
    adapters = {name: {"plugin": by_target.get(a["class"]), **a} for name, a in config["adapters"].items()}
    return {**config, "adapters": adapters, "active": list(adapters), "weights_sha256": None, "format_version": 2}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""Format version -> what makes the next one of it."""


def read_config(folder: Path) -> dict[str, Any]:
    """Reads, checks and, where it is older, brings up ``adapter_config.json``.

    Raises:
        CheckpointError: It is missing, is not JSON, or has a format this version does not know.
    """
    path = folder / CONFIG_NAME
    config = _read_json(path)
    if "peft_type" in config:
        raise CheckpointError(
            f"{folder} was saved by peft; a LoRA opens with medgraft.adapters.lora_peft.load_peft(folder, encoder)"
        )
    version = config.get("format_version")
    if not isinstance(version, int) or not (version == FORMAT_VERSION or version in MIGRATIONS):
        advice = "; it needs a newer medgraft" if isinstance(version, int) and version > FORMAT_VERSION else ""
        raise CheckpointError(f"{path} has format_version {version!r}; this medgraft reads {FORMAT_VERSION}{advice}")
    if missing := [key for key in ("base_encoder", "base_digest", "adapters") if key not in config]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it is incomplete")
    while config["format_version"] in MIGRATIONS:
        config = MIGRATIONS[config["format_version"]](config)
    return config


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(f"{path.parent} holds no {path.name}; it is not an adapter folder")
    config = read_json(path, CheckpointError)
    if not is_a(config, dict):
        raise CheckpointError(f"{path} holds no table of settings; it is not medgraft's")
    return config


def _other_weights(folder: Path, grafted: Grafted, config: dict[str, Any]) -> str:
    """Why an encoder is not the one that a folder's adapters were trained on."""
    base, spec = config["base_encoder"], grafted.encoder.spec
    text = f"{folder} was trained on encoder {base['name']!r} with weights {config['base_digest'][:24]}; this encoder, "
    text += f"{spec.name!r}, has {grafted.base_digest[:24]}"
    if base.get("weights") == spec.weights == "random" and base["name"] == spec.name:
        text += (
            f". Random weights from seed {config.get('base_seed')} are those of @random only without options of one's "
            "own, without changes afterwards, and with the same version of the library that draws them; build the "
            "encoder as it was then and pass it"
        )
    return text


def load(grafted: Grafted, folder: Path) -> None:
    """Loads adapters and head into a graft of the same adapters on the same encoder.

    Raises:
        CheckpointError: Another encoder, other adapters or other options, or keys that do not match.
    """
    config = read_config(folder)
    if config["base_digest"] == UNRECORDED:
        logger.warning(
            "%s does not say which weights of %s it was trained on; whether this encoder has them is not checked",
            folder,
            config["base_encoder"]["name"],
        )
    elif grafted.base_digest != config["base_digest"]:
        raise CheckpointError(_other_weights(folder, grafted, config))
    names, stored = list(grafted.adapters), config["adapters"]
    if sorted(names) != sorted(stored):
        raise CheckpointError(f"{folder} holds adapters {', '.join(stored)}; this graft has {', '.join(names)}")
    for name, adapter in grafted.adapters.items():
        if stored[name]["config"] != _description(adapter)["config"]:
            raise CheckpointError(f"{folder}: adapter {name!r} was saved with other options: {stored[name]['config']}")
    state = read_weights(folder / WEIGHTS_NAME, config["weights_sha256"])
    trained = {key.split(".", 1)[0] for key in _trained_state(grafted)}
    extra = {key.split(".", 1)[0] for key in state} - trained
    if "head" in extra:
        raise CheckpointError(f"{folder} holds a head; graft with a head of the same shape before loading")
    for name, adapter in grafted.adapters.items():
        if isinstance(adapter, ResizesForLoad):
            start = f"adapters.{name}."
            adapter.resize_for_load(
                {k.removeprefix(start): tuple(v.shape) for k, v in state.items() if k.startswith(start)}
            )
    holder = nn.ModuleDict({"adapters": grafted.adapters})
    if grafted.head is not None:
        holder["head"] = grafted.head
    load_strict(holder, state, str(folder))
    grafted.activate(*config["active"])
    grafted.train(grafted.training)  # what an adapter made for the file's tensors too
