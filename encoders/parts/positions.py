"""Learned positions of a file, and the grid that they were trained on.

A table of 256 positions fits a grid of 16 x 16 and one of 8 x 32, and nothing in its shape tells which it was. What the
file's neighbours record decides, or the user does; else a number of positions that is a square (a cube for volumes) is
taken for one, and a model of another shape refuses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.errors import CheckpointError

SIZES = ("img_size", "image_size", "input_size", "grid_size", "grid")


def even(count: int, axes: int) -> tuple[int, ...] | None:
    """The grid of ``count`` cells with equal sides, if there is one.

    Example:
        >>> even(256, 2), even(216, 3), even(200, 2)
        ((16, 16), (6, 6, 6), None)
    """
    side = round(count ** (1 / axes))
    return (side,) * axes if side**axes == count else None


def recorded_grid(path: Path, patch: Sequence[int]) -> tuple[int, ...] | None:
    """The grid that a ``config.json`` beside a file, or the file's own metadata, says that it was trained on.

    Args:
        path: The file.
        patch: Size of a patch.
    """
    for facts in (*_metadata(path), *_beside(path)):
        for name in SIZES:
            size = _size(facts.get(name), len(patch))
            if size is not None:
                if name.startswith("grid"):
                    return size
                if all(length % step == 0 for length, step in zip(size, patch, strict=True)):
                    return tuple(length // step for length, step in zip(size, patch, strict=True))
    return None


def _metadata(path: Path) -> list[Mapping[str, Any]]:
    if path.suffix != ".safetensors":
        return []
    from safetensors import safe_open

    with safe_open(path, "pt") as handle:
        return [handle.metadata() or {}]


def _beside(path: Path) -> list[Mapping[str, Any]]:
    sections: list[Mapping[str, Any]] = []
    for name in ("config.json", "open_clip_config.json"):
        if (path.parent / name).is_file():
            try:
                whole = json.loads((path.parent / name).read_text())
            except (OSError, ValueError):
                continue
            # timm keeps what it built with in front of what the weights were published with.
            for inner in ("model_args", "vision_config", "pretrained_cfg", "model_cfg", ""):
                part = whole.get(inner) if inner and isinstance(whole, dict) else whole
                if isinstance(part, dict):
                    sections += [part.get("vision_cfg", part)]
    return sections


def _size(value: Any, axes: int) -> tuple[int, ...] | None:
    if isinstance(value, str):
        value = [int(part) for part in value.replace("x", ",").strip("[]()").split(",") if part.strip().isdigit()]
    if isinstance(value, int):
        value = [value] * axes
    if not isinstance(value, list | tuple) or len(value) < axes or not all(isinstance(each, int) for each in value):
        return None
    return tuple(value[-axes:])  # ``input_size`` has the channels in front


def fitted(
    table: Tensor,
    target_grid: Sequence[int],
    n_prefix: int,
    stored: Sequence[int] | None,
    where: str,
) -> Tensor:
    """A table of positions for a model's grid.

    Args:
        table: ``[1, N, C]`` or ``[N, C]``, prefix tokens first.
        target_grid: Grid of the model.
        n_prefix: Positions in front that stand for no place.
        stored: Grid of the table, where it is known.
        where: What was read, for errors.

    Returns:
        The table itself where it is of that grid, one that was interpolated, or the table as it is where its number of
        positions is another and its grid is unknown.

    Raises:
        CheckpointError: ``stored`` is no grid of so many positions, or the grid is unknown, the number is that of a
            square or cube, and the model's grid is none.
    """
    target_grid, axes = tuple(target_grid), len(target_grid)
    count = table.shape[-2] - n_prefix
    if stored is not None and math.prod(stored) != count:
        shape = " x ".join(map(str, stored))
        raise CheckpointError(f"{where} has {count} positions, which are no grid of {shape}")
    if stored is None:
        if count != math.prod(target_grid):
            return table
        usual = even(count, axes)
        if usual is not None and usual != target_grid:
            a, b = (" x ".join(map(str, grid)) for grid in (usual, target_grid))
            raise CheckpointError(
                f"{where} has {count} positions and does not say whether they are {a} or the model's {b}; give its own "
                f"as weights_grid={usual}, or put the config.json that it was made with beside it"
            )
        return table
    if tuple(stored) == target_grid:
        return table
    front, rest = table[..., :n_prefix, :], table[..., n_prefix:, :]
    maps = rest.reshape(-1, count, rest.shape[-1]).transpose(1, 2).unflatten(2, tuple(stored)).float()
    how: dict[str, Any] = {"mode": "bicubic", "antialias": True} if axes == 2 else {"mode": "trilinear"}
    maps = F.interpolate(maps, size=target_grid, align_corners=False, **how).flatten(2).transpose(1, 2)
    maps = maps.to(table.dtype).reshape(*rest.shape[:-2], math.prod(target_grid), rest.shape[-1])
    return torch.cat([front, maps], dim=-2)
