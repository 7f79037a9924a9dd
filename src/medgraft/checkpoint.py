"""Adapter checkpoints: ``adapter_config.json`` beside ``adapter_model.safetensors``; head included, no encoder.

The configuration has a ``format_version``. A folder of an older version is brought up step by step by ``MIGRATIONS``
when it is read; one of a newer version is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medgraft.archives import check_weights, names_bytearray
from medgraft.documents import read_json
from medgraft.errors import CheckpointError
from medgraft.limits import RATIO_FROM
from medgraft.torchscript import is_torchscript, load_torchscript

if TYPE_CHECKING:
    from medgraft.encoder import Encoder
    from medgraft.grafting import Grafted

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
UNRECORDED = "unrecorded"
"""``base_digest`` of an adapter from a foreign file that does not say which encoder weights it was trained on."""


def state_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads tensors from a safetensors file, or from a PyTorch file without running any code in it.

    A checkpoint of PyTorch Lightning holds objects beside the tensors (hyper-parameters, callbacks); they are left out,
    see :mod:`medgraft.unpickling`.

    Args:
        path: ``.safetensors``, or a ``torch.save`` file.
        sha256: Expected digest of the file, checked before anything is read.

    Returns:
        Name -> tensor; a ``state_dict`` or ``model`` wrapper is opened.

    Raises:
        CheckpointError: The file is missing, unreadable, holds no table of tensors, asks to run code, or fails the
            checksum.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if sha256 is not None and (found := file_digest(path)) != sha256:
        raise CheckpointError(
            f"checkpoint {path} has sha256 {found[:16]}..., expected {sha256[:16]}...; fetch it again"
        )
    try:
        check_weights(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        state = _load_pickled(path)
    except CheckpointError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    except Exception as error:  # pickle.UnpicklingError and what a damaged archive may raise
        raise CheckpointError(
            f"checkpoint {path} is refused: it holds more than tensors, or is damaged "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0][:200]}). Save it again as safetensors"
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"checkpoint {path} is not a table of tensors; save the model's state_dict()")
    for name, tensor in state.items():
        if _repeats(tensor):
            raise CheckpointError(
                f"checkpoint {path} is refused: {name} repeats a few stored numbers {tensor.numel():,} times"
            )
    return state


def _repeats(tensor: Tensor) -> bool:
    """True where a tensor is far larger than what is stored of it, so that a copy of it would not fit."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    size = tensor.numel() * tensor.element_size()
    return size > RATIO_FROM and size > 4 * tensor.untyped_storage().nbytes()


def _load_pickled(path: Path) -> Any:
    """Content of a PyTorch file; objects that are no tensors are blank."""
    if is_torchscript(path):
        return load_torchscript(path)
    if not names_bytearray(path):
        with suppress(pickle.UnpicklingError):
            return torch.load(path, map_location="cpu", weights_only=True)
    from medgraft.unpickling import load_tensors

    return load_tensors(path)


def load_strict(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Loads ``state`` into ``module``; names every missing, unexpected and misshapen key.

    Raises:
        CheckpointError: The keys or shapes differ.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    problems = [
        f"{label}: {', '.join(keys[:6])}{f' and {len(keys) - 6} more' if len(keys) > 6 else ''}"
        for label, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{where} does not fit: {'; '.join(problems)}")
    refuse_not_finite(state, {name for name, _ in module.named_buffers()}, where)
    module.load_state_dict(state)


def refuse_not_finite(state: Mapping[str, Tensor], buffers: Collection[str], where: str) -> None:
    """Refuses weights that make every output NaN, as a training that diverged or a damaged file leaves them.

    Args:
        state: Name -> tensor.
        buffers: Names that may hold infinities, as masks do.
        where: The checkpoint, for the error.

    Raises:
        CheckpointError: With the name of each such tensor, and how many of its numbers are not finite.
    """
    found = []
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        nan = int(tensor.isnan().sum())
        infinite = 0 if name in buffers else int(tensor.isinf().sum())
        kinds = [f"{count:,} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
        if kinds:
            found.append(f"{name} ({' and '.join(kinds)} of {tensor.numel():,} numbers)")
    if found:
        more = f" and {len(found) - 6} more" if len(found) > 6 else ""
        raise CheckpointError(
            f"{where} holds numbers that are not finite: {', '.join(found[:6])}{more}; its training diverged or the "
            "file is damaged; take an earlier checkpoint"
        )


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
    import medgraft
    from medgraft.card import write_card
    from medgraft.registry import RANDOM_SEED

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
    from medgraft import plugins
    from medgraft.adapter import Adapter

    assert isinstance(adapter, Adapter)
    target = f"{type(adapter).__module__}:{type(adapter).__qualname__}"
    plugin = next((name for name, found in plugins.discover("adapter").items() if found.target == target), None)
    return {"plugin": plugin, "class": target, "config": adapter.config.model_dump(mode="json")}


def _from_1(config: dict[str, Any]) -> dict[str, Any]:
    """Version 1 named only the class of an adapter, had all of them active and no digest of the weights."""
    from medgraft import plugins

    by_target = {found.target: name for name, found in plugins.discover("adapter").items()}
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
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no table of settings; it is not medgraft's")
    return config


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
    from medgraft.grafting import Grafted
    from medgraft.registry import build_adapter, build_encoder

    folder = Path(folder)
    config = read_config(folder)
    if encoder is None or isinstance(encoder, str):
        encoder = build_encoder(encoder or _base_name(folder, config))
    adapters = {}
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
    from medgraft.registry import RANDOM_SEED

    base = config["base_encoder"]
    if base.get("weights") != "random":
        return base["name"]
    if (seed := config.get("base_seed")) not in (None, RANDOM_SEED):
        raise CheckpointError(
            f"{folder} was trained on random weights of {base['name']} from seed {seed}, and this medgraft draws them "
            f"from seed {RANDOM_SEED}; pass the encoder itself"
        )
    return base["name"] if "@" in base["name"] else f"{base['name']}@random"


def _other_weights(folder: Path, grafted: Grafted, config: dict[str, Any]) -> str:
    """Why an encoder is not the one that a folder's adapters were trained on."""
    base, own = config["base_encoder"], grafted.encoder.spec
    text = f"{folder} was trained on encoder {base['name']!r} with weights {config['base_digest'][:24]}; this encoder, "
    text += f"{own.name!r}, has {grafted.base_digest[:24]}"
    if base.get("weights") == own.weights == "random" and base["name"] == own.name:
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
    own = {key.split(".", 1)[0] for key in _trained_state(grafted)}
    extra = {key.split(".", 1)[0] for key in state} - own
    if "head" in extra:
        raise CheckpointError(f"{folder} holds a head; graft with a head of the same shape before loading")
    from medgraft.classes import ClassAdapter

    for name, adapter in grafted.adapters.items():
        if isinstance(adapter, ClassAdapter):
            start = f"adapters.{name}."
            adapter.make_room({k.removeprefix(start): tuple(v.shape) for k, v in state.items() if k.startswith(start)})
    holder = nn.ModuleDict({"adapters": grafted.adapters})
    if grafted.head is not None:
        holder["head"] = grafted.head
    load_strict(holder, state, str(folder))
    grafted.activate(*config["active"])
    grafted.train(grafted.training)  # what an adapter made for the file's tensors too
