"""The operations that ``benchmarks.kernels`` measures: inputs, forms and goals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapters.kernels.bottleneck import op as bottleneck
from medgraft.adapters.kernels.hypergraph import op as hypergraph
from medgraft.adapters.kernels.info_nce import op as info_nce
from medgraft.adapters.kernels.moe import op as moe
from medgraft.adapters.kernels.packed_lora import op as packed_lora
from medgraft.adapters.kernels.perceiver import op as perceiver
from medgraft.benchmarks.kernels import floors as kernel_floors
from medgraft.benchmarks.kernels import peers as kernel_peers
from medgraft.benchmarks.kernels.peers import Function, Peer

Step = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation on one shape.

    Attributes:
        name: As on the command line.
        told: Shape and setting, for the report.
        build: ``(device, dtype, form, small) -> step`` with ``eager``, ``compile``, ``fused`` or the name of a peer; a
            step runs forward and backward and returns the result and the gradients. Inputs are the same for every form,
            drawn in float64 from a fixed seed and rounded.
        outputs: Names of what a step returns.
        least_bytes: What any implementation must read and write, in the first of ``dtypes``.
        goal_speed: Wanted speed relative to the faster of eager and compile, or to the fastest peer.
        goal_memory: Wanted share of eager's peak memory.
        goal_dtype: The type that the goals are for; ``None`` for all.
        dtypes: Types measured by default.
        peers: Forms of other libraries and of published code, by name.
        against_peer: The goal is against those of them that compute the same function.
        products: ``(device, dtype) -> step`` of the products that no form can do without.
    """

    name: str
    told: str
    build: Callable[[str, torch.dtype, str, bool], Step]
    outputs: tuple[str, ...]
    least_bytes: int
    goal_speed: float | None = None
    goal_memory: float | None = None
    goal_dtype: str | None = None
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    peers: Mapping[str, Peer] = dataclasses.field(default_factory=dict)
    against_peer: bool = False
    products: Callable[[str, torch.dtype], kernel_floors.Products] | None = None


def _draw(shapes: list[tuple[int, ...]], scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]


def _leaves(tensors: list[Tensor], device: str, dtype: torch.dtype) -> list[Tensor]:
    # Through bfloat16, so that all types get the very same numbers and parity measures the arithmetic alone.
    return [x.to(torch.bfloat16).to(device, dtype).requires_grad_() for x in tensors]


def _step(function: Function, trained: list[Tensor], pull: bool = True) -> Step:
    weights: list[Tensor] = []

    def step() -> tuple[Tensor, ...]:
        y = function(*trained)
        if pull and not weights:
            # In the layout of the result, as a next layer of the same layout would send it.
            weights.append(torch.empty_like(y).copy_(_draw([tuple(y.shape)])[0].to(torch.bfloat16)))
        return y.detach(), *torch.autograd.grad(y, trained, weights[0] if pull else None)

    return step


def _plain(function: Function, form: str) -> Function:
    return torch.compile(function) if form == "compile" else function


def _info_nce(n: int):
    def build(device: str, dtype: torch.dtype, form: str, small: bool) -> Step:
        N, C = (160, 64) if small else (n, 512)
        unit = [F.normalize(x, dim=-1) for x in _draw([(N, C), (N, C)])]
        labels = torch.randint(0, 2, (N, 14), generator=torch.Generator().manual_seed(1)).to(device)
        scale = torch.tensor(14.0, dtype=dtype, device=device)
        if (peer := kernel_peers.INFO_NCE.get(form)) is not None:
            return _step(*peer.make(*_leaves(unit, device, dtype), scale, labels), pull=False)
        function = info_nce.label_info_nce if form == "fused" else _plain(info_nce.reference, form)
        options: dict[str, Any] = {"backend": "fused"} if form == "fused" else {}
        return _step(lambda i, t: function(i, t, scale, labels, **options), _leaves(unit, device, dtype), pull=False)

    return build


def _hypergraph(device: str, dtype: torch.dtype, form: str, small: bool) -> Step:
    B, N, C = (2, 20, 32) if small else (16, 197, 512)
    tokens, scores = _leaves(_draw([(B, N, C), (B, N - 1)]), device, dtype)
    if (peer := kernel_peers.HYPERGRAPH.get(form)) is not None:
        return _step(*peer.make(tokens, scores))

    def layer(t: Tensor, s: Tensor) -> Tensor:
        return hypergraph.message_passing(t, s, 5, F.gelu, F.gelu)

    def fused(t: Tensor, s: Tensor) -> Tensor:
        return hypergraph.hypergraph_layer(t, s, 5, F.gelu, F.gelu, all_tokens=True, backend="fused")

    return _step(fused if form == "fused" else _plain(layer, form), [tokens, scores])


def _lora(device: str, dtype: torch.dtype, form: str, small: bool) -> Step:
    M, D, r = ((4, 10), 32, 4) if small else ((8, 197), 768, 16)
    x, weight, bias, A, B = _leaves(_draw([(*M, D), (3 * D, D), (3 * D,), (2, r, D), (2, D, r)], 0.1), device, dtype)
    weight, bias, starts = weight.detach(), bias.detach(), (0, 2 * D)
    if (peer := kernel_peers.LORA.get(form)) is not None:
        return _step(*peer.make(x, weight, bias, A, B))
    function = packed_lora.packed_lora if form == "fused" else _plain(packed_lora.reference, form)
    options: dict[str, Any] = {"backend": "fused"} if form == "fused" else {}
    return _step(lambda x, a, b: function(x, weight, bias, a, b, starts, 0.5, **options), [x, A, B])


def _perceiver(head_dim: int):
    def build(device: str, dtype: torch.dtype, form: str, small: bool) -> Step:
        B, N, L, C, heads, d = (2, 30, 5, 32, 2, 8) if small else (2, 2048, 64, 768, 8, head_dim)
        x, *raw = _draw([(B, N, C), (B, L, C), (C,), (C,), (heads * d, C), (2 * heads * d, C)])
        raw[3:] = [w / C**0.5 for w in raw[3:]]
        (x,), trained = _leaves([x], device, dtype), _leaves(raw, device, dtype)
        x = x.detach()
        cached = perceiver.normalised(x)

        def layer(latents: Tensor, gain: Tensor, shift: Tensor, to_q: Tensor, to_kv: Tensor) -> Tensor:
            return perceiver.reference(perceiver.normalised(x), latents, gain, shift, to_q, to_kv, heads)

        def absorbed(latents: Tensor, gain: Tensor, shift: Tensor, to_q: Tensor, to_kv: Tensor) -> Tensor:
            return perceiver.resampler_attention(cached, latents, gain, shift, to_q, to_kv, heads, backend="fused")

        return _step(absorbed if form == "fused" else _plain(layer, form), trained)

    return build


def _moe(device: str, dtype: torch.dtype, form: str, small: bool) -> Step:
    T, D, h, E = (50, 16, 8, 4) if small else (1576, 768, 64, 8)
    raw = _draw([(T, D), (E, h, D), (E, h), (E, D, h), (E, D), (T, E)])
    raw[1:5] = [raw[1] / D**0.5, raw[2], raw[3] / h**0.5, raw[4]]
    gates, index = raw[5].softmax(-1).topk(2, dim=-1)
    tokens, *weights = _leaves(raw[:5], device, dtype)
    (gates,), index = _leaves([gates], device, dtype), index.to(device)
    if (peer := kernel_peers.MOE.get(form)) is not None:
        return _step(*peer.make(tokens, gates, index, *weights))
    if form == "fused":
        function: Function = lambda t, g, *w: moe.moe(t, g, index, *w, backend="fused")  # noqa: E731
    else:
        plain = torch.compile(moe.wide_reference) if form == "compile" else moe.reference
        function = lambda t, g, *w: plain(t, g, index, *w)  # noqa: E731
    return _step(function, [tokens, gates, *weights])


def _bottleneck(device: str, dtype: torch.dtype, form: str, small: bool) -> Step:
    C, c, size = (16, 4, (3, 4, 5)) if small else (64, 16, (32, 64, 64))
    raw = _draw([(1, C, *size), (c, C), (c,), (c, c, 3, 3, 3), (c,), (C, c), (C,)])
    raw[1], raw[3], raw[5] = raw[1] / C**0.5, raw[3] / (27 * c) ** 0.5, raw[5] / c**0.5
    trained = _leaves(raw, device, dtype)
    # Every form gets the layout that it is faster in, which for plain float32 convolutions is not channels last.
    if form == "fused" or dtype != torch.float32:
        trained[0] = trained[0].detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    if form != "fused":
        return _step(_plain(bottleneck.reference, form), trained)
    return _step(lambda *t: bottleneck.bottleneck_3d(*t, backend="fused"), trained)


_OF_NCE = ("loss", "d_image", "d_text")
_OF_EXPERTS = ("y", "d_tokens", "d_gates", "d_w1", "d_b1", "d_w2", "d_b2")
_OF_PERCEIVER = ("y", "d_latents", "d_gain", "d_shift", "d_q", "d_kv")
_OF_BOTTLENECK = ("y", "d_x", "d_down", "d_down_bias", "d_mix", "d_mix_bias", "d_up", "d_up_bias")
_VOLUME = 64 * 32 * 64 * 64

CASES = {
    case.name: case
    for case in (
        Case("info_nce", "Label-guided InfoNCE, N = 4096, C = 512, 14 labels.", _info_nce(4096), _OF_NCE,
             4 * 4096 * 512 * 4, goal_speed=3.0, goal_dtype="bfloat16", peers=kernel_peers.INFO_NCE,
             products=kernel_floors.info_nce),
        Case("info_nce_8192", "The same, N = 8192.", _info_nce(8192), _OF_NCE, 4 * 8192 * 512 * 4, goal_memory=0.05,
             peers=kernel_peers.INFO_NCE),
        Case("hypergraph", "ACE hypergraph, all tokens, B = 16, N = 197, C = 512, k = 5.", _hypergraph,
             ("y", "d_tokens", "d_scores"), 4 * 16 * 197 * 512 * 4, goal_speed=1.8, dtypes=("float32",),
             peers=kernel_peers.HYPERGRAPH, against_peer=True),
        Case("packed_lora", "LoRA r = 16 on q and v of a packed qkv, 8 x 197 tokens, D = 768.", _lora,
             ("y", "d_x", "d_A", "d_B"), (2 * 1576 * 768 + 2 * 1576 * 2304) * 4, peers=kernel_peers.LORA),
        Case("perceiver", "Resampler attention, 64 latents over 2 x 2048 frozen tokens, C = 768, 8 heads of 96. Eager "
             "mode is OpenFlamingo's published form; there is no further peer.",
             _perceiver(96), _OF_PERCEIVER, 2 * 2 * 2048 * 768 * 4, goal_speed=2.2, goal_memory=0.45,
             products=kernel_floors.perceiver),
        Case("perceiver_narrow", "The same with 8 heads of 64, where the plain form has a third less to multiply.",
             _perceiver(64), _OF_PERCEIVER, 2 * 2 * 2048 * 768 * 4, products=kernel_floors.perceiver),
        Case("moe", "8 experts, top-2, 1576 tokens, D = 768, h = 64. Eager mode is Mixtral's published loop.", _moe,
             _OF_EXPERTS, 4 * 1576 * 768 * 4, goal_speed=1.4, goal_memory=0.25, peers=kernel_peers.MOE,
             products=kernel_floors.moe),
        Case("bottleneck", "3D bottleneck, C = 64, c = 16, 32 x 64 x 64 voxels. Eager mode is PyTorch's own "
             "convolutions, which MONAI's blocks call too; there is no further peer.", _bottleneck, _OF_BOTTLENECK,
             4 * _VOLUME * 4, goal_speed=3.5, goal_dtype="bfloat16", products=kernel_floors.bottleneck),
    )
}  # fmt: skip
