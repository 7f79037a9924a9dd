"""Losses of one space around an anchor: modalities are paired with it, such as with the structural MRI, and only so.

An embedding ``z = [c ; u]`` has a common part, which a subject's modalities share, and a specific one, which tells the
samples of one modality apart. The sum that is trained is

.. math::
    L = L_{com} + 0.5 L_{spec} + 0.05 L_{orth}

with ``L_com`` the symmetric InfoNCE of each pair with the anchor (:func:`pair_info_nce`, as ImageBind binds modalities
to images: Girdhar et al., CVPR 2023, arXiv 2305.05665), ``L_spec`` the InfoNCE of two augmentations of one modality
(:func:`specific_info_nce`) and ``L_orth`` the squared cross-correlation of the two parts (:func:`cross_correlation`).
Visits of one subject are never negatives of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.errors import ConfigError
from medgraft.world import World

SameSubject = Literal["positive", "masked"]
"""What another visit of the anchor's subject is: a further partner, or left out. It is never a negative."""

Pairs = Literal["anchor", "all"]
"""Which modalities are paired: each with the anchor, or all with all."""


class Temperature(nn.Module):
    """A learnable multiplier of cosines, the exponential of a parameter, at most 100 (Radford et al., "CLIP", 2021).

    Args:
        initial: Temperature at the start; the multiplier is one over it.
        largest: Of the multiplier.

    Example:
        >>> round(Temperature()().item(), 4)
        14.2857
    """

    def __init__(self, initial: float = 0.07, largest: float = 100.0) -> None:
        super().__init__()
        if not (initial > 0 and largest > 0):
            raise ConfigError(f"a temperature and the largest multiplier are above 0, not {initial} and {largest}")
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / initial)))
        self.largest = largest

    def forward(self) -> Tensor:
        """The multiplier, a scalar; beyond the largest the parameter has no gradient."""
        return self.log_scale.exp().clamp(max=self.largest)


def common_width(width: int, share: float) -> int:
    """Columns of an embedding that are common: the rounded share, at least 1.

    Args:
        width: Of the embedding.
        share: Above 0; 1 leaves no specific part.

    Raises:
        ConfigError: The share is not above 0 and at most 1.

    Example:
        >>> common_width(64, 0.75), common_width(2, 0.01)
        (48, 1)
    """
    if not 0 < share <= 1:
        raise ConfigError(f"the common share of an embedding is above 0 and at most 1, not {share}")
    return max(1, round(share * width))


def split_parts(z: Tensor, share: float = 0.75) -> tuple[Tensor, Tensor]:
    """The common and the specific part of embeddings.

    Args:
        z: ``[..., K]``.
        share: Of the width that is common, above 0; 1 leaves no specific part.

    Returns:
        ``[..., K_c]`` with ``K_c`` the rounded share of ``K``, at least 1, and ``[..., K - K_c]``.

    Raises:
        ConfigError: The share is not above 0 and at most 1.

    Example:
        >>> [part.shape[-1] for part in split_parts(torch.zeros(2, 8))]
        [6, 2]
    """
    common = common_width(z.shape[-1], share)
    return z[..., :common], z[..., common:]


def near_duplicates(features: Tensor, threshold: float) -> Tensor:
    """Samples so alike that one is a false negative of the other: cosine above a threshold.

    Byun et al., "MAFA: Managing False Negatives for Vision-Language Pre-training", CVPR 2024 (arXiv 2312.06112), find
    false negatives by a trained matcher and make positives of them; here the cosine stands for the matcher, and they
    are left out of the negatives.

    Args:
        features: ``[n, C]``; no gradient passes.
        threshold: Above which cosine, -1 to 1.

    Returns:
        ``bool [n, n]``, symmetric, true on the diagonal.

    Example:
        >>> near_duplicates(torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]), 0.9).int().tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    unit = F.normalize(features.detach(), dim=-1)
    near = unit @ unit.T > threshold
    return near | near.T | torch.eye(len(near), dtype=torch.bool, device=near.device)


def pair_info_nce(
    first: Tensor,
    second: Tensor,
    scale: Tensor | float,
    subjects: Tensor | None = None,
    *,
    same_subject: SameSubject = "positive",
    ignored: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE of pairs, in which no other sample of a subject is a negative.

    Every positive ``p`` of a sample competes with the samples of other subjects alone,
    ``-log(exp(s_p) / (exp(s_p) + sum over others exp(s_j)))``; the mean is over a sample's positives, then over
    samples, then over both directions. With one sample for each subject it is the CLIP loss.

    Args:
        first: Embeddings ``[n, C]`` of any length; cosines are compared.
        second: Row ``i`` the partner of row ``i``, ``[n, C]``.
        scale: Multiplier of the cosines.
        subjects: Number of each pair's subject, ``int64 [n]``; ``None`` where each is another's.
        same_subject: Other pairs of a subject are positives too, or left out.
        ignored: Pairs of rows that are no negatives of each other, ``bool [n, n]``; see :func:`near_duplicates`.

    Returns:
        A scalar; 0, with a gradient of 0, where there is no pair or no negative.

    Raises:
        ConfigError: The shapes do not fit.

    Example:
        >>> unit = torch.eye(3)
        >>> round(pair_info_nce(unit, unit, 1.0).item(), 4)
        0.5514
        >>> pair_info_nce(unit, unit, 1.0, torch.zeros(3, dtype=torch.int64), same_subject="masked").item()
        0.0
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ConfigError(f"pairs are two [n, C] of one shape, not {list(first.shape)} and {list(second.shape)}")
    n = len(first)
    if n == 0:
        return (first.sum() + second.sum()) * 0.0
    itself = torch.eye(n, dtype=torch.bool, device=first.device)
    if subjects is not None and tuple(subjects.shape) != (n,):
        raise ConfigError(f"{n} pairs need as many subjects, not {list(subjects.shape)}")
    if ignored is not None and tuple(ignored.shape) != (n, n):
        raise ConfigError(f"{n} pairs need ignored [{n}, {n}], not {list(ignored.shape)}")
    same = itself if subjects is None else subjects[:, None] == subjects[None]
    positive = same if same_subject == "positive" else itself
    negative = ~same if ignored is None else ~(same | ignored)
    cosines = scale * (F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T)
    return (_towards(cosines, positive, negative) + _towards(cosines.T, positive.T, negative.T)) / 2


def _towards(cosines: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over rows of the mean over their positives; each has one at least."""
    least = torch.finfo(cosines.dtype).min / 2  # not -inf, so that a row without a negative has a gradient, of 0
    others = torch.logsumexp(cosines.masked_fill(~negative, least), dim=1, keepdim=True)
    losses = torch.logaddexp(others, cosines) - cosines
    return ((losses * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def specific_info_nce(first: Tensor, second: Tensor, scale: Tensor | float, subjects: Tensor | None = None) -> Tensor:
    """InfoNCE of two augmentations of each sample of one modality: a sample is told from those of other subjects.

    Other visits of a subject are left out; they are neither the same image nor another person's.

    Args:
        first: Specific parts of one augmentation, ``[n, K_u]``.
        second: Those of another, ``[n, K_u]``.
        scale: Multiplier of the cosines.
        subjects: ``int64 [n]``, or ``None``.

    Returns:
        A scalar.
    """
    return pair_info_nce(first, second, scale, subjects, same_subject="masked")


def cross_correlation(common: Tensor, specific: Tensor) -> Tensor:
    """Sum of the squared correlations of every common with every specific column, ``|| C^T U / n ||_F^2``.

    Columns are standardised by the batch's mean and (biased) deviation; one that does not vary counts as 0.

    Args:
        common: ``[n, K_c]``.
        specific: ``[n, K_u]``.

    Returns:
        A scalar; 0 for fewer than two samples.

    Example:
        >>> column = torch.tensor([[1.0], [2.0], [4.0]])
        >>> round(cross_correlation(column, torch.cat([column, -column], dim=1)).item(), 4)
        2.0
    """
    if len(common) < 2 or not specific.shape[-1]:
        return (common.sum() + specific.sum()) * 0.0
    return (_standardised(common).T @ _standardised(specific) / len(common)).square().sum()


def _standardised(columns: Tensor) -> Tensor:
    centred = columns - columns.mean(dim=0)
    variance = centred.square().mean(dim=0)
    tiny = torch.finfo(columns.dtype).eps ** 2 * columns.detach().square().mean(dim=0)
    varies = variance > tiny
    return torch.where(varies, centred / torch.where(varies, variance, torch.ones_like(variance)).sqrt(), 0.0)


@dataclass(frozen=True)
class Weights:
    """Weights of the terms.

    Attributes:
        specific: Of ``L_spec``.
        orthogonal: Of ``L_orth``.
    """

    specific: float = 0.5
    orthogonal: float = 0.05


@dataclass(frozen=True)
class AnchoredTerms:
    """The terms of a batch, each a scalar.

    Attributes:
        common: ``L_com``, summed over pairs of modalities.
        specific: ``L_spec``, summed over modalities.
        orthogonal: ``L_orth``, summed over modalities.
        total: Their weighted sum.
    """

    common: Tensor
    specific: Tensor
    orthogonal: Tensor
    total: Tensor


@dataclass(frozen=True)
class AnchoredLoss:
    """The sum of the three terms over the modalities of a batch, of which any may be missing.

    Attributes:
        anchor: The modality that others are paired with.
        share: Of an embedding that is common; 1 is plain InfoNCE without the other two terms.
        weights: Of the terms.
        pairs: Each modality with the anchor, or (a baseline) all with all.
        same_subject: What other visits of a subject are.
        near: Cosine of common parts above which two samples of a modality are no negatives of each other; ``None``
            for none. See :func:`near_duplicates`.
    """

    anchor: str
    share: float = 0.75
    weights: Weights = Weights()
    pairs: Pairs = "anchor"
    same_subject: SameSubject = "positive"
    near: float | None = None

    def __call__(
        self,
        z: Mapping[str, Tensor],
        scale: Tensor | float,
        subjects: Tensor,
        present: Mapping[str, Tensor] | None = None,
        again: Mapping[str, Tensor] | None = None,
        world: World | None = None,
        specific_scale: Tensor | float | None = None,
    ) -> AnchoredTerms:
        """The terms of a batch.

        Args:
            z: Modality -> embeddings ``[B, K]``, one row for each sample, any numbers where it is missing.
            scale: Multiplier of the cosines, the same on every process; see :class:`Temperature`.
            subjects: Number of each sample's subject, ``int64 [B]``.
            present: Modality -> which samples have it, ``bool [B]``; ``None`` for all.
            again: Embeddings of another augmentation of the same samples, ``[B, K]`` each; without them ``L_spec`` is
                0.
            world: Processes that each hold a part of the batch, of any size. Each returns the loss of the whole, and
                the mean over processes of a parameter's gradient is then that of one process; ``None`` for one alone.
            specific_scale: Multiplier of ``L_spec``; ``None`` for the same one. Two augmentations of a scan are far
                easier to pair than two kinds of scan, so that a learnt one would suit neither.

        Raises:
            ConfigError: The anchor is not among the modalities, or shapes do not fit.
        """
        if self.anchor not in z:
            raise ConfigError(f"the anchor {self.anchor!r} is not among the modalities {', '.join(z)}")
        every = torch.ones(len(subjects), dtype=torch.bool, device=subjects.device)
        has = {name: every if present is None else present[name] for name in z}
        for name, rows in [*z.items(), *(again or {}).items()]:
            if rows.ndim != 2 or len(rows) != len(subjects) or len(has[name]) != len(subjects):
                raise ConfigError(
                    f"{name} has {list(rows.shape)} of {len(subjects)} samples; give [B, K] and present [B]"
                )
        if world is not None and world.size > 1:
            lengths = world.lengths(subjects)
            z = {name: world.gather(rows, lengths) for name, rows in z.items()}
            again = None if again is None else {name: world.gather(rows, lengths) for name, rows in again.items()}
            has = {name: world.gather(rows, lengths) for name, rows in has.items()}
            subjects = world.gather(subjects, lengths)
        scales = (scale, scale if specific_scale is None else specific_scale)
        return self._terms(z, scales, subjects, has, again or {})

    def _terms(
        self,
        z: Mapping[str, Tensor],
        scales: tuple[Tensor | float, Tensor | float],
        subjects: Tensor,
        has: Mapping[str, Tensor],
        again: Mapping[str, Tensor],
    ) -> AnchoredTerms:
        common = {name: split_parts(rows, self.share)[0] for name, rows in z.items()}
        specific = {name: split_parts(rows, self.share)[1] for name, rows in z.items()}
        zero = next(iter(z.values()))[:0].sum()
        pairs = [self._pair(common, pair, scales[0], subjects, has) for pair in self.pairs_of(tuple(z))]
        unlike = [zero]
        for name, rows in again.items() if next(iter(specific.values())).shape[-1] else ():
            here, other = has[name], split_parts(rows, self.share)[1]
            unlike.append(specific_info_nce(specific[name][here], other[here], scales[1], subjects[here]))
        apart = [cross_correlation(common[name][has[name]], specific[name][has[name]]) for name in z]
        common_term, specific_term, orthogonal = (torch.stack(terms).sum() for terms in ([zero, *pairs], unlike, apart))
        total = common_term + self.weights.specific * specific_term + self.weights.orthogonal * orthogonal
        return AnchoredTerms(common_term, specific_term, orthogonal, total)

    def pairs_of(self, modalities: tuple[str, ...]) -> list[tuple[str, str]]:
        """The pairs of modalities that are trained, the anchor first where it is one of them.

        Example:
            >>> AnchoredLoss("t1").pairs_of(("pet", "t1", "dmri"))
            [('t1', 'pet'), ('t1', 'dmri')]
        """
        ordered = [self.anchor, *(name for name in modalities if name != self.anchor)]
        every = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]]
        return [pair for pair in every if self.pairs == "all" or pair[0] == self.anchor]

    def _pair(
        self,
        common: Mapping[str, Tensor],
        pair: tuple[str, str],
        scale: Tensor | float,
        subjects: Tensor,
        has: Mapping[str, Tensor],
    ) -> Tensor:
        both = has[pair[0]] & has[pair[1]]
        first, second = (common[name][both] for name in pair)
        ignored = None
        if self.near is not None and len(first):
            ignored = near_duplicates(first, self.near) | near_duplicates(second, self.near)
        return pair_info_nce(first, second, scale, subjects[both], same_subject=self.same_subject, ignored=ignored)
