"""Local files for timm models: layouts of their authors, positions of other grids, stems of other channels."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medgraft.checkpoints.weights import read_weights
from medgraft.encoders.parts.matching import load_file
from medgraft.encoders.parts.positions import fitted, recorded_grid
from medgraft.errors import CheckpointError

OPENAI = frozenset(("input_resolution", "context_length", "vocab_size"))
"""Numbers that OpenAI's archives of CLIP hold beside the weights. Those models have QuickGELU, and their copies with
other weights do not keep the numbers."""


def from_openai(path: Path, sha256: str | None) -> bool:
    """Whether a file is one of OpenAI's archives of CLIP.

    Args:
        path: Safetensors, of which only the names are read, or PyTorch file.
        sha256: Its expected digest.

    Raises:
        CheckpointError: It cannot be read.
    """
    if path.suffix == ".safetensors" and sha256 is None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as handle:
                names = list(handle.keys())
        except (SafetensorError, OSError):
            names = list(read_weights(path))  # which says what is wrong with it
    else:
        names = list(read_weights(path, sha256))
    return {key.rpartition(".")[2] for key in names} >= OPENAI


class OtherPadding(CheckpointError):
    """Weights of an EfficientNet that pads as TensorFlow does, for a model that does not."""


def convert(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Converts the original authors' checkpoints as timm does (DINOv2, EVA, JAX), and lukemelas' EfficientNets.

    Tensors have any shape.

    Raises:
        OtherPadding: The file is an EfficientNet that pads as TensorFlow does, and the model does not.
    """
    if "_conv_stem.weight" in state:
        return rename_efficientnet(model, state)
    convert_keys = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return state if convert_keys is None else convert_keys(state, model)


def rename_efficientnet(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of EfficientNet-PyTorch as timm's; the tensors, of any shape, are the same.

    Raises:
        OtherPadding: The model pads evenly; these weights were trained with TensorFlow's padding.
    """
    from timm.layers.conv2d_same import Conv2dSame

    if not isinstance(getattr(model, "conv_stem", None), Conv2dSame):
        raise OtherPadding(
            "these are weights of EfficientNet-PyTorch, trained with TensorFlow's padding; their model is timm's "
            "tf_efficientnet of the same size"
        )
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    inner = {"_depthwise_conv": "conv_dw", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
    wide = inner | {"_expand_conv": "conv_pw", "_project_conv": "conv_pwl", "_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
    slim = inner | {"_project_conv": "conv_pw", "_bn1": "bn1", "_bn2": "bn2"}

    def rename(key: str) -> str:
        match = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
        if match is None:
            name, _, rest = key.partition(".")
            return f"{top[name]}.{rest}" if name in top else key
        index, name, rest = int(match[1]), match[2], match[3]
        names = wide if f"_blocks.{index}._expand_conv.weight" in state else slim
        return f"{places[index]}.{names[name]}.{rest}"

    return {rename(key): value for key, value in state.items()}


def own_grid(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Grid and patch of a model with a plain table of learned positions; ``None`` for others."""
    table, patches = getattr(model, "pos_embed", None), getattr(model, "patch_embed", None)
    grid, patch = getattr(patches, "grid_size", None), getattr(patches, "patch_size", None)
    if not isinstance(table, Tensor) or table.ndim != 3 or not grid or not patch:
        return None
    return tuple(grid), tuple(patch) if isinstance(patch, list | tuple) else (patch, patch)


def positions_before(model: Any) -> int:
    """Positions in front of those of the patches."""
    return 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 0))


def refit(model: Any, path: Path, grid: Sequence[int] | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Brings positions to the model's grid, and a stem of three channels to a model of one, as timm does.

    Positions are ``[1, N, C]``, a stem's weight is ``[C, 3, *kernel]``; other tensors stay as they are.
    """
    from timm.models._manipulate import adapt_input_conv

    model_grid = own_grid(model)
    if model_grid is not None and "pos_embed" in state and state["pos_embed"].ndim == 3:
        stored = tuple(grid) if grid else recorded_grid(path, model_grid[1])
        count = state["pos_embed"].shape[1] - positions_before(model)
        if not grid and stored is not None and math.prod(stored) != count:
            stored = None  # of another layout of prefix tokens, which timm converts
        state["pos_embed"] = fitted(state["pos_embed"], model_grid[0], positions_before(model), stored, str(path))
    stems = model.pretrained_cfg.get("first_conv") or ()
    for name in (stems,) if isinstance(stems, str) else stems:
        key, table = f"{name}.weight", model.state_dict().get(f"{name}.weight")
        if key in state and table is not None and state[key].ndim == 4 and state[key].shape[1] == 3 != table.shape[1]:
            state[key] = adapt_input_conv(table.shape[1], state[key])
    return state


def load(model: Any, path: Path, sha256: str | None, grid: Sequence[int] | None) -> None:
    """Loads a local file into a timm model, strictly but for its classifier.

    Args:
        model: Without a classifier.
        path: Safetensors or PyTorch file.
        sha256: Expected digest of the file.
        grid: Grid of the file's positions, if the user says it.

    Raises:
        CheckpointError: The file is unreadable, does not fit, or does not say how its positions lie.
    """
    names = model.pretrained_cfg.get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    drop = [*(rf"^{name}\." for name in (*names, "head", "fc")), *(rf"^{name}$" for name in OPENAI)]
    load_file(
        model,
        path,
        sha256,
        drop=drop,
        convert=lambda state: convert(model, state),
        refit=lambda state: refit(model, path, grid, state),
    )


def reshape_published(model: Any) -> None:
    """Brings positions that timm fetched to the model's grid, where that has as many cells in another shape.

    timm compares numbers of positions only, and takes those of 16 x 16 for 8 x 32 as they are.
    """
    grid, size = own_grid(model), model.pretrained_cfg.get("input_size")
    if grid is None or not size:
        return
    stored = tuple(length // step for length, step in zip(size[1:], grid[1], strict=True))
    count = model.pos_embed.shape[1] - positions_before(model)
    if stored != grid[0] and stored[0] * stored[1] == count:
        table = fitted(model.pos_embed.data, grid[0], positions_before(model), stored, "the published file")
        model.pos_embed.data = table


def quick_gelu(model: str, source: str | Path, sha256: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """QuickGELU for OpenAI's own archives of CLIP, whichever of timm's names for them was given."""
    if not isinstance(source, Path) or "clip" not in model or "act_layer" in options:
        return {}
    return {"act_layer": "quick_gelu"} if from_openai(source, sha256) else {}


def grey(data: dict[str, Any]) -> dict[str, Any]:
    """Settings of a transform for one channel: the mean over three of their means and deviations."""
    return data | {name: (sum(data[name]) / len(data[name]),) for name in ("mean", "std")}
