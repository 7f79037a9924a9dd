"""M3D-CLIP's vision encoder: a 3D ViT-B for CT volumes of 32 x 256 x 256.

Bai et al., "M3D: Advancing 3D Medical Image Analysis with Multi-Modal Large Language Models", 2024 (arXiv 2404.00578);
a fork of MONAI's ViT (Cardoso et al., 2022, arXiv 2211.02701) whose state dict no release of MONAI from 1.4 on loads
strictly. It saw CT only: on MRI its features are those of another modality, and need an adapter that trains.

``m3d:clip`` gives CLS and the 2,048 tokens of a 8 x 16 x 16 grid, ``m3d:clip_pooled`` the 256 tokens that are left
after averaging cubes of 2 x 2 x 2, as the published language model reads them (without its projection), and
``m3d:clip_pooled_256`` the same from volumes of 256 x 256 x 256, which it averages over eight slices itself: the input
of Brain-Adapter (arXiv 2501.16282), whose bottleneck sees the whole volume before that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.checkpoints.weights import load_strict, read_weights
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders.parts.hub import demand
from medgraft.encoders.parts.loading import StagedEncoder, file_in, finish, hub_file, options_of, origin, seeded
from medgraft.encoders.parts.m3d_vit import PATCH, SIZE, M3DViT
from medgraft.encoders.parts.matching import note_match
from medgraft.errors import CheckpointError, ConfigError, DataError
from medgraft.fast.convolution import average_pool_3d
from medgraft.features import Features
from medgraft.sources import Source

HUB = ("GoodBaiBai88/M3D-CLIP", "model.safetensors")
FILES = ("model.safetensors", "pretrained_ViT.bin", "pytorch_model.bin")
CUBE = (256, 256, 256)

# -- published weights ------------------------------------------------------------------------------------------------

ANCHOR = "patch_embedding.patch_embeddings.1.weight"
POSITIONS = "patch_embedding.position_embeddings"
# The rest of M3D-CLIP, and what newer releases of MONAI put into the same encoder.
BESIDE = ("language_encoder.", "mm_vision_proj.", "mm_language_proj.", "logit_scale")
NOT_ENCODER = ("classification_head.", ".norm_cross_attn.", ".cross_attn.")


def resize_positions(positions: Tensor, grid: Sequence[int], target: Sequence[int]) -> Tensor:
    """Trilinear interpolation of learned positions to another grid.

    Args:
        positions: ``[1, N, C]``.
        grid: ``(d, h, w)`` with ``N = d h w``.
        target: Wanted grid.

    Returns:
        ``[1, N', C]``; the same tensor where the grids agree.
    """
    if tuple(grid) == tuple(target):
        return positions
    maps = positions.transpose(1, 2).unflatten(2, tuple(grid))
    return F.interpolate(maps, size=tuple(target), mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)


def vit_state(state: Mapping[str, Tensor], grid: Sequence[int], where: str = "the checkpoint") -> dict[str, Tensor]:
    """The vision encoder's tensors in a published checkpoint, in float32 and for a grid.

    M3D-CLIP keeps them under ``vision_encoder.`` or bare (``pretrained_ViT.bin``), M3D-LaMed under
    ``model.vision_tower.vision_tower.``; training code adds ``module.``. Whatever precedes them is stripped, and the
    other parts of those models (text tower, projections, language model) are left out.

    Args:
        state: Name -> tensor of any shape, as read.
        grid: The patch grid of the model; positions of the published 8 x 16 x 16 grid are interpolated to it.
        where: What is read, for the error.

    Raises:
        CheckpointError: There is no such encoder in it, or more than one, or its grid is not known.
    """
    prefixes = [key.removesuffix(ANCHOR) for key in state if key == ANCHOR or key.endswith(f".{ANCHOR}")]
    if len(prefixes) != 1:
        sample = ", ".join(prefixes or list(state)[:4]) or "nothing"
        raise CheckpointError(f"{where} holds {len(prefixes)} M3D vision encoders, and one is needed; it has {sample}")
    inner = {key.removeprefix(prefixes[0]): value for key, value in state.items() if key.startswith(prefixes[0])}
    inner = {k: v for k, v in inner.items() if not k.startswith(BESIDE) and not any(part in k for part in NOT_ENCODER)}
    # The published file may hold views of one flat storage in bfloat16.
    inner = {key: value.detach().clone().float() for key, value in inner.items()}
    positions = inner.get(POSITIONS)
    published = tuple(length // step for length, step in zip(SIZE, PATCH, strict=True))
    alike = (
        math.prod(grid) != math.prod(published) or tuple(grid) == published
    )  # as many tokens in another shape are not
    if positions is not None and (positions.shape[1] != math.prod(grid) or not alike):
        if positions.shape[1] != math.prod(published):
            raise CheckpointError(
                f"{where} has {positions.shape[1]} positions, neither the {math.prod(grid)} of the grid {tuple(grid)} "
                f"nor the published {math.prod(published)}; build with the img_size that it was trained on"
            )
        inner[POSITIONS] = resize_positions(positions, published, grid)
    return inner


# -- the encoder ------------------------------------------------------------------------------------------------------


def prepare_volume(raw: Any, size: Sequence[int]) -> Tensor:
    """Volume ``[D, H, W]`` of any range -> ``float32 [1, *size]`` in 0..1, as M3D prepares its data.

    The whole range is scaled to 0..1 (no Hounsfield window), the box around all values above 0 is cut out, and the
    rest is resized by averaging areas.

    Raises:
        DataError: It has other than three axes, is empty, or holds what is not a number.
    """
    values = torch.as_tensor(np.ascontiguousarray(raw), dtype=torch.float32)
    if values.ndim != 3 or values.numel() == 0:
        raise DataError(f"a volume must be [D, H, W], got {list(values.shape)}")
    if not bool(values.isfinite().all()):
        raise DataError("a volume must be finite; it holds nan or inf")
    values = values - values.amin()
    values = values / values.amax().clamp_min(1e-8)
    inside = values.nonzero()
    if len(inside):
        low, high = inside.amin(dim=0).tolist(), (inside.amax(dim=0) + 1).tolist()
        values = values[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    return F.interpolate(values[None, None], size=tuple(size), mode="area")[0]


class M3DEncoder(StagedEncoder):
    """The ViT as an encoder, block by block.

    Args:
        spec: Facts; its ``input_size`` may be larger than what the network runs on.
        model: The network.
        pooled_tokens: Averages the tokens over cubes of 2 x 2 x 2 and drops CLS; ``pooled`` is then their mean.
    """

    def __init__(self, spec: EncoderSpec, model: M3DViT, pooled_tokens: bool = False) -> None:
        super().__init__(spec)
        self.model = model
        self.network_size = model.img_size
        self.block_grid = (1, model.grid)
        self.has_cls = not pooled_tokens
        self.set_blocks([f"model.blocks.{i}" for i in range(len(model.blocks))])
        self.attention = [
            AttentionLayout("packed", f"{path}.attn.qkv", spec.heads, spec.dim, out_path=f"{path}.attn.out_proj")
            for path in self.block_paths()
        ]

    def prepare(self, raw: Any) -> Tensor:
        """Volume ``float32 [x, y, z]`` in RAS orientation -> ``float32 [1, *input_size]``, axial slices first.

        See :func:`prepare_volume`. Which way each axis runs is not published; training flipped all of them.
        """
        values = np.asarray(raw)
        return prepare_volume(values.T, self.spec.input_size)

    def resize(self, x: Tensor) -> Tensor:
        """Averages areas, as the published preparation does; 256 x 256 x 256 becomes means of eight slices.

        ``[B, channels, *any] -> [B, channels, *network_size]``.
        """
        size = self.model.img_size
        return x if tuple(x.shape[2:]) == size else F.interpolate(x, size=size, mode="area")

    def checked(self, x: Tensor) -> Tensor:
        """A prepared batch ``[B, channels, *input_size]`` in the network's size, ``[B, channels, *network_size]``.

        One of the network's own size is taken too, as an adapter of the input may return it.
        """
        size = self.model.img_size
        if x.ndim == 5 and x.shape[1] == self.spec.channels and tuple(x.shape[2:]) == size:
            return x
        return self.resize(super().checked(x))

    def embed(self, x: Tensor) -> Tensor:
        """Volumes ``[B, channels, *network_size]`` -> CLS and patches with positions, ``[B, 1 + N, C]``."""
        return self.model.embed(x)

    def pool(self, x: Tensor) -> Features:
        """Final norm of ``[B, 1 + N, C]``; ``pooled``, ``[B, C]``, is CLS, or the mean of the pooled tokens."""
        tokens = self.model.norm(x)
        if self.has_cls:
            return Features(tokens, tokens[:, 0], 1, self.model.grid)
        maps = average_pool_3d(tokens[:, 1:].transpose(1, 2).unflatten(2, self.model.grid), 2)
        tokens = maps.flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(dim=1), 0, tuple(maps.shape[2:]))


class M3dSource(Source):
    """Entry point ``m3d``."""

    name = "m3d"

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "clip": "3D ViT-B of M3D-CLIP on 32 x 256 x 256, CLS and 2,048 tokens; pre-trained on CT only",
            "clip_pooled": "the same, its tokens averaged over 2 x 2 x 2 to 256, without CLS",
            "clip_pooled_256": "clip_pooled on volumes prepared at 256 x 256 x 256, for an adapter of the input",
        }

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        img_size: Sequence[int] = SIZE,
        volume_size: Sequence[int] | None = None,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder of volumes ``[1, D, H, W]``.

        Args:
            model: A key of :meth:`models`.
            weights: ``"default"`` (from the hub), ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of the local file.
            img_size: Depth, height and width of a prepared volume, multiples of 4, 16 and 16; positions are
                interpolated where it is not the published one.
            volume_size: Size of a prepared volume, where the encoder is to resize it to ``img_size`` itself; by
                default ``img_size``, or 256 x 256 x 256 for ``clip_pooled_256``.
            **options: Of :class:`M3DViT`, for encoders of one's own.

        Raises:
            ConfigError: An option does not fit.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        name, source, size = f"m3d:{model}", origin(weights, sha256), tuple(int(n) for n in img_size)
        if source == "default":
            demand(name, HUB[0])
        with seeded(), options_of(name):
            network = M3DViT(size, **options)
        pooled = model != "clip"
        if pooled and min(network.grid) < 2:
            raise ConfigError(f"encoder {name}: a grid of {network.grid} has no cubes of 2 x 2 x 2 tokens")
        if source != "random":
            path = hub_file(name, *HUB) if source == "default" else file_in(Path(source), FILES)
            state = vit_state(read_weights(path, sha256), network.grid, str(path))
            note_match(network, load_strict(network, state, str(path)))
        prepared = volume_size or (CUBE if model == "clip_pooled_256" else size)
        spec = EncoderSpec(
            name=name,
            modality="volume",
            input_size=tuple(int(n) for n in prepared),
            channels=options.get("channels", 1),
            intensity="minimum and maximum of the volume scaled to 0..1, cropped to what is above 0",
            dim=network.norm.normalized_shape[0],
            heads=network.heads,
            pooling="mean" if pooled else "cls",
            licence={"random": "Apache-2.0", "default": "Apache-2.0"}.get(str(source), "unknown"),
            cohorts=("M3D-Cap",) if source == "default" else (),
            weights="random",
        )
        return finish(M3DEncoder(spec, network, pooled_tokens=pooled), source)
