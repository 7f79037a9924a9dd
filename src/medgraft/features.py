"""What every encoder returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Output of one encoder tower.

    Attributes:
        tokens: Token sequence after the last norm, ``[B, N, C]``, prefix tokens (CLS, registers) first. Encoders
            without tokens (CNNs) give their last feature map, flattened.
        pooled: One embedding per sample, ``[B, C']``, by the encoder's own pooling rule or by what an adapter made of
            it.
        n_prefix: Number of leading tokens that stand for no place in the input.
        grid: Arrangement of the other tokens, for example ``(14, 14)`` or ``(8, 16, 16)``; ``(L,)`` for text.
        cls_scores: Scaled query-key products of the CLS token with every non-prefix token in the last block,
            before the softmax, ``[B, heads, N - n_prefix]``; ``None`` unless asked for. Masked tokens hold ``-inf``.
        cls_probs: The softmax of the same row over all ``N`` tokens, prefix columns dropped, same shape.
        embedding: Unit vectors ``[B, E]`` in the space shared between modalities, where an adapter makes its own;
            ``None`` means ``normalize(encoder.project(pooled))``.
        mask: ``[B, N]``, true for tokens that are real (text padding is false); ``None`` where all are.
        condensed: Key of the :class:`Condenser` that made them; empty for what an encoder returns.
    """

    tokens: Tensor
    pooled: Tensor
    n_prefix: int
    grid: tuple[int, ...]
    cls_scores: Tensor | None = None
    cls_probs: Tensor | None = None
    mask: Tensor | None = None
    embedding: Tensor | None = None
    condensed: str = ""

    def replace(self, **changes: object) -> Features:
        """A copy with some fields changed; an adapter's usual way to return its result."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def of(self, rows: slice) -> Features:
        """Those of some consecutive samples of the batch."""
        parts = {name: getattr(self, name) for name in TENSORS}
        return self.replace(**{name: part[rows] for name, part in parts.items() if part is not None})

    def to(self, device: torch.device | str) -> Features:
        """The same with every tensor on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return self.replace(**moved)


TENSORS = ("tokens", "pooled", "cls_scores", "cls_probs", "mask", "embedding")


def _flat(features: Features) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Tensors, and what else makes features of them again: their names, the prefix, the grid and the condenser."""
    names = tuple(name for name in TENSORS if getattr(features, name) is not None)
    parts = [getattr(features, name) for name in names]
    return parts, (names, features.n_prefix, tuple(features.grid), features.condensed)


def _flat_with_keys(features: Features) -> tuple[list[tuple[Any, Tensor]], tuple[Any, ...]]:
    parts, rest = _flat(features)
    return [(pytree.GetAttrKey(name), part) for name, part in zip(rest[0], parts, strict=True)], rest


def _from_flat(parts: Iterable[Any], rest: tuple[Any, ...]) -> Features:
    names, n_prefix, grid, condensed = rest
    return Features(**dict(zip(names, parts, strict=True)), n_prefix=n_prefix, grid=tuple(grid), condensed=condensed)


def _to_json(rest: tuple[Any, ...]) -> Any:
    names, n_prefix, grid, condensed = rest
    return [list(names), int(n_prefix), [int(length) for length in grid], condensed]


def _from_json(stored: Any) -> tuple[Any, ...]:
    names, n_prefix, grid, condensed = stored
    return tuple(names), n_prefix, tuple(grid), condensed


# So that torch.export, torch.func and whatever else maps over tensors of nested results look into features.
pytree.register_pytree_node(
    Features,
    _flat,
    _from_flat,
    serialized_type_name="medgraft.Features",
    to_dumpable_context=_to_json,
    from_dumpable_context=_from_json,
    flatten_with_keys_fn=_flat_with_keys,
)


@dataclass(frozen=True)
class Condenser:
    """What an adapter makes of frozen features before its first parameter, so that it is computed once and kept.

    Attributes:
        key: Says which function it is, its options included; part of what a cached entry is found by.
        apply: Features of a tower, CLS scores included where it has them -> others, ``condensed`` set to the key, or
            the same where there is nothing to gain. The adapter must take both.
    """

    key: str
    apply: Callable[[Features], Features]
