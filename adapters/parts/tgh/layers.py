"""The parts of TGH-MoE: bottleneck experts, the prompt's reader, and the two mixtures beside the MLP of one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapters.kernels.moe import op as moe
from medgraft.adapters.parts.routing import balance_loss, expert_load, top_k_gates, z_loss
from medgraft.adapters.parts.tgh.ffn_copies import Ffn, FfnCopies
from medgraft.features import Features
from medgraft.ops import backends
from medgraft.world import World


class Experts(nn.Module):
    """``E`` bottlenecks ``Linear GELU Linear``, the second linear zero at the start, so that each is zero.

    Args:
        count: ``E``.
        dim: Width of the tokens, ``D``.
        width: Numbers inside, ``h``.
        like: A weight of the encoder, for type and device.
    """

    def __init__(self, count: int, dim: int, width: int, like: Tensor) -> None:
        super().__init__()
        kind = {"dtype": like.dtype, "device": like.device}
        bound = dim**-0.5
        self.down = nn.Parameter(torch.empty(count, dim, width, **kind).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(count, width, **kind))
        self.up = nn.Parameter(torch.zeros(count, width, dim, **kind))
        self.up_bias = nn.Parameter(torch.zeros(count, dim, **kind))

    def mixed(self, u: Tensor, gates: Tensor) -> Tensor:
        """``sum_e gates_e E_e(u)``: ``u`` ``[R, N, D]``, gates ``[R, N, E]``; an expert with gate 0 has no effect."""
        if self._form(u, lambda: _most(gates)) == "fused":
            chosen = gates.topk(_most(gates), dim=-1)
            return self._fused(u, chosen.values, chosen.indices)
        gates = gates.to(u.dtype)
        hidden = F.gelu(torch.einsum("rnd,edh->rneh", u, self.down) + self.down_bias) * gates[..., None]
        return torch.einsum("rneh,ehd->rnd", hidden, self.up) + torch.einsum("rne,ed->rnd", gates, self.up_bias)

    def mixed_of(self, u: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """The same with own experts ``[R, K]`` for each row, gates ``[R, N, K]``; only their weights are read."""
        if self._form(u, lambda: experts.shape[1]) == "fused":
            return self._fused(u, gates, experts[:, None].expand(gates.shape))
        gates = gates.to(u.dtype)
        hidden = torch.einsum("rnd,rkdh->rnkh", u, self.down[experts]) + self.down_bias[experts][:, None]
        mixed = torch.einsum("rnkh,rkhd->rnd", F.gelu(hidden) * gates[..., None], self.up[experts])
        return mixed + torch.einsum("rnk,rkd->rnd", gates, self.up_bias[experts])

    def _form(self, u: Tensor, picked: Callable[[], int]) -> backends.Form:
        """The form for tokens that are given ``picked()`` experts each."""
        backend, weights = backends.current(), (self.down, self.down_bias, self.up, self.up_bias)
        obstacle = backends.outside_autocast(moe.obstacle, u, self.down.shape[-1], *weights)
        slower = moe.slower(u, len(self.down), picked()) if backend == "auto" else None
        return backends.choose("moe", backend, obstacle, slower)

    def _fused(self, u: Tensor, gates: Tensor, index: Tensor) -> Tensor:
        """``u`` ``[R, N, D]``, gates and experts ``[R, N, K]`` -> ``[R, N, D]``."""
        weights = (self.down.transpose(1, 2), self.down_bias, self.up.transpose(1, 2), self.up_bias)
        flat = [x.flatten(0, 1) for x in (u, gates.to(u.dtype), index)]
        return backends.outside_autocast(moe.moe_forward, *flat, *weights)[0].view(u.shape)


def _most(gates: Tensor) -> int:
    """The largest number of experts that a token has, 1 at least: those that tie are all picked."""
    return max(int((gates > 0).sum(dim=-1).max()), 1)


@dataclass(frozen=True)
class Choice:
    """What the prompts of a batch decide, once for all blocks.

    Attributes:
        text: ``t'``, ``[B, P]``, 0 for samples without a prompt; ``None`` where nobody has one.
        group: Task group of each sample, ``[B]``.
        strength: ``[B]``, 1, with the gradient of the chosen group's probability where that is trained through it.
        known: ``[B]``, false for samples that no prompt places, which get the average of all groups.
        weights: ``[B, M]``, soft weights in place of one group; ``None`` for hard routing.
    """

    text: Tensor | None
    group: Tensor
    strength: Tensor
    known: Tensor
    weights: Tensor | None = None

    def per_row(self, rows: int) -> Choice:
        """The same for every row of a tower that runs on slices, the slices of a sample one after another."""
        times = rows // len(self.group)
        if times == 1:
            return self
        fields = (self.text, self.group, self.strength, self.known, self.weights)
        text, group, strength, known, weights = (
            None if field is None else field.repeat_interleave(times, dim=0) for field in fields
        )
        assert group is not None and strength is not None and known is not None
        return Choice(text, group, strength, known, weights)


class PromptReader(nn.Module):
    """``t' = LN(W_p t)`` and the task prototypes ``c_m``.

    Args:
        text_dim: Width of the text tower's tokens.
        dim: Width of ``t'``, ``P``.
        tasks: ``M``; no prototypes for 1.
        like: A weight of the encoder, for type and device.
    """

    def __init__(self, text_dim: int, dim: int, tasks: int, like: Tensor) -> None:
        super().__init__()
        kind = {"dtype": like.dtype, "device": like.device}
        self.project = nn.Linear(text_dim, dim, bias=False, **kind)
        self.norm = nn.LayerNorm(dim, **kind)
        self.prototypes = nn.Parameter(torch.randn(tasks, dim, **kind)) if tasks > 1 else None

    def forward(self, t: Tensor) -> Tensor:
        """``[B, text_dim] -> [B, P]``."""
        return self.norm(self.project(t))

    def cosines(self, text: Tensor) -> Tensor:
        """Cosine of ``t'`` with each prototype, ``[B, M]``, in at least single precision."""
        assert self.prototypes is not None
        exact = torch.promote_types(text.dtype, torch.float32)
        return F.normalize(text.to(exact), dim=-1) @ F.normalize(self.prototypes.to(exact), dim=-1).T


def prompt_embedding(features: Features, pooling: str) -> tuple[Tensor, Tensor]:
    """Prompt embedding ``[B, C]`` and which prompts hold a word, ``[B]``.

    Args:
        features: Of the text tower.
        pooling: ``"mean"`` over the real tokens behind the prefix, or ``"pooled"``, the tower's own.
    """
    tokens = features.tokens[:, features.n_prefix :]
    real = features.mask[:, features.n_prefix :] if features.mask is not None else None
    if real is None:
        real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    count = real.sum(dim=1)
    if pooling == "pooled":
        return features.pooled, count > 0
    mean = tokens.masked_fill(~real[..., None], 0.0).sum(dim=1) / count.clamp(min=1)[:, None]
    return mean.to(tokens.dtype), count > 0


class Routed(NamedTuple):
    """What a router did with the tokens that count.

    Attributes:
        probs: ``[T, E]``.
        picked: Bool ``[T, E]``.
        load: ``[E]``.
        balance: Scalar.
        z: Scalar.
        row: Number of the row that each token lies in, ``[T]``.
        rows: Number of rows, ``R``.
    """

    probs: Tensor
    picked: Tensor
    load: Tensor
    balance: Tensor
    z: Tensor
    row: Tensor
    rows: int


def of_all_ranks(routed: Mapping[str, Routed]) -> dict[str, Routed]:
    """Of several processes that each ran a part of a batch: load, balance loss and z loss of all tokens, on each."""
    world = World()
    if world.size == 1 or not routed:
        return dict(routed)
    sums = world.sum(torch.stack([_sums(each) for each in routed.values()]))
    whole = {}
    for (key, each), row in zip(routed.items(), sums, strict=True):
        means = row[:-1] / row[-1]
        probs, load, z = means[: len(each.load)], means[len(each.load) : -1].detach(), means[-1]
        whole[key] = each._replace(load=load, balance=balance_loss(probs[None], load), z=z)
    return whole


def _sums(routed: Routed) -> Tensor:
    """Probabilities, load and z loss summed over tokens, and the number of those, ``[2 E + 2]``."""
    count = len(routed.probs)
    one = routed.z.new_ones(1)
    return torch.cat([routed.probs.sum(dim=0), routed.load.to(one.dtype) * count, routed.z[None] * count, one * count])


class TokenLevel(nn.Module):
    """Experts that all tasks share, chosen by each token and biased by the prompt: ``softmax(W_x u + W_t t')``.

    Args:
        experts: ``E``.
        top_k: Experts per token.
        dim: ``D``.
        width: ``h``.
        text_dim: Width of ``t'``; 0 without text.
        image: Keep ``W_x``.
        like: A weight of the encoder.
        ffn: The block's MLP, for experts that are copies of it and have no ``width`` of their own.
    """

    def __init__(
        self,
        experts: int,
        top_k: int,
        dim: int,
        width: int,
        text_dim: int,
        image: bool,
        like: Tensor,
        ffn: Ffn | None = None,
    ) -> None:
        super().__init__()
        kind = {"dtype": like.dtype, "device": like.device}
        self.top_k, self.count = top_k, experts
        self.experts = Experts(experts, dim, width, like) if ffn is None else FfnCopies(experts, ffn)
        self.router = nn.ParameterDict()
        if image:
            self.router["image"] = nn.Parameter(torch.randn(experts, dim, **kind) * dim**-0.5)
        if text_dim:
            self.router["text"] = nn.Parameter(torch.zeros(experts, text_dim, **kind))

    def logits(self, u: Tensor, text: Tensor | None) -> Tensor:
        """``[R, N, E]``, in at least single precision whatever runs around it."""
        exact = torch.promote_types(u.dtype, torch.float32)
        with torch.autocast(u.device.type, enabled=False):
            logits = u.new_zeros(*u.shape[:2], self.count, dtype=exact)
            if "image" in self.router:
                logits = logits + u.to(exact) @ self.router["image"].to(exact).T
            if "text" in self.router and text is not None:
                logits = logits + (text.to(exact) @ self.router["text"].to(exact).T)[:, None]
        return logits

    def forward(self, u: Tensor, text: Tensor | None, real: Tensor | None) -> tuple[Tensor, Routed]:
        """``u`` ``[R, N, D]``, ``t'`` ``[R, P]`` and which rows count ``[R]`` -> change ``[R, N, D]``, routing."""
        logits = self.logits(u, text)
        probs = torch.softmax(logits, dim=-1)
        gates, picked = top_k_gates(probs, self.top_k)
        rows = torch.arange(len(u), device=u.device) if real is None else real.nonzero().flatten()
        row = rows.repeat_interleave(u.shape[1])
        probs, picked, logits = (x[rows].flatten(0, 1) for x in (probs, picked, logits))
        load = expert_load(picked)
        routed = Routed(probs, picked, load, balance_loss(probs, load), z_loss(logits), row, len(u))
        return self.experts.mixed(u, gates), routed

    @property
    def is_dense(self) -> bool:
        """All experts take part alike, since nothing tells them apart."""
        return not any(bool(weight.any()) for weight in self.router.values())

    @torch.no_grad()
    def make_dense(self) -> None:
        """Sets the router to zero for good: every token then gets the average of all experts."""
        for weight in self.router.values():
            weight.zero_()
            weight.requires_grad_(False)
            weight.grad = None


class TaskLevel(nn.Module):
    """Experts of their own for each task, chosen by the prompt, once per sample.

    Args:
        tasks: ``M``.
        experts: Experts per task, ``K``; more than one are chosen by each token.
        top_k: Experts per token among these.
        dim: ``D``.
        width: ``h``.
        like: A weight of the encoder.
        ffn: The block's MLP, for experts that are copies of it and have no ``width`` of their own.
    """

    def __init__(
        self, tasks: int, experts: int, top_k: int, dim: int, width: int, like: Tensor, ffn: Ffn | None = None
    ) -> None:
        super().__init__()
        kind = {"dtype": like.dtype, "device": like.device}
        self.tasks, self.count, self.top_k = tasks, experts, top_k
        total = tasks * experts
        self.experts = Experts(total, dim, width, like) if ffn is None else FfnCopies(total, ffn)
        self.router = nn.Parameter(torch.randn(tasks, experts, dim, **kind) * dim**-0.5) if experts > 1 else None

    def of_group(self, u: Tensor, group: Tensor) -> Tensor:
        """Output of one task's experts for each row: ``u`` ``[R, N, D]``, group ``[R]``."""
        index = group[:, None] * self.count + torch.arange(self.count, device=group.device)
        if self.router is None:
            return self.experts.mixed_of(u, index, u.new_ones(*u.shape[:2], 1))
        exact = torch.promote_types(u.dtype, torch.float32)
        with torch.autocast(u.device.type, enabled=False):
            logits = torch.einsum("rnd,rkd->rnk", u.to(exact), self.router[group].to(exact))
        return self.experts.mixed_of(u, index, top_k_gates(torch.softmax(logits, dim=-1), self.top_k)[0])

    def forward(self, u: Tensor, choice: Choice) -> Tensor:
        """``[R, N, D] -> [R, N, D]``, rows as in ``choice``."""
        if choice.weights is not None:
            return self._blend(u, choice.weights)
        out = self.of_group(u, choice.group) * choice.strength.to(u.dtype)[:, None, None]
        if self.tasks == 1 or bool(choice.known.all()):
            return out
        average = self._blend(u, u.new_full((len(u), self.tasks), 1 / self.tasks))
        return torch.where(choice.known[:, None, None], out, average)

    def _blend(self, u: Tensor, weights: Tensor) -> Tensor:
        each = [self.of_group(u, torch.full((len(u),), m, device=u.device)) for m in range(self.tasks)]
        return sum((w[:, None, None] * y for w, y in zip(weights.to(u.dtype).T, each, strict=True)), u.new_zeros(()))

    @torch.no_grad()
    def copy_mean(self, shared: nn.Module) -> None:
        """Starts every expert from the mean shared expert, its output layer zero (upcycling)."""
        for name in ("down", "down_bias"):
            getattr(self.experts, name).copy_(getattr(shared, name).mean(dim=0, keepdim=True))
        for name in ("up", "up_bias"):
            getattr(self.experts, name).zero_()


class TghBlock(nn.Module):
    """Both levels beside the MLP of one block; either may be missing."""

    def __init__(self, shared: TokenLevel | None, task: TaskLevel | None, scale: float) -> None:
        super().__init__()
        self.shared, self.task, self.scale = shared, task, scale

    def forward(self, u: Tensor, choice: Choice, real: Tensor | None, task_on: bool) -> tuple[Tensor, Routed | None]:
        """The change of the tokens ``[R, N, D]`` and the shared routing."""
        change, routed = torch.zeros_like(u), None
        if self.shared is not None:
            mixed, routed = self.shared(u, choice.text, real)
            change = change + self.scale * mixed
        if self.task is not None and task_on:
            change = change + self.scale * self.task(u, choice)
        return change, routed
