"""What adapters that show images to language models share: the encoders that they fit, and published weights.

OpenFlamingo (Awadalla et al., 2023, arXiv 2308.01390) stores a ``torch.save`` of ``{"model_state_dict": ...}`` and of
facts about the training; names may begin with ``module.``. In it lie

- ``perceiver.latents``, ``perceiver.layers.{i}.{0,1}...``, ``perceiver.norm``: the resampler;
- ``lang_encoder.<path of the blocks>.{i}.gated_cross_attn_layer...``: the cross-attention before block ``i``;
- ``lang_encoder.gated_cross_attn_layers.{i}...`` in its place in earlier checkpoints, beside it in unfiltered ones;
- embeddings of the language model, with rows for ``<image>`` and ``<|endofchunk|>``.

Block ``i`` has one where ``(i + 1) % every == 0``. M3D-LaMed (Bai et al., 2024, arXiv 2404.00578) stores
``model.mm_projector.projector.{0,2}.{weight,bias}``. Names and shapes were read in both repositories' code; their files
themselves were not at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from medgraft.adapter import Support
from medgraft.adapters.parts.published_weights import part_of
from medgraft.checkpoints.weights import read_weights
from medgraft.encoder import Encoder
from medgraft.encoder.towers import text_tower, visual_tower
from medgraft.errors import CheckpointError, ConfigError
from medgraft.grafting import Grafted
from medgraft.language_model import LanguageModel
from medgraft.registry import build_adapter, build_encoder

if TYPE_CHECKING:
    from medgraft.adapters.soft_prefix import SoftPrefix
    from medgraft.adapters.xattn import Xattn

BLOCK = re.compile(r"(?:.*\.)?(?:gated_cross_attn_layers\.(\d+)|(\d+)\.gated_cross_attn_layer)\.attn_gate")
HEAD_DIM = 64
"""Width of a head in every published OpenFlamingo; the weights hold its product with the number of heads alone."""


def beside_language_model(encoder: Encoder) -> Support:
    """Whether an encoder is a visual tower beside a language model."""
    reader = text_tower(encoder)
    if visual_tower(encoder) is None or reader is None:
        return Support(False, "it needs a visual tower and a language model; pair:<visual>|causal_lm:<model> is both")
    if not isinstance(reader[1], LanguageModel):
        return Support(False, f"{reader[1].spec.name} reads texts and continues none; name a causal_lm")
    return Support(True)


def openflamingo_state(state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a checkpoint by the names of :class:`~medgraft.adapters.xattn.Xattn`'s state, and keys left out.

    Args:
        state_dict: Name -> tensor of any shape.

    Raises:
        CheckpointError: It has no resampler or no cross-attention.

    Example:
        >>> import torch
        >>> names = ["perceiver.latents", "lang_encoder.gated_cross_attn_layers.3.attn_gate", "lang_encoder.wte.weight"]
        >>> state, others = openflamingo_state({name: torch.zeros(1) for name in names})
        >>> sorted(state), others
        (['layers.3.attn_gate', 'resampler.latents'], ['lang_encoder.wte.weight'])
    """
    resampler, _ = part_of(state_dict, "latents", "perceiver")
    state = {f"resampler.{key}": value for key, value in resampler.items()}
    places: dict[int, str] = {}
    for key in state_dict:
        if match := BLOCK.fullmatch(key):
            places.setdefault(int(match[1] or match[2]), key.removesuffix("attn_gate"))
    if not places:
        raise CheckpointError("the state dict has no gated_cross_attn_layer; is it a checkpoint of OpenFlamingo?")
    for place, prefix in sorted(places.items()):
        state |= {f"layers.{place}.{k[len(prefix) :]}": v for k, v in state_dict.items() if k.startswith(prefix)}
    used = re.compile(r"(?:.*\.)?(?:perceiver\.|gated_cross_attn_layers?\.|\d+\.gated_cross_attn_layer\.).*")
    return state, [key for key in state_dict if not used.fullmatch(key)]


def openflamingo_options(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Options of ``xattn`` that fit the tensors of :func:`openflamingo_state`, maps ``[out, in]`` by name.

    Raises:
        CheckpointError: Blocks are not at even distances, or a tensor that tells a size is missing.
    """
    blocks = sorted({int(key.split(".")[1]) for key in state if key.startswith("layers.")})
    every = blocks[1] - blocks[0] if len(blocks) > 1 else blocks[0] + 1
    if blocks != list(range(blocks[0], blocks[-1] + 1, every)):
        raise CheckpointError(f"the checkpoint has cross-attentions before blocks {blocks}, at no even distance")
    first = f"layers.{blocks[0]}"
    try:
        inner, hidden = state[f"{first}.attn.to_q.weight"], state[f"{first}.ff.1.weight"]
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error.args[0]}; it is incomplete") from error
    depth = {key.split(".")[2] for key in state if key.startswith("resampler.layers.")}
    return {
        "every": every,
        "first": blocks[0],
        "heads": max(len(inner) // HEAD_DIM, 1),
        "head_dim": min(HEAD_DIM, len(inner)),
        "ff_mult": len(hidden) // hidden.shape[1],
        "resampler_depth": len(depth),
        "num_latents": len(state["resampler.latents"]),
    }


def import_openflamingo(path: Path, out: Path, encoder: str | None) -> str:
    """Makes an adapter folder of ``xattn`` from a checkpoint of OpenFlamingo.

    Args:
        path: The checkpoint.
        out: Folder to write.
        encoder: Image encoder and language model that it was trained on, as one name.

    Returns:
        What was done, in words.

    Raises:
        ConfigError: No encoder was named.
        CheckpointError: The file is unreadable or does not fit the encoder; nothing is written then.
    """
    name = _named(encoder, "xattn", "pair:<CLIP ViT-L/14>|causal_lm:<the language model>")
    tensors = read_weights(path)
    state, _ = openflamingo_state(tensors)
    adapter = cast("Xattn", build_adapter("xattn", openflamingo_options(state)))
    grafted = Grafted(build_encoder(name), {"xattn": adapter})
    others = adapter.load_openflamingo(tensors)
    return _written(grafted, out, f"OpenFlamingo, {len(adapter.layers)} cross-attentions", name, others)


def import_m3d(path: Path, out: Path, encoder: str | None) -> str:
    """Makes an adapter folder of ``soft_prefix`` from M3D-LaMed's projector; see :func:`import_openflamingo`."""
    name = _named(encoder, "soft_prefix", "pair:m3d:<model>@<its file>|causal_lm:<the language model>")
    tensors = read_weights(path)
    state, _ = part_of(tensors, "projector.0.weight")
    layers = len([key for key in state if key.startswith("projector.") and key.endswith(".weight")])
    adapter = cast("SoftPrefix", build_adapter("soft_prefix", {"projector": "spatial", "layers": layers}))
    grafted = Grafted(build_encoder(name), {"soft_prefix": adapter})
    others = adapter.load_m3d(tensors)
    return _written(grafted, out, f"M3D-LaMed's projector of {layers} linear maps", name, others)


def _named(encoder: str | None, adapter: str, form: str) -> str:
    if encoder is None:
        raise ConfigError(
            f"medgraft import {adapter}: the file does not say which encoder it is for; --encoder '{form}'"
        )
    return encoder


def _written(grafted: Grafted, out: Path, what: str, encoder: str, others: list[str]) -> str:
    folder = grafted.save(out)
    text = f"{sum(grafted.trainable_count().values()):,} numbers of {what}, written to {folder}, for encoder {encoder}"
    if not others:
        return text
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"{text}\nnot used, and left as the encoder has them: {', '.join(others[:3])}{more}"
