"""The embedded encoders: small, shipped with the package, pre-trained on generated cohorts.

They exist so that the first sweep needs no download, no account and no GPU. Three dual encoders are registered:

``embedded:chest``
    a 2D ViT with a convolutional stem on 128 x 128 radiographs, and a word-level text tower, trained together with a
    sigmoid image-sentence loss (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023),
``embedded:brain``
    the same ViT in 3D on 64 x 80 x 64 T1 volumes of 3 mm, trained to regress anatomy in a healthy ageing population,
    and a text tower trained to read the numbers in clinical notes; the two share no space,
``embedded:slices``
    the 2D ViT on axial slices of such volumes, 64 x 80 of 3 mm, trained to regress the same anatomy from a few slices
    that it reads one by one, and a text tower trained to tell what a sentence about a brain is about; made for
    ``inflate3d``.

All saw generated data only, of a setting that differs from the benchmark's on purpose. The scripts that trained
them are ``python -m medgraft.benchmarks.pretrain.chest``, ``... .brain`` and ``... .slices``; their logs and held-out
results lie beside the weights. The convolutional stem follows Xiao et al., "Early Convolutions Help Transformers See
Better" (NeurIPS 2021).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medgraft.checkpoints.weights import file_digest, load_strict, read_weights
from medgraft.encoder import DualEncoder, Encoder, EncoderSpec, TextEncoder
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders.parts.shipped import read_card, weights_folder
from medgraft.features import Features
from medgraft.modalities.image import luminance
from medgraft.sources import Source

CHEST_SIZE = (128, 128)
BRAIN_SIZE = (64, 80, 64)
SLICE_SIZE = BRAIN_SIZE[:2]
SHARED_DIM = 128
STEM_WIDTHS: dict[int, tuple[int, int, int]] = {2: (24, 48, 96), 3: (16, 32, 64)}
WORD = re.compile(r"[a-z]+|\d+|[^\sa-z\d]")
SPECIALS = ("[pad]", "[cls]", "[unk]")


class Block(nn.Module):
    """Pre-norm transformer block with a packed qkv; ``[B, N, C] -> [B, N, C]``."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, mlp_ratio * dim)
        self.fc2 = nn.Linear(mlp_ratio * dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Applies attention and MLP; ``mask`` ``[B, N]`` is true for tokens that may be attended to."""
        B, N, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :])
        x = x + self.proj(mixed.transpose(1, 2).reshape(B, N, C))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def _layouts(depth: int, heads: int, dim: int) -> list[AttentionLayout]:
    return [
        AttentionLayout("packed", f"blocks.{i}.qkv", heads=heads, dim=dim, out_path=f"blocks.{i}.proj")
        for i in range(depth)
    ]


class ConvStemViT(Encoder):
    """ViT with a convolutional stem of stride 16 in 2D or 3D.

    Args:
        spec: Facts; ``input_size`` must be divisible by 16 on each axis.
        depth: Number of blocks.
        shared_dim: Width of the space shared with text, 0 for none.
    """

    def __init__(self, spec: EncoderSpec, depth: int = 4, shared_dim: int = 0) -> None:
        super().__init__(spec)
        dim, rank = spec.dim, len(spec.input_size)
        self.grid = tuple(size // 16 for size in spec.input_size)
        self.stem = _stem(rank, dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, int(np.prod(self.grid)) + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, spec.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.shared = nn.Linear(dim, shared_dim) if shared_dim else nn.Identity()
        self.attention = _layouts(depth, spec.heads, dim)
        self.block_stages = range(1, depth + 1)
        self.n_stages = depth + 1

    def embed(self, x: Tensor) -> Tensor:
        """Prepared batch ``[B, 1, *size]`` -> tokens with CLS and positions, ``[B, 1 + N, C]``."""
        patches = self.stem(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(x.shape[0], -1, -1), patches], dim=1) + self.position

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """``[B, 1, *size] -> [B, 1 + N, C]``; stage 1 follows the stem, stage ``1 + i`` precedes block ``i``."""
        if stop == 0:
            return x
        x = self.embed(x)
        for block in list(self.blocks)[: stop - 1]:
            x = block(x)
        return x

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of a batch ``[B, 1, *size]`` or a hidden state ``[B, 1 + N, C]``; ``pooled`` is the CLS token."""
        if start == 0:
            x, start = self.embed(x), 1
        for block in list(self.blocks)[start - 1 :]:
            x = block(x)
        x = self.norm(x)
        return Features(tokens=x, pooled=x[:, 0], n_prefix=1, grid=self.grid)

    def block_paths(self) -> Sequence[str]:
        """``blocks.0`` and so on."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with text, ``[..., C] -> [..., E]``; the identity without one."""
        return self.shared(tokens)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` or ``[H, W, 3]``, or volume ``float32 [D, H, W]`` -> ``float32 [1, *input_size]``."""
        return prepare_raw(raw, self.spec.input_size)


def _stem(rank: int, dim: int) -> nn.Sequential:
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = []
    channels = 1
    for width in STEM_WIDTHS[rank]:
        layers += [conv(channels, width, 3, stride=2, padding=1), norm(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, conv(channels, dim, 2, stride=2))


def _folded(encoder: DualEncoder) -> DualEncoder:
    """Frozen normalisations become part of the convolutions before them: the same function in fewer passes."""
    encoder.freeze()
    for tower in encoder.towers().values():
        if isinstance(tower, ConvStemViT):
            layers: list[Any] = list(tower.stem)
            for i, layer in enumerate(layers):
                if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
                    layers[i - 1] = fuse_conv_bn_eval(layers[i - 1], layer)
                    layers[i] = nn.Identity()
            tower.stem = nn.Sequential(*layers)
    encoder.freeze()  # the new parts too
    return encoder


def prepare_raw(raw: Any, size: tuple[int, ...]) -> Tensor:
    """A raw image or volume -> ``float32 [1, *size]``; of colours the luminance.

    Args:
        raw: Image ``uint8 [H, W]`` or ``[H, W, 3]`` where ``size`` has two sides, else volume ``float32 [D, H, W]``.
        size: Of the result.
    """
    flat = len(size) == 2
    values = torch.as_tensor(np.ascontiguousarray(luminance(raw) if flat else raw), dtype=torch.float32)
    return prepare_radiograph(values, size) if flat else prepare_volume(values, size)


def prepare_radiograph(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Grey values in 0..255 -> area-resized ``[1, H, W]``, scaled to mean 0.5 and deviation 0.25 of the full range."""
    image = values[None, None]
    if image.shape[-2:] != size:
        image = F.interpolate(image, size=size, mode="area" if image.shape[-1] >= size[-1] else "bilinear")
    return (image[0] / 255 - 0.5) / 0.25


def prepare_volume(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Any positive volume -> ``[1, D, H, W]`` as twice the deviation from the mean brain intensity; background 0.

    A volume of another size is resampled to the whole grid, so its field of view should be a skull-stripped head's.
    """
    volume = values[None, None]
    if volume.shape[-3:] != size:
        volume = F.interpolate(volume, size=size, mode="trilinear", align_corners=False)
    volume = volume[0]
    inside = volume > 0.05 * volume.amax()
    mean = volume[inside].mean() if bool(inside.any()) else volume.new_tensor(1.0)
    return torch.where(inside, (volume / mean - 1) * 2, 0.0)


class TextTower(TextEncoder):
    """Word-level transformer encoder with a CLS token; padding is masked.

    Args:
        spec: Facts; ``input_size`` is ``(L,)``.
        vocabulary: Words; the three special tokens come first.
        depth: Number of blocks.
        shared_dim: Width of the space shared with images, 0 for none.
    """

    any_length = True

    def __init__(self, spec: EncoderSpec, vocabulary: Sequence[str], depth: int = 2, shared_dim: int = 0) -> None:
        super().__init__(spec)
        self.index = {word: i for i, word in enumerate(vocabulary)}
        self.length = spec.input_size[0]
        self.words = nn.Embedding(len(vocabulary), spec.dim)
        self.position = nn.Parameter(torch.randn(1, self.length, spec.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(spec.dim, spec.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(spec.dim)
        self.shared = nn.Linear(spec.dim, shared_dim) if shared_dim else nn.Identity()
        self.attention = _layouts(depth, spec.heads, spec.dim)

    def prepare(self, raw: Any) -> Tensor:
        """A text -> ``int64 [L]``: CLS, words, padding; words beyond the length are cut, unknown ones marked."""
        ids = [1] + [self.index.get(word, 2) for word in WORD.findall(str(raw).lower())]
        ids = ids[: self.length]
        return torch.tensor(ids + [self.pad_id] * (self.length - len(ids)))

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; ``pooled`` is the CLS token."""
        mask = self.real_tokens(x)
        tokens = self.words(x) + self.position[:, : x.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, mask)
        tokens = self.norm(tokens)
        return Features(tokens=tokens, pooled=tokens[:, 0], n_prefix=1, grid=(x.shape[1] - 1,), mask=mask)

    def block_paths(self) -> Sequence[str]:
        """``blocks.0`` and so on."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with images, ``[..., C] -> [..., E]``; the identity without one."""
        return self.shared(tokens)


Name = Literal["chest", "brain", "slices"]
_GREY = "(grey / 255 - 0.5) / 0.25"
_VISUAL: dict[Name, dict[str, Any]] = {
    "chest": {
        "modality": "image",
        "input_size": CHEST_SIZE,
        "intensity": _GREY,
        "cohorts": ("phantom chest (pretrain)",),
    },
    "brain": {
        "modality": "volume",
        "input_size": BRAIN_SIZE,
        "spacing": 3.0,
        "intensity": "2 (value / mean brain value - 1), background 0",
        "cohorts": ("phantom brain (pretrain)",),
    },
    "slices": {
        "modality": "image",
        "input_size": SLICE_SIZE,
        "intensity": _GREY,
        "cohorts": ("phantom brain (pretrain)",),
    },
}


def assemble(
    name: Name, vocabulary: Sequence[str], weights: str = "random", logit_scale: float | None = None
) -> DualEncoder:
    """Builds one of the embedded dual encoders with fresh weights.

    Args:
        name: ``"chest"``, ``"brain"`` or ``"slices"``.
        vocabulary: Words of the text tower, special tokens first.
        weights: What the spec says about the weights.
        logit_scale: Multiplier of the similarity, for ``"chest"``.
    """
    shared = SHARED_DIM if name == "chest" else 0
    common: dict[str, Any] = {
        "name": f"embedded:{name}",
        "licence": "Apache-2.0",
        "cohorts": _VISUAL[name]["cohorts"],
        "weights": weights,
        "pooling": "cls",
    }
    facts = EncoderSpec(dim=192, heads=3, **{**common, **_VISUAL[name]})
    text = EncoderSpec(modality="text", input_size=(96,), dim=128, heads=4, **common)
    towers = {
        facts.modality: ConvStemViT(facts, shared_dim=shared),
        "text": TextTower(text, vocabulary, shared_dim=shared),
    }
    joined: Any = f"{facts.modality}+text"
    return DualEncoder(facts.model_copy(update={"modality": joined}), towers, logit_scale)


class EmbeddedSource(Source):
    """Entry point ``embedded``."""

    name = "embedded"

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "chest": "2D ViT + text tower, pre-trained on generated radiographs and reports (image and text)",
            "brain": "3D ViT + text tower, pre-trained on generated T1 volumes and notes (volume and text)",
            "slices": "2D ViT + text tower, pre-trained on slices of generated T1 volumes (image and text)",
        }

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None) -> DualEncoder:
        """Builds an embedded encoder.

        Args:
            model: ``"chest"``, ``"brain"`` or ``"slices"``.
            weights: ``"default"`` for the shipped ones, ``"random"`` (seeded, always the same), or a local file.
            sha256: Expected digest of the weights file.
        """
        card = read_card(model)
        name = cast(Name, model)
        if weights == "random":
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return _folded(assemble(name, card["vocabulary"], "random", card["logit_scale"]))
        shipped = weights == "default"
        path = weights_folder() / f"{model}.safetensors" if shipped else Path(weights)
        tensors = read_weights(path, sha256 or (card.get("sha256") if shipped else None))
        state = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
        with torch.random.fork_rng():  # fresh weights are drawn and then replaced
            encoder = assemble(name, card["vocabulary"], f"pretrained:{file_digest(path)}", card["logit_scale"])
        load_strict(encoder, state, str(path))
        return _folded(encoder)
