"""Small encoders made by hand that look for a bright spot and nothing else, and grafts of them that say "spot"."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.benchmarks.cell.kept import KeptFacts
from medgraft.benchmarks.explain.scorer import Scorer
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.objective import Objective

SIDE, PATCH = 16, 4
CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
MODALITIES = {2: "image", 3: "volume"}


def spec(axes: int, name: str, **facts: Any) -> EncoderSpec:
    size = (SIDE,) * axes
    return EncoderSpec(
        name=f"test:{name}{axes}d", modality=MODALITIES[axes], input_size=size, weights="random", **facts
    )


def spot(axes: int, at: int = 9, side: int = 3, **more: Any) -> np.ndarray:
    """Dark, with one bright cube of ``side`` at ``at`` on each axis."""
    values = np.full((SIDE,) * axes, 1.0)
    values[(slice(at, at + side),) * axes] = 200
    return values.astype(np.uint8 if axes == 2 else np.float32)


class Prepared(Encoder):
    """Grey values / 100 as the network's input."""

    def prepare(self, raw: Any) -> Tensor:
        return torch.as_tensor(np.asarray(raw, np.float32))[None] / 100


class SpotCnn(Prepared):
    """Mean brightness of a neighbourhood beyond a threshold, pooled."""

    def __init__(self, axes: int) -> None:
        super().__init__(spec(axes, "cnn", dim=1, pooling="mean"))
        self.conv = CONVOLUTIONS[axes](1, 1, 3, padding=1)
        nn.init.constant_(self.conv.weight, 3.0**-axes)
        nn.init.constant_(self.conv.bias, -0.5)
        self.has_cls = False

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        maps = torch.relu_(self.conv(x))
        tokens = maps.flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(dim=1), 0, tuple(maps.shape[2:]))


class SpotBlock(nn.Module):
    """Attention of one head whose keys are the brightness of a token; width 2, brightness and a mark of the CLS."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 6, bias=False)
        with torch.no_grad():
            self.qkv.weight.copy_(torch.tensor([[0, 6.0], [0, 0], [2.0, 0], [0, 0], [1.0, 0], [0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return x + torch.softmax(q @ k.transpose(1, 2) * 2**-0.5, dim=-1) @ v


class SpotViT(Prepared):
    """Two blocks whose CLS token looks at bright patches."""

    def __init__(self, axes: int) -> None:
        super().__init__(spec(axes, "vit", dim=2, heads=1))
        self.patches = CONVOLUTIONS[axes](1, 2, PATCH, stride=PATCH)
        nn.init.zeros_(self.patches.weight)
        nn.init.constant_(self.patches.weight[:1], float(PATCH) ** -axes)
        nn.init.zeros_(self.patches.bias)
        self.cls = nn.Parameter(torch.tensor([[[0.0, 1.0]]]))
        self.blocks = nn.ModuleList([SpotBlock(), SpotBlock()])
        self.attention = [AttentionLayout("packed", f"blocks.{i}.qkv", heads=1, dim=2) for i in range(2)]

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        maps = self.patches(x)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), maps.flatten(2).transpose(1, 2)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return Features(tokens, tokens[:, 0], 1, tuple(maps.shape[2:]))

    def block_paths(self) -> list[str]:
        return ["blocks.0", "blocks.1"]


def objective(
    modality: str = "image", name: str = "multiclass", classes: tuple[str, ...] = ("none", "spot")
) -> Objective:
    facts = {"key": "k", "task": "t", "cohort": "c", "phantom": True, "encoder": "e", "precision": "fp32"}
    return KeptFacts(**facts, inputs=(modality,), objective=name, classes=classes, primary="auc_macro").make_objective()


def grafted(encoder: Encoder, adapter: Any = "linear_probe", seed: int | None = None, **options: Any) -> Grafted:
    """A graft with a head that takes the pooled features for "spot"; drawn anew where a seed is given."""
    made = graft(encoder, adapter, **options)
    modality, tower = next(iter(encoder.towers().items()))
    x = torch.zeros(2, tower.spec.channels, *tower.spec.input_size)
    with torch.no_grad():
        head: Any = objective(modality).make_head(made.encode({modality: x}))
        head.mean.zero_()
        head.deviation.fill_(1)
        if seed is None:
            head.linear.weight[1] = 1.0
        else:
            head.linear.weight.copy_(
                torch.randn(head.linear.weight.shape, generator=torch.Generator().manual_seed(seed))
            )
    made.head = head
    return made.eval()


def scorer(made: Grafted) -> Scorer:
    modality = next(iter(made.towers()))
    return Scorer(made, objective(modality), None, modality)
