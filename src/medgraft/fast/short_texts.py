"""Batches of texts as long as their longest text: padding that nothing reads is not computed.

A prepared text is as long as the encoder's context, and a sentence of 27 tokens costs over twenty times as much padded
to 512. Columns behind the longest text of a batch are cut where the tower says that they change nothing
(:attr:`medgraft.encoder.TextEncoder.any_length`) and every active adapter says how many it needs
(:attr:`medgraft.adapter.Adapter.text_padding`). What is left is the same to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder, TextEncoder
from medgraft.fast.switch import is_plain
from medgraft.features import Features
from medgraft.grafting import Grafted

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def text_lengths(tower: TextEncoder, ids: Tensor) -> Tensor:
    """Tokens of each text, padding that the tower reads like a word included.

    Args:
        tower: Whose tokens.
        ids: ``int64 [B, L]``.

    Returns:
        ``int64 [B]``, at least 1.
    """
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    return (tower.real_tokens(ids) * places).amax(dim=1).clamp(min=1)


def can_cut(tower: Encoder) -> bool:
    """Whether batches of a tower may be shorter than its context; none are under ``MEDGRAFT_PLAIN=1``."""
    return isinstance(tower, TextEncoder) and tower.any_length and not is_plain()


def padding_needed(grafted: Grafted, *, frozen: bool = False) -> int | None:
    """Columns of padding that the active adapters need behind the longest text; ``None`` for all that there are.

    Dropout draws a number for each token, padding included, so that a batch of another length trains with other
    numbers: all of the padding stays while an adapter with dropout trains.

    Args:
        grafted: The graft, in the mode that it runs in.
        frozen: For features that are computed before, and which adapters will read in any mode.
    """
    needed = 0
    for _, adapter in grafted.named_adapters():
        padding = 0 if adapter.token_wise else adapter.text_padding
        if padding is None:
            return None
        needed += padding
    # Some hang in the encoder, as those of peft, and take the adapter's mode there; the encoder's own never train.
    modules = grafted.adapters.modules() if frozen else grafted.modules()
    drops = any(isinstance(m, DROPOUTS) and m.p > 0 and (frozen or m.training) for m in modules)
    return None if drops else needed


def cut_texts(
    grafted: Grafted, inputs: Mapping[str, Tensor | Features], start: Mapping[str, int] | None = None
) -> dict[str, Tensor | Features]:
    """A batch for a graft without the columns of padding that nothing reads.

    Args:
        grafted: Whose adapters, in the mode that the batch runs in.
        inputs: Modality -> rows, as :meth:`medgraft.grafting.Grafted.encode` takes them; token ids ``int64 [B, L]``
            of a text tower are cut, all else stays.
        start: Modality -> stage of its rows; 0 where absent.

    Example:
        >>> from medgraft import graft
        >>> grafted = graft("embedded:chest", "lora")
        >>> ids = grafted.towers()["text"].tokenize(["no effusion", "edema"])
        >>> cut_texts(grafted, {"text": ids})["text"].shape
        torch.Size([2, 3])
    """
    batch = dict(inputs)
    for name, tower in grafted.towers().items():
        ids = batch.get(name)
        if not (isinstance(ids, Tensor) and isinstance(tower, TextEncoder) and can_cut(tower)):
            continue
        if (start or {}).get(name, 0) == 0 and (padding := padding_needed(grafted)) is not None:
            batch[name] = ids[:, : int(text_lengths(tower, ids).max()) + padding]
    return batch
