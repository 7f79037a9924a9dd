"""The file that the authors of ACE-LoRA release, to and from a medgraft adapter folder, numbers unchanged.

Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079), checkpoint ``ACE_LoRA.pt`` of their repository: a ``torch.save`` of
``{"weights": ..., "metadata": ...}`` with, below ``weights``,

- ``layer_0`` ... for the layers of the text tower, then those of the image tower (24 for BiomedCLIP), each with
  ``q_proj``, ``k_proj`` and ``v_proj`` that hold ``w_lora_A [r, C]`` and ``w_lora_B [C, r]``,
- ``img_edge_adapter``, ``img_node_adapter``, ``text_edge_adapter`` and ``text_node_adapter``, each with
  ``down.weight``, ``down.bias``, ``up.weight`` and ``up.bias``,
- ``logit_scale``, the multiplier itself and not its logarithm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from medgraft.checkpoints.folder import WEIGHTS_NAME, read_config
from medgraft.checkpoints.weights import UNRECORDED, file_digest, read_weights
from medgraft.errors import CheckpointError
from medgraft.files.archives import check_weights, names_bytearray
from medgraft.files.documents import read_json
from medgraft.grafting import Grafted
from medgraft.registry import build_adapter, build_encoder, resolve_encoder

if TYPE_CHECKING:
    from medgraft.adapters.ace_lora import AceLora
    from medgraft.encoder import Encoder

BIOMEDCLIP = "biomedclip"
SOURCE_NAME = "ace_lora_source.json"
PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
TOWERS = {"image": "img", "text": "text"}
BRANCH = re.compile(r"lora\.delta\.(image|text)/blocks/(\d+)/attn/([qkv])\.([AB])")
MAP = re.compile(r"hgnn\.layer\.(image|text)\.(edge|node)\.((?:down|up)\.(?:weight|bias))")
PREFIX = "adapters.ace_lora."


class Imported(NamedTuple):
    """What an import made.

    Attributes:
        folder: The adapter folder.
        numbers: How many were taken over.
        base_digest: Which weights of the encoder the folder is tied to, or ``UNRECORDED``.
    """

    folder: Path
    numbers: int
    base_digest: str


def published_names(keys: list[str]) -> dict[str, str]:
    """Key of :class:`AceLora`'s state -> name in the published file, nested names joined by dots.

    Raises:
        CheckpointError: The file has no place for a key.

    Example:
        >>> published_names(["scale", "lora.delta.text/blocks/0/attn/q.A", "lora.delta.image/blocks/0/attn/v.B"])
        {'scale': 'logit_scale', 'lora.delta.text/blocks/0/attn/q.A': 'layer_0.q_proj.w_lora_A', \
'lora.delta.image/blocks/0/attn/v.B': 'layer_1.v_proj.w_lora_B'}
    """
    text_layers = len({match[2] for key in keys if (match := BRANCH.fullmatch(key)) and match[1] == "text"})
    names = {}
    for key in keys:
        if match := BRANCH.fullmatch(key):
            layer = int(match[2]) + (text_layers if match[1] == "image" else 0)
            names[key] = f"layer_{layer}.{PROJECTIONS[match[3]]}.w_lora_{match[4]}"
        elif match := MAP.fullmatch(key):
            names[key] = f"{TOWERS[match[1]]}_{match[2]}_adapter.{match[3]}"
        elif key == "scale":
            names[key] = "logit_scale"
        else:
            raise CheckpointError(f"ACE-LoRA's published file has no place for {key!r}")
    return names


def read_published(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of any shape by dotted name, and the metadata, of a published file; no code in the file is run.

    Raises:
        CheckpointError: The file is missing, damaged, holds code, or is not in the published layout.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    check_weights(path)
    if names_bytearray(path):
        raise CheckpointError(f"checkpoint {path} is refused: it holds more than data (bytearray)")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, and whatever a damaged archive raises
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise CheckpointError(f"checkpoint {path} is refused: it is damaged or holds more than data ({why})") from error
    held = sorted(map(str, content)) if isinstance(content, Mapping) else [type(content).__name__]
    if not isinstance(content, Mapping) or not isinstance(content.get("weights"), Mapping):
        raise CheckpointError(
            f"checkpoint {path} is not ACE-LoRA's: it must hold the tables 'weights' and 'metadata', and holds "
            f"{', '.join(held[:6]) or 'nothing'}"
        )
    metadata = content.get("metadata", {})
    if extra := set(held) - {"weights", "metadata"}:
        raise CheckpointError(f"checkpoint {path} holds {sorted(extra)[0]!r} beside 'weights' and 'metadata'")
    if not isinstance(metadata, Mapping):
        raise CheckpointError(f"checkpoint {path}: 'metadata' must be a table, not {type(metadata).__name__}")
    return _flat(content["weights"], path), dict(metadata)


def _flat(table: Mapping[Any, Any], path: Path, prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, path, f"{prefix}{name}.")
        elif isinstance(value, Tensor) and value.is_floating_point():
            flat[f"{prefix}{name}"] = value.detach()
        else:
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"checkpoint {path}: {prefix}{name} is {kind}, not a tensor of real numbers")
    return flat


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


def to_adapter(tensors: Mapping[str, Tensor], adapter: AceLora, path: Path) -> dict[str, Tensor]:
    """The state of ``adapter`` from the tensors of a published file.

    Args:
        tensors: Of any shape, by dotted name.
        adapter: Attached to the encoder that the file belongs to; tells which keys and shapes there must be.
        path: Named in errors.

    Raises:
        CheckpointError: A key is missing or unknown, the rank is another, or a shape differs.
    """
    expected = adapter.state_dict()
    names = published_names(list(expected))
    if missing := sorted(set(names.values()) - set(tensors)):
        raise CheckpointError(f"checkpoint {path} lacks {_listed(missing)}; it is incomplete or for another encoder")
    if extra := sorted(set(tensors) - set(names.values())):
        raise CheckpointError(f"checkpoint {path} holds {_listed(extra)}, which ACE-LoRA on this encoder has not")
    ranks = {len(value) for name, value in tensors.items() if name.endswith("w_lora_A")}
    if ranks != {adapter.config.rank}:
        text = " and ".join(map(str, sorted(ranks)))
        raise CheckpointError(
            f"checkpoint {path} has LoRA of rank {text}, not {adapter.config.rank}; pass the rank to import_ace_lora()"
        )
    state = {}
    for key, name in names.items():
        value, shape = tensors[name], expected[key].shape
        if key == "scale" and value.numel() == 1:
            value = value.reshape(shape)
        if value.shape != shape:
            raise CheckpointError(f"checkpoint {path}: {name} is {tuple(value.shape)}, expected {tuple(shape)}")
        if not torch.equal(value.to(expected[key].dtype).to(value.dtype), value):
            raise CheckpointError(f"checkpoint {path}: {name} holds NaN, or {value.dtype} numbers that would change")
        state[key] = value
    return state


def import_ace_lora(path: Path, out: Path, encoder: str = BIOMEDCLIP, rank: int = 4) -> Imported:
    """Makes a medgraft adapter folder of a published file.

    The file does not say which weights of the encoder it was trained on. Where those of ``encoder`` are on this
    machine they are taken at your word and their digest is recorded; where they are not, nothing is fetched, the
    folder says ``unrecorded``, and loading it warns that the encoder could not be checked.

    Args:
        path: The published file.
        out: Folder to write.
        encoder: Name of the encoder that it was trained on.
        rank: LoRA rank of the file.

    Raises:
        CheckpointError: The file is unreadable or not of this layout, rank and encoder; nothing is written then.
    """
    tensors, metadata = read_published(path)
    alpha = metadata.get("alpha", 1.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise CheckpointError(f"checkpoint {path}: alpha in its metadata is {alpha!r}, not a positive number")
    built, has_weights = _base(encoder)
    adapter = cast("AceLora", build_adapter("ace_lora", {"rank": rank, "alpha": alpha}))
    grafted = Grafted(built, {"ace_lora": adapter})
    state = to_adapter(tensors, adapter, path)
    adapter.load_state_dict(state)
    if not has_weights:
        built.spec = built.spec.model_copy(update={"weights": UNRECORDED})
        grafted.base_digest = UNRECORDED
    folder = grafted.save(out)
    source = {
        "format": "ace_lora",
        "sha256": file_digest(path),
        "weights_sha256": file_digest(folder / WEIGHTS_NAME),
        "logit_scale_shape": list(tensors["logit_scale"].shape),
        "metadata": metadata,
    }
    (folder / SOURCE_NAME).write_text(json.dumps(source, indent=2, default=str) + "\n")
    return Imported(folder, sum(value.numel() for value in state.values()), grafted.base_digest)


def _base(name: str) -> tuple[Encoder, bool]:
    """The encoder, and whether its weights are the ones that the name means; never fetched."""
    parsed = resolve_encoder(name)
    hub = parsed.model.partition(":")[2] if parsed.model.startswith("hf-hub:") else ""
    if parsed.weights != "default" or not hub or _is_cached(hub):
        return build_encoder(name), True
    return build_encoder(f"{name}@random"), False


def _is_cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in files)


def export_ace_lora(folder: Path, path: Path) -> int:
    """Writes the adapter of a medgraft folder in the published layout; no encoder is needed.

    Metadata of the file that the folder was imported from are put back as long as the numbers are still those.

    Args:
        folder: What :meth:`medgraft.Grafted.save` or :func:`import_ace_lora` wrote.
        path: File to write.

    Returns:
        Numbers written.

    Raises:
        CheckpointError: The folder is damaged, or holds something that the layout has no place for.
    """
    config = read_config(folder)
    adapters = config["adapters"]
    if list(adapters) != ["ace_lora"] or config.get("head") is not None:
        held = [*adapters, *(["a head"] if config.get("head") is not None else [])]
        raise CheckpointError(f"{folder} holds {' and '.join(held)}; ACE-LoRA's file takes one ace_lora and no head")
    options = adapters["ace_lora"]["config"]
    required = {"depth": "all", "hypergraph": "both", "graph": "attention", "train_logit_scale": True}
    for name, value in required.items():
        if options.get(name, value) != value:
            raise CheckpointError(f"{folder} has {name} {options[name]!r}; ACE-LoRA's file takes {value!r} only")
    state = read_weights(folder / WEIGHTS_NAME, config["weights_sha256"])
    if foreign := [key for key in state if not key.startswith(PREFIX)]:
        raise CheckpointError(f"{folder}: {foreign[0]!r} is no part of the adapter that its settings name")
    state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    source = _source(folder)
    weights: dict[str, Any] = {}
    for key, name in published_names(list(state)).items():
        value = state[key].reshape(source["logit_scale_shape"]) if key == "scale" else state[key]
        layer, _, rest = name.partition(".")
        place = weights.setdefault(layer, {}) if rest else weights
        if layer.startswith("layer_"):
            projection, _, rest = rest.partition(".")
            place = place.setdefault(projection, {})
        place[rest or layer] = value
    fresh = {"r": options["rank"], "alpha": options["alpha"], "loss_type": "clip_loss_ace_hgnn"}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": weights, "metadata": source["metadata"] or fresh}, path)
    return sum(value.numel() for value in state.values())


def _source(folder: Path) -> dict[str, Any]:
    """What is known of the file that the folder was imported from, where its numbers are still that file's."""
    path = folder / SOURCE_NAME
    unknown: dict[str, Any] = {"logit_scale_shape": [], "metadata": {}}
    if not path.is_file():
        return unknown
    try:
        source = read_json(path, CheckpointError)
        unchanged = source["weights_sha256"] == file_digest(folder / WEIGHTS_NAME)
        return {name: source[name] for name in unknown} if unchanged else unknown
    except (CheckpointError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it to export without its metadata") from error
