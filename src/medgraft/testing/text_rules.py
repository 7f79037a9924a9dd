"""Rules that hold for text encoders: what padding may change."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder, TextEncoder
from medgraft.encoder.towers import reads_text
from medgraft.fast.short_texts import text_lengths
from medgraft.features import Features
from medgraft.testing.check import require, rule
from medgraft.testing.encoder_subject import EncoderSubject
from medgraft.testing.snapshots import difference

# Sums over other numbers of masked places: a thousand roundings of float32.
ATOL, RTOL = 1e-5, 1e-4


def run(tower: Encoder, x: Tensor, *, scores: bool = False) -> Features:
    """Features of a prepared batch ``[B, L]``, without a graph."""
    with torch.no_grad():
        return tower(x, scores=scores)


@rule(
    "Mask padding in the attention and pool a real token, or leave mask at None where padding is read like a word.",
    each=True,
)
def padding_is_not_read(subject: EncoderSubject, case: str) -> None:
    """What lies at masked positions of a text does not change its real tokens or what is pooled."""
    if not reads_text(subject.tower(case)):
        raise unittest.SkipTest("it reads no text")
    tower, x = subject.tower(case), subject.batch(case)
    mask = run(tower, x).mask
    if mask is None or bool(mask.all()):
        raise unittest.SkipTest("every token counts as real")
    require(mask[:, 0].all() or mask.any(dim=1).all(), "a text has no real token")
    if tower.spec.pooling.startswith("last"):
        raise unittest.SkipTest("it pools the last position, padding or not, as it was pre-trained")

    def disturb(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(output)
        return torch.where(mask.view(*output.shape[:-1], 1), output, output + noise)

    before = run(tower, x)
    handle = subject.vocabulary(tower).register_forward_hook(disturb)
    try:
        after = run(tower, x)
    finally:
        handle.remove()
    changed = difference(
        {"pooled": before.pooled, "a real token": before.tokens[mask]},
        {"pooled": after.pooled, "a real token": after.tokens[mask]},
        ATOL,
        RTOL,
    )
    require(not changed, f"with other embeddings at masked positions {changed}")


@rule(
    "Leave any_length at False where positions, attention or pooling depend on how much padding is behind a text.",
    each=True,
)
def short_batches_agree(subject: EncoderSubject, case: str) -> None:
    """A text tower that takes any length gives a text the same, however much padding is behind it."""
    tower, x = subject.tower(case), subject.batch(case)
    if not isinstance(tower, TextEncoder) or not tower.any_length:
        raise unittest.SkipTest("it asks for its whole context, or reads no text")
    whole = run(tower, x, scores=tower.has_scores)
    for row, length in enumerate(text_lengths(tower, x)):
        for columns in sorted({int(length), min(int(length) + 1, x.shape[1])}):
            short = run(tower, x[row : row + 1, :columns], scores=tower.has_scores)
            places = short.tokens.shape[1]
            require(
                torch.equal(_mask(short)[0], _mask(whole)[row, :places]), f"the mask of {columns} tokens is another one"
            )
            require(not _mask(whole)[row, places:].any(), f"a real token is behind the {columns} of real_tokens()")
            changed = difference(_read(whole, row, places), _read(short, 0, places), ATOL, RTOL)
            require(not changed, f"cut to {columns} of {x.shape[1]} tokens, {changed}")


def _mask(features: Features) -> Tensor:
    """``[B, N]``, which must be there."""
    require(features.mask is not None, "its features have no mask")
    return torch.ones(features.tokens.shape[:2], dtype=torch.bool) if features.mask is None else features.mask


def _read(features: Features, row: int, places: int) -> dict[str, Tensor]:
    """What is read of one text, of its first tokens."""
    real = _mask(features)[row, :places]
    read = {"pooled": features.pooled[row], "a real token": features.tokens[row, :places][real]}
    if features.cls_probs is not None:
        read["the attention of CLS"] = features.cls_probs[row, :, : places - features.n_prefix]
    return read
