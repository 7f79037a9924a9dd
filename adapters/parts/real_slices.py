"""Volumes of different depth in one batch: functions of maps, run on each volume's real slices alone.

A convolution or a pooling that ran over padded slices would let them change their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor


def by_depth(real: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples that have equally many real slices, together.

    Args:
        real: ``[B, S]``, false for padding; each sample has a real slice.

    Yields:
        Numbers of the samples ``[b]``, and for each the numbers of its real slices ``[b, s]``, ascending.

    Example:
        >>> import torch
        >>> real = torch.tensor([[True, True, True], [False, True, False], [True, True, True]])
        >>> [(samples.tolist(), slices.tolist()) for samples, slices in by_depth(real)]
        [([1], [[1]]), ([0, 2], [[0, 1, 2], [0, 1, 2]])]
    """
    depth = real.sum(dim=1)
    for count in depth.unique().tolist():
        samples = (depth == count).nonzero().flatten()
        yield samples, real[samples].nonzero()[:, 1].view(len(samples), count)


def on_real_slices(function: Callable[[Tensor], Tensor], maps: Tensor, real: Tensor, padding: float = 0.0) -> Tensor:
    """A function of maps that keeps their depth, as if the padded slices were not there.

    Args:
        function: ``[b, C, s, H, W] -> [b, C', s, H', W']`` for any ``s``.
        maps: ``[B, C, S, H, W]``.
        real: ``[B, S]``; see :func:`by_depth`.
        padding: What padded slices hold afterwards.

    Returns:
        ``[B, C', S, H', W']``.
    """
    out = None
    for samples, slices in by_depth(real):
        changed = function(maps[samples[:, None], :, slices].transpose(1, 2)).transpose(1, 2)
        if out is None:
            out = changed.new_full((len(maps), changed.shape[2], maps.shape[2], *changed.shape[3:]), padding)
        out[samples[:, None], :, slices] = changed
    assert out is not None
    return out
