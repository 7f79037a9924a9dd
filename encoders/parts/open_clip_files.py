"""Local files for open_clip: OpenAI's archives, older layouts, positions of other grids."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medgraft.encoders.parts.matching import load_file
from medgraft.encoders.parts.positions import fitted, recorded_grid
from medgraft.encoders.parts.timm_files import from_openai, own_grid, positions_before
from medgraft.errors import CheckpointError

logger = logging.getLogger(__name__)


def checkpoint_in(folder: Path) -> Path:
    """The file of weights in a folder.

    Raises:
        CheckpointError: There is none.
    """
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
    files = [folder / n for n in names if (folder / n).is_file()]
    files += [path for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
    if not files:
        raise CheckpointError(f"{folder} holds no weights (*.safetensors, *.bin, *.pt)")
    return files[0]


def with_activation(name: str, model: str, config: dict[str, Any], path: Path, sha256: str | None) -> dict[str, Any]:
    """A model's description with QuickGELU where a file is one of OpenAI's archives and nothing says otherwise.

    A file without their mark may come from either kind of training, which is said where the library knows both.

    Args:
        name: Of the encoder.
        model: Name of the model.
        config: open_clip's ``model_cfg``.
        path: The file.
        sha256: Its expected digest.
    """
    import open_clip

    if "quick_gelu" in config or "timm_model_name" in config["vision_cfg"]:
        return config
    if from_openai(path, sha256):
        return {**config, "quick_gelu": True}
    if f"{model}-quickgelu" in open_clip.list_models():
        logger.warning(
            "encoder %s: %s does not say which activation it was trained with; GELU is taken. Weights that began as "
            "OpenAI's need open_clip:%s-quickgelu",
            name,
            path,
            model,
        )
    return config


def load(network: Any, path: Path, sha256: str | None, grid: Sequence[int] | None) -> None:
    """Loads a local file into a pair of towers, strictly but for what is no part of them.

    Args:
        network: The library's model.
        path: Safetensors or PyTorch file.
        sha256: Expected digest of the file.
        grid: Grid of the file's positions, if the user says it.

    Raises:
        CheckpointError: The file is unreadable, does not fit, or does not say how its positions lie.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = convert_to_custom_text_state_dict(convert_state_dict(network, state))
        if "logit_scale" in state:
            state["logit_scale"] = state["logit_scale"].reshape(network.logit_scale.shape)
        return state

    def refit(state: dict[str, Tensor]) -> dict[str, Tensor]:
        key, positions, before = _positions(network.visual)
        if positions is not None and key in state:
            stored = tuple(grid) if grid else recorded_grid(path, positions[1])
            state[key] = fitted(state[key], positions[0], before, stored, str(path))
        return state

    # Older transformers kept the positions of BERT as a buffer; OpenAI's archives carry sizes as tensors.
    drop = [r"position_ids$", r"^(input_resolution|context_length|vocab_size)$", r"^text_decoder\."]
    load_file(network, path, sha256, drop=drop, convert=convert, refit=refit)


def _positions(visual: Any) -> tuple[str, tuple[tuple[int, ...], tuple[int, ...]] | None, int]:
    """Name of an image tower's table of positions, its grid and patch, and how many stand for no place."""
    if hasattr(visual, "trunk"):
        return "visual.trunk.pos_embed", own_grid(visual.trunk), positions_before(visual.trunk)
    grid = (tuple(visual.grid_size), tuple(visual.patch_size)) if hasattr(visual, "grid_size") else None
    return "visual.positional_embedding", grid, 1
