"""How patches of EEG become tokens in DIVER: convolutions, a spectrum, the electrode, and what is near in time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoders.parts.diver.attention import HEAD_DIM, Block, Places
from medgraft.errors import ConfigError

PATCHES = {500: 512, 50: 64}
"""Samples of a patch at 500 Hz (1 s, 0.1 s) -> samples that it is filled up to with zeros behind."""
STEPS = 8
"""Places that the convolutions make of a patch; with an eighth of the width each, they are a token."""
NARROW = 8
GROUPS = 8
DROPOUT = 0.1
MODALITIES = ("eeg", "ieeg")
SUBTYPES = ("scalp", "grid", "strip", "depth")
TEMPERATURE = 2000.0
SCALE = 2 * math.pi / 256
"""Radians for each millimetre of a place."""
REACH = 7
"""Times of a window of the sliding positional encoding."""


class PatchEncoder(nn.Module):
    """Three convolutions along a patch, each with a group norm and a GELU; eight places become one token.

    The published numbers are those of patches of one second: kernel 63, step 64, on 512 samples. For 0.1 s they are
    not at hand, and the same in proportion is taken: kernel 7, step 8, on 64 samples.

    Args:
        dim: Width of a token, a multiple of 64.
        patch: Samples of a patch, a key of :data:`PATCHES`.
    """

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.patch, self.full = patch, PATCHES[patch]
        step, narrow = self.full // STEPS, dim // NARROW
        layers: list[nn.Module] = [nn.Conv1d(1, narrow, step - 1, stride=step, padding=step // 2 - 1)]
        for _ in range(2):
            layers += [nn.GroupNorm(GROUPS, narrow), nn.GELU(), nn.Conv1d(narrow, narrow, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(GROUPS, narrow), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Recordings ``[B, C, N * patch]`` -> ``[B, C, N, dim]``."""
        patches = F.pad(x.unflatten(2, (-1, self.patch)), (0, self.full - self.patch))
        return self.layers(patches.flatten(0, 2)[:, None]).flatten(1).unflatten(0, patches.shape[:3])


class Spectral(nn.Module):
    """A linear map of the amplitudes of a token's own Fourier transform, as published, and not of the signal's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim // 2 + 1, dim)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C] -> [..., C]``."""
        # Transforms of half precision exist on few devices.
        amplitudes = torch.fft.rfft(x.to(torch.promote_types(x.dtype, torch.float32)), norm="forward").abs()
        return self.dropout(self.linear(amplitudes.to(x.dtype)))


class ElectrodePosition(nn.Module):
    """Where and what an electrode is: sines and cosines of its place, and learnt vectors of its kind.

    Args:
        dim: Width of a token; three quarters are the place, a quarter the kind.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.per_axis = dim // 4
        self.modality = nn.Embedding(len(MODALITIES), dim // 4)
        self.subtype = nn.Embedding(len(SUBTYPES), dim // 4)

    def forward(self, xyz: Tensor, modality: Tensor, subtype: Tensor) -> Tensor:
        """Vectors ``[..., C, dim]`` of ``C`` electrodes.

        Args:
            xyz: Places in millimetres, ``[..., C, 3]``; ``nan`` where one is unknown, which gives zeros.
            modality: Index in :data:`MODALITIES`, ``int64 [..., C]``.
            subtype: Index in :data:`SUBTYPES`, ``int64 [..., C]``.
        """
        known = xyz.isfinite().all(dim=-1, keepdim=True)
        steps = torch.arange(self.per_axis // 2, device=xyz.device, dtype=xyz.dtype) / (self.per_axis // 2)
        angles = (xyz.nan_to_num(0, 0, 0) * SCALE)[..., None] * TEMPERATURE**-steps
        place = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)
        kind = self.modality(modality) + self.subtype(subtype)
        return torch.cat([(place * known).to(kind.dtype), kind], dim=-1)


class SlidingPosition(nn.Module):
    """STCPE: a narrow block on windows of seven times and all channels, averaged where they overlap.

    Windows move on by one time and reach six beyond either end, so that every time lies in seven. What lies beyond is
    hidden from the attention. A shift in time and the order of the channels change nothing but the place of the result.

    Args:
        dim: Width of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        narrow = dim // NARROW
        self.down, self.up = nn.Linear(dim, narrow), nn.Linear(narrow, dim)
        self.block = Block(narrow, max(narrow // HEAD_DIM, 1))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to tokens ``[B, C, N, dim]``, same shape."""
        B, C, N, _ = x.shape
        beyond, count = REACH - 1, N + REACH - 1
        padded = F.pad(self.down(x), (0, 0, beyond, beyond))
        windows = padded.unfold(2, REACH, 1).permute(0, 2, 1, 4, 3)  # [B, count, C, 7, narrow]
        starts, steps = (torch.arange(n, device=x.device) for n in (count, REACH))
        at = starts[:, None] + steps
        real = ((at >= beyond) & (at < beyond + N)).repeat(B, C)  # [B * count, C * 7]
        places = Places(torch.arange(C, device=x.device).repeat_interleave(REACH), steps.repeat(C))
        mixed = self.block(windows.flatten(0, 1).flatten(1, 2), places, real).view(B, count, C, REACH, -1)
        parts = [mixed[:, beyond - step : beyond - step + N, :, step] for step in range(REACH)]
        return self.up(torch.stack(parts).mean(dim=0).transpose(1, 2))


def check_width(dim: int, depth: int, patch: int) -> None:
    """Refuses numbers that make no network.

    Raises:
        ConfigError: Says which.
    """
    if dim < 64 or dim % 64:
        raise ConfigError(f"the width of DIVER is {dim}; give a multiple of 64, since an eighth of it has 8 groups")
    if depth < 1:
        raise ConfigError(f"the depth of DIVER is {depth}; give at least one block")
    if patch not in PATCHES:
        raise ConfigError(f"patches of DIVER have {' or '.join(map(str, PATCHES))} samples, not {patch}")
