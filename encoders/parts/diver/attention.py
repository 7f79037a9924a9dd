"""The blocks of DIVER: attention of all patches of all channels, told apart by their time and by same or other channel.

Time enters by rotary positions (Su et al., "RoFormer", 2021), the channel by a number for each head that is added where
query and key are of the same channel, and another where they are not (the binary attention bias of Woo et al.,
"MOIRAI", ICML 2024, which both papers of DIVER name). So nothing depends on the order of the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder.attention import attend
from medgraft.errors import ConfigError

HEAD_DIM = 32
"""Width of a head; the papers' heads are the width of the tokens over 32."""
FRAMES = 512
"""Places in time that rotary positions are meant for, the registers' one among them."""
ROTARY_BASE = 10_000.0
EPS = 1e-6
HIDDEN = 4


@dataclass(frozen=True)
class Places:
    """Where tokens stand: 0 is the registers' place on either axis, channels and times count from 1.

    Attributes:
        channel: ``int64 [T]``.
        time: ``int64 [T]``.
    """

    channel: Tensor
    time: Tensor

    def fitted(self, count: int) -> Places:
        """Places of ``count`` tokens: what an adapter puts behind the global register is one more global register.

        Raises:
            ConfigError: There are fewer tokens than places, since an adapter drops some.
        """
        more = count - len(self.time)
        if more < 0:
            raise ConfigError(f"{count} tokens reach a block of DIVER that has places for {len(self.time)}")
        if more == 0:
            return self
        channel, time = (torch.cat([each[:1], each.new_zeros(more), each[1:]]) for each in (self.channel, self.time))
        return Places(channel, time)

    def turned(self, x: Tensor) -> Tensor:
        """Queries or keys ``[B, heads, T, width]``, the two halves of each turned by its place in time."""
        half = x.shape[-1] // 2
        kind = torch.promote_types(x.dtype, torch.float32)
        steps = torch.arange(half, device=x.device, dtype=kind) / half
        angles = self.time.to(kind)[:, None] * ROTARY_BASE**-steps
        cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def grid_places(channels: int, frames: int, device: torch.device | None = None) -> Places:
    """Places of a grid of ``(channels + 1) x (frames + 1)`` tokens, in the order of the network's tokens.

    The global register, a register for each channel, one for each time, then the patches channel by channel.

    Args:
        channels: Channels ``C``.
        frames: Patches ``N`` of a channel.
        device: Of the result.

    Raises:
        ConfigError: There are more times than rotary positions are meant for.

    Example:
        >>> places = grid_places(2, 1)
        >>> places.channel.tolist(), places.time.tolist()
        ([0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1])
    """
    if frames + 1 > FRAMES:
        raise ConfigError(f"DIVER takes up to {FRAMES - 1} patches in time, got {frames}; cut the window")
    rows, times = (torch.arange(1, count + 1, device=device) for count in (channels, frames))
    zero = rows.new_zeros(1)
    channel = torch.cat([zero, rows, zero.expand(frames), rows.repeat_interleave(frames)])
    return Places(channel, torch.cat([zero, zero.expand(channels), times, times.repeat(channels)]))


class Attention(nn.Module):
    """Multi-head attention without biases, its queries and keys normed; scores are divided by the width of a head.

    The division is by ``d`` and not by its root, as in muP (Yang et al., "Tensor Programs V", 2022, definition 4.1).

    Args:
        dim: Width of a token.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(dim // heads, eps=EPS) for _ in range(2))
        self.proj = nn.Linear(dim, dim, bias=False)
        self.channel_bias = nn.Parameter(torch.randn(heads, 2))

    def forward(self, x: Tensor, places: Places, real: Tensor | None = None) -> Tensor:
        """``[B, T, C] -> [B, T, C]``.

        Args:
            x: Tokens.
            places: Of the ``T`` tokens.
            real: Which tokens may be attended to, ``bool [B, T]``; all unless given.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = places.turned(self.q_norm(q)), places.turned(self.k_norm(k))
        same = (places.channel[:, None] == places.channel).long()
        bias = self.channel_bias[:, same][None].to(x.dtype)
        if real is not None:
            bias = bias.masked_fill(~real[:, None, None, :], float("-inf"))
        mixed = attend(q * q.shape[-1] ** -0.5, k, v, bias)  # which divides by the root once more
        return self.proj(mixed.transpose(1, 2).flatten(2))


class SwiGlu(nn.Module):
    """``(silu(x W_gate) * x W_up) W_down`` without biases (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(dim, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C] -> [..., C]``."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Pre-norm transformer block: root-mean-square norms, attention, SwiGLU.

    Args:
        dim: Width of a token.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(dim, eps=EPS) for _ in range(2))
        self.attn = Attention(dim, heads)
        self.mlp = SwiGlu(dim, HIDDEN * dim)

    def forward(self, x: Tensor, places: Places, real: Tensor | None = None) -> Tensor:
        """``[B, T, C] -> [B, T, C]``; see :class:`Attention`."""
        x = x + self.attn(self.norm1(x), places.fitted(x.shape[1]), real)
        return x + self.mlp(self.norm2(x))
