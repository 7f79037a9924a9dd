"""The attention of the CLS token alone, without the keys and values of the other tokens.

One query asks for no key by itself: ``q_h . (W_k,h x_n + b_k,h)`` is ``(W_k,h^T q_h) . x_n`` up to a term that is the
same for every token, which the softmax takes out. And since its weights add up to one, the weighted mean of
``W_v x_n + b_v`` is ``W_v`` of the weighted mean of the tokens, plus ``b_v``; so it is for every affine map, one with
LoRA among them. What the projections then see are ``1 + heads`` rows for each sample in place of ``N``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.attention import PROJECTIONS, AttentionLayout, Projection, closed_rows, hide, in_type
from medgraft.errors import IncompatibleError


@dataclass
class Fold:
    """Whether the keys and values of a block are folded into its one query.

    Attributes:
        allowed: Its keys are those of the encoder, and all that adapters add to queries and values is affine.
        seen: Whether the library hands its projections to the attention as they are, each head a part of the rows;
            ``None`` before the first run, which looks. Rotary positions and norms of queries and keys come between.
    """

    allowed: bool
    seen: bool | None = None

    @property
    def taken(self) -> bool:
        """Whether this run folds."""
        return self.allowed and bool(self.seen)


class OneQuery:
    """Attention for the first query alone, between the projections of a block and its output projection.

    Args:
        tower: The encoder.
        layout: The block's attention.
        fold: What is known of the block; the first run notes what it sees there.
        attention: What computes an attention that is not folded.
    """

    def __init__(self, tower: nn.Module, layout: AttentionLayout, fold: Fold, attention: Callable[..., Tensor]) -> None:
        self.tower, self.layout, self.fold, self.attention = tower, layout, fold, attention
        paths = dict.fromkeys(layout.location(name)[0] for name in PROJECTIONS)
        self._modules = {path: tower.get_submodule(path) for path in paths}
        self._own: dict[str, int] = {}
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._armed = self._inside = self._folding = False

    def hooks(self) -> list[Any]:
        """Handles of hooks on the projections and the output projection, behind those of adapters."""
        out = self.tower.get_submodule(self.layout.out_path)
        handles = [out.register_forward_pre_hook(self._disarm)]
        for path, module in self._modules.items():
            handles.append(module.register_forward_pre_hook(self._entering(path)))
            handles.append(module.register_forward_hook(self._leaving(path)))
            self._own[path] = handles[-1].id
        return handles

    def _is_read(self) -> bool:
        """Whether hooks read what the projections return, such as those that ask for scores, or change the keys."""
        if self.layout.style == "split" and len(self._modules[self.layout.key_path]._forward_hooks) > 1:
            return True
        return any(next(reversed(module._forward_hooks)) != self._own[path] for path, module in self._modules.items())

    def _narrows(self, path: str) -> bool:
        return self._folding or (self.layout.style == "split" and path == self.layout.path)

    def _entering(self, path: str) -> Callable[..., Any]:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self._inside:
                return None
            if not self._armed:
                self._armed, self._folding = True, self.fold.taken and not self._is_read()
            self._inputs[path] = args[0]
            return (args[0][..., :1, :], *args[1:]) if self._narrows(path) else None

        return enter

    def _leaving(self, path: str) -> Callable[..., Any]:
        def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._inside:
                return None
            if self._narrows(path):
                output = output.expand(*output.shape[:-2], self._inputs[path].shape[-2], -1)
            self._outputs[path] = output
            return output

        return leave

    def _disarm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        missed = self._armed and self._folding
        self._armed = self._folding = False
        self._inputs.clear()
        self._outputs.clear()
        if missed:
            raise IncompatibleError(
                f"{self.layout.path}: its attention went through F.scaled_dot_product_attention before and does not "
                "now; make another ClsReadOut for each way in which the encoder runs"
            )

    def attend(self, *args: Any, **kwargs: Any) -> Tensor:
        """``F.scaled_dot_product_attention``; inside the block, all rows of the result but the first are zero."""
        options = dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False)) | kwargs
        if not self._armed or len(args) < 3 or options.get("is_causal"):
            return self.attention(*args, **kwargs)
        q, k, v = args[:3]
        mask = options.get("attn_mask")
        if mask is not None and mask.shape[-2] > 1:
            options["attn_mask"] = mask = mask[..., :1, :]
        if self.fold.seen is None:
            plain = not options.get("dropout_p") and options.get("scale") in (None, q.shape[-1] ** -0.5)
            plain = plain and not options.get("enable_gqa")
            self.fold.seen = plain and all(self._is_part(x, n) for x, n in zip((q, k, v), PROJECTIONS, strict=True))
        if self._folding:
            made = self._folded(q[..., :1, :], mask)
            self._armed = self._folding = False
        else:
            made = self.attention(q[..., :1, :], k, v, **options)
        return F.pad(made, (0, 0, 0, q.shape[-2] - 1))

    def _is_part(self, found: Tensor, projection: Projection) -> bool:
        """Whether a tensor is a projection as the layer returned it, seen as ``[B, heads, N, head_dim]``."""
        path, rows = self.layout.location(projection)
        output = self._outputs.get(path)
        if output is None or output.dim() != 3 or self._inputs[path] is not next(iter(self._inputs.values())):
            return False
        if self._narrows(path):
            output = output[:, :1].expand(output.shape)
        wanted = (output if rows is None else output[..., rows]).unflatten(-1, (self.layout.heads, -1)).transpose(1, 2)
        return _same_place(found, wanted)

    def _folded(self, q: Tensor, mask: Tensor | None) -> Tensor:
        """The CLS token's result ``[B, heads, 1, head_dim]`` from its query of that shape."""
        heads, (path, rows) = self.layout.heads, self.layout.location("k")
        x = self._inputs[path]
        weight = self.tower.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        weight = (weight if rows is None else weight[rows]).to(q.dtype).unflatten(0, (heads, -1))
        asked = torch.bmm(q.squeeze(2).transpose(0, 1), weight).transpose(0, 1)
        scores = torch.bmm(asked * q.shape[-1] ** -0.5, x.to(q.dtype).transpose(1, 2))
        shut = None
        if mask is not None:
            mask = in_type(mask, scores.dtype).reshape(*(1,) * (4 - mask.dim()), *mask.shape)
            mask = mask.expand(len(x), -1, 1, x.shape[1]).squeeze(2)
            shut = closed_rows(mask)
            scores = hide(scores, mask, shut)
        mean = torch.bmm(torch.softmax(scores, dim=-1).to(q.dtype), x.to(q.dtype))
        path, rows = self.layout.location("v")
        self._inside = True
        try:
            values = self.tower.get_submodule(path)(mean)
        finally:
            self._inside = False
        values = (values if rows is None else values[..., rows]).unflatten(-1, (heads, -1))
        values = values.diagonal(dim1=1, dim2=2).transpose(1, 2)
        return (values if shut is None else values.masked_fill(shut, 0)).unsqueeze(2)


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same view of the same memory."""
    layouts = [(x.shape, x.stride(), x.untyped_storage().data_ptr(), int(x.storage_offset())) for x in (a, b)]
    return layouts[0] == layouts[1]
