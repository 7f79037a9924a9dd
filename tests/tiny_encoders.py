"""Small encoders with random weights: one per way in which a library stores attention, and some without any."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders import embedded
from medgraft.features import Features
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS
from medgraft.testing.tiny_signal import SIGNAL_ENCODERS

WORDS = (*embedded.SPECIALS, *(f"word{i}" for i in range(57)))
HF_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
HF_TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 12,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 1,
}


class MhaBlock(nn.Module):
    def __init__(self, dim: int, heads: int, batch_first: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=batch_first)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        h = self.norm1(x) if self.attn.batch_first else self.norm1(x).transpose(0, 1)
        h = self.attn(h, h, h, need_weights=False, attn_mask=attn_mask)[0]
        x = x + (h if self.attn.batch_first else h.transpose(0, 1))
        return x + self.mlp(self.norm2(x))


class MhaViT(Encoder):
    """A ViT whose attention is ``nn.MultiheadAttention``, as in open_clip."""

    def __init__(self, dim: int = 32, heads: int = 4, depth: int = 2, batch_first: bool = True) -> None:
        super().__init__(
            EncoderSpec(name="test:mha", modality="image", input_size=(16, 16), dim=dim, heads=heads, weights="random")
        )
        self.patches = nn.Conv2d(1, dim, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.blocks = nn.ModuleList(MhaBlock(dim, heads, batch_first) for _ in range(depth))
        self.attention = [AttentionLayout("mha", f"blocks.{i}.attn", heads=heads, dim=dim) for i in range(depth)]
        self.block_stages = range(1, depth + 1)
        self.n_stages = depth + 1

    def block_paths(self) -> list[str]:
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        if stop == 0:
            return x
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], dim=1)
        for block in list(self.blocks)[: stop - 1]:
            x = block(x)
        return x

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        if start == 0:
            x, start = self.prefix(x, 1), 1
        for block in list(self.blocks)[start - 1 :]:
            x = block(x)
        return Features(tokens=x, pooled=x[:, 0], n_prefix=1, grid=(4, 4))


def _timm() -> Encoder:
    from medgraft.encoders.timm import TimmSource

    return TimmSource.build("vit_tiny_patch16_224", "random", depth=2, img_size=64, embed_dim=48, num_heads=3)


def _timm_cnn() -> Encoder:
    from medgraft.encoders.timm import TimmSource

    return TimmSource.build("test_resnet", "random", zero_init_last=False)


def _hf(family: str, config: dict[str, Any]) -> Encoder:
    from medgraft.encoders.transformers import TransformersSource

    return TransformersSource.build(family, "random", config=config)


def _pixels(model: str) -> Encoder:
    from medgraft.encoders.pixels import PixelsSource

    return PixelsSource.build(model)


BUILDERS: dict[str, Callable[[], Encoder]] = {
    "chest": lambda: embedded.assemble("chest", WORDS, logit_scale=10.0),
    "brain": lambda: embedded.assemble("brain", WORDS),
    "timm": _timm,
    "timm_cnn": _timm_cnn,
    "hf_vit": lambda: _hf("vit", HF_VISION),
    "hf_clip": lambda: _hf("clip", {"vision_config": HF_VISION, "text_config": HF_TEXT, "projection_dim": 16}),
    "mha": MhaViT,
    "pixels_2d": lambda: _pixels("2d"),
    "pixels_3d": lambda: _pixels("3d"),
    "language": LANGUAGE_ENCODERS["language-2d"],
    "signal": SIGNAL_ENCODERS["packed-signal"],
}


State = dict[str, Any]
_lent: set[str] = set()


def fresh(name: str) -> Encoder:
    """A new frozen encoder; the same weights every time.

    A copy of one that nobody else has: building one of a library takes ten times as long, and copies are held to be
    independent by the checks of encoders.
    """
    return copy.deepcopy(_built(name))


@functools.cache
def _built(name: str) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BUILDERS[name]().freeze()


@functools.cache
def _kept(name: str) -> tuple[Encoder, State]:
    encoder = fresh(name)
    return encoder, _state(encoder)


def shared(name: str) -> Encoder:
    """One encoder per process, for tests that leave it as they found it; `changed_encoders` holds them to that."""
    _lent.add(name)
    return _kept(name)[0]


def changed_encoders() -> list[str]:
    """Shared encoders that were asked for since the last call and are not as they were made; made anew for the next."""
    changed = [name for name in sorted(_lent) if _state(_kept(name)[0]) != _kept(name)[1]]
    _lent.clear()
    if changed:
        _kept.cache_clear()
    return changed


def _state(encoder: Encoder) -> State:
    """What another test would stumble over: types, devices, modes, parameters swapped, written to or unfrozen."""
    return {
        name: (
            tower.training,
            [type(module).__name__ + str(module.training) for module in tower.modules()],
            [
                (key, id(x), x.dtype, x.device, x._version, x.requires_grad, x.grad is None)
                for key, x in _tensors(tower)
            ],
        )
        for name, tower in encoder.towers().items()
    }


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def batch(encoder: Encoder, size: int = 2) -> dict[str, Tensor]:
    """A prepared batch for each tower."""
    generator = torch.Generator().manual_seed(1)
    inputs = {}
    for name, tower in encoder.towers().items():
        shape = tower.spec.input_size
        if name != "text":
            inputs[name] = torch.randn(size, tower.spec.channels, *shape, generator=generator)
            continue
        ids = torch.randint(3, 55, (size, *shape), generator=generator)
        ids[:, 0], ids[:, 8], ids[:, 9:] = 1, 59, getattr(tower, "pad_id", 0)  # CLS, the last real token, padding
        inputs[name] = ids
    return inputs
