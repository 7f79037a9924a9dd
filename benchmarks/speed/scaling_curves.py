"""The curves that ``benchmarks.speed.scaling`` measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.ops import backends

Step = Callable[[], object]
Forward = Callable[[], Tensor]


@dataclass(frozen=True)
class Curve:
    """One size of one operation or job.

    Attributes:
        title: What is run, with the sizes that stay.
        axis: What varies.
        sizes: Its values, ascending.
        forms: Backends, or names of forms.
        build: ``(form, size) -> step``; a step runs forward and backward.
    """

    title: str
    axis: str
    sizes: Sequence[int]
    forms: Sequence[str]
    build: Callable[[str, int], Step]


@dataclass(frozen=True)
class Point:
    """One form at one size.

    Attributes:
        size: What the curve varies.
        seconds: Of one run, the median over the rounds.
        peak: Bytes.
        spread: Fewest and most seconds of the rounds; ``None`` where they are not known.
    """

    size: float
    seconds: float
    peak: int
    spread: tuple[float, float] | None = None


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _trained(module: nn.Module, forward: Forward, backend: backends.Backend, *inputs: Tensor) -> Step:
    """A step of a module under a backend, with gradients of its parameters and of some inputs."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        for x in inputs:
            x.grad = None
        with backends.using(backend):
            forward().square().mean().backward()

    return step


def _hypergraph(form: str, tokens: int) -> Step:
    """``cls``: the hyperedges that reach CLS; ``all tokens``: every hyperedge."""
    from medgraft.adapters.ace_hgnn import AceHgnn

    torch.manual_seed(0)
    layer, x, scores = AceHgnn(256), F.normalize(_drawn(4, tokens, 256), dim=-1), _drawn(4, tokens - 1)
    x.requires_grad_()
    return _trained(layer, lambda: layer(x, scores, form == "all tokens"), "fused", x)


def _resampler(form: str, tokens: int) -> Step:
    from medgraft.adapters.perceiver_resampler import PerceiverResampler

    torch.manual_seed(0)
    resampler, x = PerceiverResampler(192, 1, num_latents=16), _drawn(2, 1, 1, tokens, 192)
    return _trained(resampler, lambda: resampler(x), _backend(form))


def _loss(form: str, pairs: int) -> Step:
    from medgraft.adapters.kernels.info_nce.op import label_info_nce

    image, text = (F.normalize(_drawn(pairs, 128) + shift, dim=-1).requires_grad_() for shift in (0.0, 0.1))
    labels = (_drawn(pairs, 4) > 0).float()

    def step() -> None:
        image.grad = text.grad = None
        label_info_nce(image, text, 10.0, labels, backend=_backend(form)).backward()

    return step


def _backend(form: str) -> backends.Backend:
    return "eager" if form == "eager" else "fused"


def _lora_rank(form: str, rank: int) -> Step:
    from medgraft.adapters.kernels.packed_lora.op import packed_lora

    x, weight = _drawn(8, 65, 192).requires_grad_(), _drawn(576, 192)
    A, B = (_drawn(2, rank, 192) * 0.05).requires_grad_(), (_drawn(2, 192, rank) * 0.05).requires_grad_()

    def step() -> None:
        x.grad = A.grad = B.grad = None
        packed_lora(x, weight, None, A, B, (0, 384), 0.5, backend=_backend(form)).square().mean().backward()

    return step


def _experts(form: str, count: int) -> Step:
    from medgraft.adapters.tgh_moe import Experts, top_k_gates

    torch.manual_seed(0)
    experts, u = Experts(count, 192, 64, torch.zeros(1)), _drawn(8, 65, 192).requires_grad_()
    gates, _ = top_k_gates(_drawn(8, 65, count).softmax(-1), 2)
    return _trained(experts, lambda: experts.mixed(u, gates), _backend(form), u)


def _volume(form: str, side: int) -> Step:
    from medgraft.adapters.brain_adapter import VolumeBottleneck

    torch.manual_seed(0)
    bottleneck, x = VolumeBottleneck(1, (side,) * 3), _drawn(1, 1, side, side, side)
    return _trained(bottleneck, lambda: bottleneck(x), "eager")


def _job(form: str, adapters: int, seeds: int) -> Step:
    """LoRA in the last third of a tiny ViT: the whole model in every step, or its tail on what is computed once."""
    from medgraft.benchmarks.speed.contenders import build_tower
    from medgraft.grafting import Grafted
    from medgraft.registry import build_adapters

    tower, x = build_tower("tiny"), _drawn(8, 3, 32, 32)

    def step() -> None:
        kept: Tensor | None = None
        for rank in range(1, adapters + 1):
            grafted = Grafted(tower, build_adapters("lora", {"rank": rank, "depth": "up"}))
            (stage,) = grafted.first_stage().values()
            if kept is None and form == "frozen once":
                with torch.no_grad():
                    kept = tower.prefix(x, stage)
            for _ in range(seeds):
                rows, start = (x, 0) if kept is None else (kept, stage)
                grafted(rows, start=start).pooled.square().mean().backward()
            grafted.ungraft()

    return step


CURVES = {
    "hypergraph_tokens": Curve(
        "ACE-HGNN, 4 samples, width 256, 5 members", "tokens", (65, 129, 257, 513), ("cls", "all tokens"), _hypergraph
    ),
    "resampler_tokens": Curve(
        "Perceiver Resampler, 1 layer, 16 latents, 2 samples, width 192",
        "tokens", (256, 512, 1024, 2048), ("eager", "fused"), _resampler,
    ),
    "info_nce_batch": Curve(
        "Label-guided InfoNCE, width 128, 4 labels", "batch", (256, 512, 1024, 2048), ("eager", "fused"), _loss
    ),
    "lora_rank": Curve(
        "LoRA on q and v, 8 x 65 tokens, width 192", "rank", (4, 8, 16, 32), ("eager", "fused"), _lora_rank
    ),
    "moe_experts": Curve(
        "Experts, 2 per token, 8 x 65 tokens, width 192, 64 inside",
        "experts", (4, 8, 16, 32), ("eager", "fused"), _experts,
    ),
    "brain_volume": Curve("Brain-Adapter's bottleneck, 1 volume", "side", (16, 32, 64), ("eager",), _volume),
    "job_adapters": Curve(
        "LoRA in the last third, 5 passes each", "adapters", (1, 2, 4, 8), ("whole model", "frozen once"),
        lambda form, size: _job(form, size, 5),
    ),
    "job_seeds": Curve(
        "LoRA in the last third, 1 adapter", "passes", (4, 8, 16, 32), ("whole model", "frozen once"),
        lambda form, size: _job(form, 1, size),
    ),
}  # fmt: skip
