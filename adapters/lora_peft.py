"""LoRA both ways with the peft library: a folder that ``PeftModel.from_pretrained`` opens, and one that it saved.

peft (Mangrulkar et al., 2022) sees a packed ``qkv`` as one linear map, this package as three projections. Neither loses
anything: branches of rank ``r`` on ``m`` projections of one packed weight are one branch of rank ``m r`` whose ``B`` is
block-diagonal, and a branch on the whole weight is one branch per projection with the same ``A``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medgraft.adapters.lora import Lora, LoraDelta
from medgraft.checkpoints.folder import CONFIG_NAME, WEIGHTS_NAME
from medgraft.checkpoints.weights import load_strict, read_weights
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import CheckpointError, ConfigError
from medgraft.files.documents import read_json
from medgraft.grafting import Grafted

PREFIX = "base_model.model."
# Settings of peft's LoraConfig that make it another method, with the value under which it is LoRA.
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", None),
}


def save_peft(grafted: Grafted, folder: str | Path) -> Path:
    """Writes a plain LoRA graft so that ``peft.PeftModel.from_pretrained(encoder, folder)`` gives the same outputs.

    peft's format holds no head; ``grafted.save`` keeps one.

    Raises:
        ConfigError: The graft is more than one ``lora`` adapter, or has a head.
    """
    adapters = [adapter for _, adapter in grafted.named_adapters()]
    if len(adapters) != 1 or not isinstance(adapters[0], Lora):
        raise ConfigError(f"peft's folder holds one plain lora; this graft has {', '.join(grafted.active) or 'none'}")
    if grafted.head is not None:
        raise ConfigError("peft's folder has no place for a head; use save(), or set graft.head to None first")
    lora = adapters[0]
    tensors, ranks = {}, {}
    for path, branches in lora.branches().items():
        A, B = _stacked(branches, grafted.encoder.get_submodule(path))
        ranks[path] = len(A)
        tensors[f"{PREFIX}{path}.lora_A.weight"] = A
        tensors[f"{PREFIX}{path}.lora_B.weight"] = B
        if isinstance(grafted.encoder.get_submodule(path), nn.MultiheadAttention):
            tensors |= _idle_output(grafted.encoder.get_submodule(path), path, len(A))
    rank = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": grafted.encoder.spec.name,
        "r": rank,
        "lora_alpha": lora.config.scaling * rank,
        "lora_dropout": lora.config.dropout,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": f"({'|'.join(re.escape(path) for path in ranks)})",  # a pattern, matched as a whole
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {path: lora.config.scaling * r for path, r in ranks.items() if r != rank},
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, folder / WEIGHTS_NAME, {"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _stacked(branches: list[tuple[Site, LoraDelta]], module: nn.Module) -> tuple[Tensor, Tensor]:
    """Branches on rows of one weight as one branch: ``A`` stacked, ``B`` block-diagonal in the rows."""
    if branches[0][0].rows is None:
        return branches[0][1].A, branches[0][1].B
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    A = torch.cat([delta.A for _, delta in branches])
    B = A.new_zeros(len(weight), len(A))  # pyright: ignore[reportArgumentType]
    at = 0
    for site, delta in branches:
        B[site.rows, at : at + len(delta.A)] = delta.B.detach()
        at += len(delta.A)
    return A, B


def _idle_output(module: nn.Module, path: str, rank: int) -> dict[str, Tensor]:
    """A branch of zeros on the output projection of an ``nn.MultiheadAttention``, which peft wraps too."""
    assert isinstance(module, nn.MultiheadAttention)
    weight = module.out_proj.weight
    name = f"{PREFIX}{path}.base_layer.out_proj"
    zeros = {"lora_A": weight.new_zeros(rank, weight.shape[1]), "lora_B": weight.new_zeros(weight.shape[0], rank)}
    return {f"{name}.{part}.weight": value for part, value in zeros.items()}


def load_peft(folder: str | Path, encoder: Encoder, head: nn.Module | None = None) -> Grafted:
    """Makes a ``lora`` graft of a folder that peft saved.

    Module names in the folder are paths inside ``encoder``. Where the folder has branches of several ranks, the
    shorter ones are filled up with zeros.

    Args:
        folder: With peft's ``adapter_config.json`` and ``adapter_model.safetensors``.
        encoder: What the adapter was trained on; peft records no checksum, so this cannot be verified.
        head: Put on the graft as it is.

    Raises:
        CheckpointError: The folder is damaged, holds another method or a variant of LoRA, or names modules that the
            encoder does not have.
    """
    folder = Path(folder)
    config = _plain_config(folder)
    branches = _branches(read_weights(folder / WEIGHTS_NAME), folder)
    sites = _sites_by_path(encoder)
    if unknown := sorted(set(branches) - set(sites)):
        raise CheckpointError(f"{folder} has branches on modules that {encoder.spec.name!r} lacks: {unknown[:4]}")
    rank = max(len(A) for A, _ in branches.values())
    targets = tuple(site.name for path in branches for site in sites[path])
    scaling = {path: _scaling(config, path, len(A)) for path, (A, _) in branches.items()}
    common = max(scaling.values())
    lora = Lora(
        Lora.Config(rank=rank, alpha=common * rank, dropout=float(config.get("lora_dropout") or 0.0), targets=targets)
    )
    grafted = Grafted(encoder, {"lora": lora}, head)
    state = {}
    for path, (A, B) in branches.items():
        for site in sites[path]:
            rows = B if site.rows is None else B[site.rows]
            key = f"delta.{site.name.replace('.', '/')}"
            padding = (0, 0) * (A.dim() - 1) + (0, rank - len(A))
            state[f"{key}.A"] = nn.functional.pad(A, padding)
            padding = (0, 0) * (B.dim() - 2) + (0, rank - len(A), 0, 0)
            state[f"{key}.B"] = nn.functional.pad(rows, padding) * (scaling[path] / common)
    load_strict(lora, state, str(folder))
    return grafted.eval()


def _plain_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / CONFIG_NAME, CheckpointError)
        kind = config.get("peft_type")
    except AttributeError as error:
        raise CheckpointError(f"{folder / CONFIG_NAME} cannot be read: {error}") from error
    if kind != "LORA":
        raise CheckpointError(f"{folder} holds peft_type {kind!r}; only LORA becomes a lora graft")
    for name, allowed in PLAIN.items():
        if name in config and config[name] not in allowed:
            raise CheckpointError(f"{folder} is no plain LoRA: {name} is {config[name]!r}, expected {allowed[0]!r}")
    return config


def _branches(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Module path -> ``(A, B)``; branches of zeros, which change nothing, are left out."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])(?:\.[^.]+)?\.weight", key)
        if match is None:
            raise CheckpointError(f"{folder} is no plain LoRA: it holds {key!r}")
        pairs.setdefault(match[1], {})[match[2]] = value
    if half := [path for path, pair in pairs.items() if len(pair) != 2]:
        raise CheckpointError(f"{folder}: {half[0]} has only one of lora_A and lora_B")
    kept = {path: (pair["A"], pair["B"]) for path, pair in pairs.items()}
    idle = re.compile(r".+\.base_layer\.out_proj")
    return {path: pair for path, pair in kept.items() if not (idle.fullmatch(path) and not pair[1].any())}


def _scaling(config: Mapping[str, Any], path: str, rank: int) -> float:
    """``alpha / r`` of one module, by peft's rules for patterns: a key is matched at the end of the path."""

    def value(name: str, default: float) -> float:
        patterns: Mapping[str, float] = config.get(name) or {}
        hits = (v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", path))
        return float(next(hits, default))

    alpha = value("alpha_pattern", config.get("lora_alpha", 8))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _sites_by_path(encoder: Encoder) -> dict[str, list[Site]]:
    sites: dict[str, list[Site]] = {}
    for site in encoder.sites().values():
        if site.kind in ("projection", "layer"):
            sites.setdefault(site.path, []).append(site)
    return sites
