"""Losses that adapters and tasks share."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from medgraft.errors import ConfigError
from medgraft.world import World


def label_guided_info_nce(image: Tensor, text: Tensor, scale: Tensor | float, labels: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE whose negatives never share the anchor's labels.

    Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079): positives are the diagonal pairs only, and an off-diagonal pair
    with equal label vectors (two all-zero vectors included) is left out of the denominator. A batch in which all
    labels agree has loss 0. Without labels it is the CLIP loss (Radford et al., 2021).

    Args:
        image: Unit embeddings ``[B, C]``.
        text: Unit embeddings ``[B, C]``, row ``i`` the partner of image ``i``.
        scale: Multiplier of the cosine similarity (already exponentiated).
        labels: Label vectors ``[B, L]``; ``None`` removes no pair.

    Returns:
        The mean over both directions, a scalar.

    Example:
        >>> unit = torch.eye(3)
        >>> round(label_guided_info_nce(unit, unit, 1.0).item(), 4)
        0.5514
        >>> label_guided_info_nce(unit, unit, 1.0, torch.zeros(3, 14)).item()
        0.0
    """
    logits = scale * (image @ text.T)
    if labels is not None:
        same = (labels[:, None] == labels[None]).all(dim=-1)
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    positive = logits.diagonal()
    rows = torch.logsumexp(logits, dim=1) - positive
    columns = torch.logsumexp(logits, dim=0) - positive
    return (rows.mean() + columns.mean()) / 2


def gathered_info_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    labels: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """:func:`label_guided_info_nce` over the pairs of all data-parallel ranks, with gradients that agree with it.

    Every rank sees the negatives of all ranks and returns the same loss, that of one process with the joined batch.
    The mean over ranks of each parameter's gradient, which ``DistributedDataParallel`` takes, is then the gradient of
    one process. Batches may differ in length between ranks. The published training script called the wrapped module
    behind ``DistributedDataParallel``'s back, so its ranks had local negatives and gradients of their own.

    Args:
        image: Unit embeddings of this rank's pairs ``[B, C]``.
        text: Unit embeddings ``[B, C]``, row ``i`` the partner of image ``i``.
        scale: Multiplier of the cosine similarity, the same on every rank.
        labels: Label vectors ``[B, L]`` of this rank's pairs; on all ranks or on none.
        group: Process group; the default one if ``None``. Without an initialised group this is one process.

    Returns:
        The loss of the joined batch, a scalar.

    Raises:
        ConfigError: The ranks disagree on the width of the embeddings or on whether there are labels.
    """
    world = World(group)
    if world.size == 1:
        return label_guided_info_nce(image, text, scale, labels)
    lengths = _lengths(image, labels, group)
    joined = None if labels is None else world.gather(labels, lengths).detach()
    return label_guided_info_nce(world.gather(image, lengths), world.gather(text, lengths), scale, joined)


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross-entropy: each view tells its partner from all other views.

    Chen et al., "SimCLR", ICML 2020 (arXiv 2002.05709), equation 1, over all ``2 N`` views: the negatives of a view are
    the other ``2 N - 2``, those of its own side included. SwiFT's instance contrast (Kim et al., NeurIPS 2023, arXiv
    2307.05916) is this loss over two windows of each subject of a batch, at different times.

    Args:
        first: Embeddings ``[..., N, C]`` of any length; their cosines are compared.
        second: Row ``i`` is the partner of row ``i``, ``[..., N, C]``.
        temperature: Divides the cosines.

    Returns:
        The mean over the views of each batch of leading axes, ``[...]``; a scalar for ``[N, C]``. 0 for one pair alone.

    Raises:
        ConfigError: The two differ in shape, or the temperature is not above 0.

    Example:
        >>> unit = torch.eye(3)
        >>> round(nt_xent(unit, unit, temperature=1.0).item(), 4)
        0.9048
    """
    if first.shape != second.shape or first.ndim < 2:
        raise ConfigError(f"nt_xent compares views [..., N, C] of one shape, not {first.shape} and {second.shape}")
    if not temperature > 0:
        raise ConfigError(f"nt_xent divides by its temperature, which is {temperature}; give one above 0")
    views = F.normalize(torch.cat([first, second], dim=-2), dim=-1)
    count = first.shape[-2]
    cosines = views @ views.transpose(-1, -2) / temperature
    itself = torch.eye(2 * count, dtype=torch.bool, device=views.device)
    positive = cosines.roll(count, dims=-1).diagonal(dim1=-2, dim2=-1)
    return (torch.logsumexp(cosines.masked_fill(itself, float("-inf")), dim=-1) - positive).mean(dim=-1)


def local_contrast(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Local-local contrast: within a subject, two views of one window against the views of its other windows.

    Dave et al., "TCLR", CVIU 2022 (arXiv 2101.07974), as SwiFT trains with it: :func:`nt_xent` of the windows of each
    subject, summed (not averaged) over the subjects of a batch.

    Args:
        first: Embeddings of one augmentation of ``K`` windows of ``B`` subjects, ``[B, K, C]``.
        second: Those of another augmentation, ``[B, K, C]``.
        temperature: Divides the cosines.

    Returns:
        The sum over subjects, a scalar.

    Example:
        >>> windows = torch.eye(2).expand(3, 2, 2)
        >>> round(local_contrast(windows, windows, temperature=1.0).item(), 4)  # 3 log(1 + 2 / e)
        1.6543
    """
    return nt_xent(first, second, temperature).sum()


def _lengths(image: Tensor, labels: Tensor | None, group: dist.ProcessGroup | None) -> list[int]:
    """Pairs of each rank, once all ranks are known to send the same kind of rows (a mismatch would hang)."""
    own = torch.tensor([len(image), image.shape[1], 0 if labels is None else labels.shape[1]], device=image.device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    facts: list[list[int]] = torch.stack(every).tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if len({(width, n_labels) for _, width, n_labels in facts}) > 1:
        told = "; ".join(f"rank {i}: width {width}, {n} labels" for i, (_, width, n) in enumerate(facts))
        raise ConfigError(f"the ranks must send embeddings of one width, and labels on all or on none, but {told}")
    return [length for length, _, _ in facts]
