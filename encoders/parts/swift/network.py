"""SwiFT's network: a Swin transformer over three axes of space and one of time, with the published parameter names.

Kim et al., "SwiFT: Swin 4D fMRI Transformer", NeurIPS 2023 (arXiv 2307.05916). Space is merged from stage to stage,
time never is. Positions are absolute and learnt, and are added at the start of every stage; attention has no bias by
position. Tokens go through the blocks as ``[B, N, C]``, height slowest and time fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder.attention import attend
from medgraft.errors import ConfigError

MLP_RATIO = 4
OTHER_REGION = -100.0
"""Added to the attention between parts of a shifted window that are no neighbours; published as it is, not infinite."""
Four = tuple[int, int, int, int]


class PatchEmbed(nn.Module):
    """Linear map of patches that do not overlap, each flattened in the order height, width, depth, channel.

    Args:
        channels: Channels of the volumes.
        patch: Height, width and depth of a patch in voxels; a patch is one volume long.
        dim: Width of a token.
    """

    def __init__(self, channels: int, patch: Sequence[int], dim: int) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.fc = nn.Linear(channels * math.prod(patch), dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W, D, T]`` -> ``[B, h * w * d * T, dim]``."""
        ph, pw, pd = self.patch
        x = x.unflatten(4, (-1, pd)).unflatten(3, (-1, pw)).unflatten(2, (-1, ph))  # [B, c, h, ph, w, pw, d, pd, T]
        return self.fc(x.permute(0, 2, 4, 6, 8, 3, 5, 7, 1).flatten(5).flatten(1, 4))


class PositionalEmbedding(nn.Module):
    """Learnt positions in space and in time.

    Args:
        dim: Width of a token.
        space: Tokens along height, width and depth.
        frames: Most volumes of a sequence.
    """

    def __init__(self, dim: int, space: Sequence[int], frames: int) -> None:
        super().__init__()
        self.space = tuple(space)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *space, 1))
        self.time_embed = nn.Parameter(torch.zeros(1, dim, 1, 1, 1, frames))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.time_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Adds them to tokens ``[B, N, dim]``; of fewer volumes, the first positions in time."""
        maps = x.unflatten(1, (*self.space, -1))
        maps = maps + self.pos_embed.movedim(1, -1)
        return (maps + self.time_embed[..., : maps.shape[4]].movedim(1, -1)).flatten(1, 4)


def fitted_window(grid: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> tuple[Four, Four]:
    """Window and shift on a grid: an axis no longer than the window is one window, which is not shifted.

    Example:
        >>> fitted_window((8, 4, 3, 20), (4, 4, 4, 4), (2, 2, 2, 2))
        ((4, 4, 3, 4), (2, 0, 0, 2))
    """
    fits = [length <= width for length, width in zip(grid, window, strict=True)]
    h, w, d, t = (length if fit else width for length, width, fit in zip(grid, window, fits, strict=True))
    sh, sw, sd, st = (0 if fit else step for step, fit in zip(shift, fits, strict=True))
    return (h, w, d, t), (sh, sw, sd, st)


def split_windows(maps: Tensor, window: Four) -> Tensor:
    """Maps ``[B, H, W, D, T, C]`` -> windows ``[B * windows, h * w * d * t, C]``; ``window`` divides the axes."""
    for axis in (4, 3, 2, 1):
        maps = maps.unflatten(axis, (-1, window[axis - 1]))
    return maps.permute(0, 1, 3, 5, 7, 2, 4, 6, 8, 9).flatten(5, 8).flatten(0, 4)


def join_windows(windows: Tensor, window: Four, size: Sequence[int]) -> Tensor:
    """The inverse of :func:`split_windows`: ``[B * windows, h * w * d * t, C] -> [B, *size, C]``."""
    counts = [length // width for length, width in zip(size, window, strict=True)]
    parts = windows.unflatten(1, window).unflatten(0, (-1, *counts))
    maps = parts.permute(0, 1, 5, 2, 6, 3, 7, 4, 8, 9)
    return maps.flatten(7, 8).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def shift_bias(size: Sequence[int], window: Four, shift: Four, like: Tensor) -> Tensor:
    """What attention in shifted windows adds to its scores, ``[windows, n, n]``, of the type and device of ``like``.

    A shift brings both ends of an axis into one window. An axis of length ``n`` is cut at ``n - window`` and at
    ``n - shift``; between tokens of different parts stands :data:`OTHER_REGION`.

    Args:
        size: Axes of the padded grid.
        window: Of the attention.
        shift: By which the grid was rolled.
        like: Tells type and device.
    """
    region = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=like.device)
    for axis, (length, width, step) in enumerate(zip(size, window, shift, strict=True)):
        places = torch.arange(length, device=like.device)
        part = (places >= length - width).long() + (places >= length - step).long() if step else 0 * places
        region = 3 * region + part.view([-1 if each == axis else 1 for each in range(4)])
    regions = split_windows(region[None, ..., None], window).squeeze(-1)
    bias = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(regions[:, None] != regions[:, :, None], OTHER_REGION, bias)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a packed ``qkv``; both maps have biases.

    Args:
        dim: Width of a token.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Windows ``[B * windows, n, C]`` -> the same shape; ``bias`` is ``[windows, n, n]``."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if bias is None:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        # Samples go among the heads, so that one bias serves all of them and is not copied for each.
        q, k, v = qkv.unflatten(0, (-1, len(bias))).permute(3, 1, 0, 4, 2, 5).flatten(2, 3)
        mixed = attend(q, k, v, bias[:, None]).unflatten(1, (-1, self.heads))
        return self.proj(mixed.permute(1, 0, 3, 2, 4).flatten(3).flatten(0, 1))


class Mlp(nn.Module):
    """Two linear maps around an exact GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C] -> [..., C]``."""
        return self.linear2(F.gelu(self.linear1(x)))


class Block(nn.Module):
    """Pre-norm transformer block that attends inside windows.

    Args:
        dim: Width of a token.
        heads: Attention heads.
        space: Tokens along height, width and depth.
        window: Of the attention, time last.
        shift: By which windows are shifted; zeros in every second block.
    """

    def __init__(self, dim: int, heads: int, space: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> None:
        super().__init__()
        self.space, self.window, self.shift = tuple(space), tuple(window), tuple(shift)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, MLP_RATIO * dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, h * w * d * T, C] -> [B, h * w * d * T, C]``."""
        x = x + self.attended(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def attended(self, x: Tensor) -> Tensor:
        """What the attention adds to tokens, ``[B, N, C] -> [B, N, C]``.

        Zeros fill the grid up to whole windows and take part in the attention as tokens, as published.

        Raises:
            ConfigError: The tokens are no whole number of volumes, since an adapter adds or drops some.
        """
        if x.shape[1] % math.prod(self.space):
            raise ConfigError(
                f"{x.shape[1]} tokens reach a block of SwiFT that works on grids of {self.space} times the number of "
                "volumes; leave out the adapter that adds tokens"
            )
        grid = (*self.space, x.shape[1] // math.prod(self.space))
        window, shift = fitted_window(grid, self.window, self.shift)
        size = [-(-length // width) * width for length, width in zip(grid, window, strict=True)]
        maps = x.unflatten(1, grid)
        if size != list(grid):
            behind = [padded - length for padded, length in zip(size, grid, strict=True)]
            maps = F.pad(maps, (0, 0, *(n for more in reversed(behind) for n in (0, more))))
        bias, axes = None, (1, 2, 3, 4)
        if any(shift):
            maps, bias = torch.roll(maps, [-step for step in shift], axes), shift_bias(size, window, shift, maps)
        maps = join_windows(self.attn(split_windows(maps, window), bias), window, size)
        if any(shift):
            maps = torch.roll(maps, shift, axes)
        h, w, d, t = grid
        return maps[:, :h, :w, :d, :t].flatten(1, 4)


class PatchMerging(nn.Module):
    """Joins each cube of 2 x 2 x 2 tokens of one volume: their channels side by side, a norm, a linear map.

    Args:
        dim: Width of a token.
        factor: How many times as wide the joined token is.
        space: Tokens along height, width and depth, all even.
    """

    def __init__(self, dim: int, factor: int, space: Sequence[int]) -> None:
        super().__init__()
        self.space = tuple(space)
        self.reduction = nn.Linear(8 * dim, factor * dim, bias=False)
        self.norm = nn.LayerNorm(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C] -> [B, N / 8, factor * C]``; of a cube's tokens, depth changes fastest."""
        h, w, d = self.space
        maps = x.unflatten(1, (h // 2, 2, w // 2, 2, d // 2, 2, -1))
        cubes = maps.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).flatten(5)
        return self.reduction(self.norm(cubes)).flatten(1, 4)


class Stage(nn.Module):
    """The blocks of one stage, and what joins their tokens for the next; the network runs them.

    Args:
        blocks: In their order.
        downsample: ``None`` in the last stage.
    """

    def __init__(self, blocks: Sequence[Block], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class SwiFT(nn.Module):
    """The Swin 4D fMRI transformer without a head.

    Args:
        img_size: Voxels along height, width and depth, and the most volumes of a sequence; one number for all four.
        in_chans: Channels of a volume.
        embed_dim: Width of the first stage's tokens.
        window_size: Tokens of a window along height, width, depth and time.
        first_window_size: The same of the first stage.
        patch_size: Voxels of a patch along the three axes, and 1 volume.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        c_multiplier: How many times as wide tokens are from stage to stage.
        last_layer_full_MSA: Windows of the last stage are the whole volume, ``window_size[3]`` volumes long, and are
            not shifted.

    Raises:
        ConfigError: The numbers do not go together; the sentence says which.

    Example:
        >>> network = SwiFT((8, 8, 8, 6), 1, 4, (2, 2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 1), (1, 2), (1, 2))
        >>> network(torch.zeros(1, 1, 8, 8, 8, 5)).shape
        torch.Size([1, 8, 2, 2, 2, 5])
    """

    def __init__(
        self,
        img_size: int | Sequence[int],
        in_chans: int,
        embed_dim: int,
        window_size: Sequence[int],
        first_window_size: Sequence[int],
        patch_size: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        c_multiplier: int = 2,
        last_layer_full_MSA: bool = False,
    ) -> None:
        super().__init__()
        size = (img_size,) * 4 if isinstance(img_size, int) else tuple(img_size)
        widths = [embed_dim * c_multiplier**stage for stage in range(len(depths))]
        check_shape(size, window_size, first_window_size, patch_size, depths, num_heads, widths)
        space = tuple(length // step for length, step in zip(size[:3], patch_size[:3], strict=True))
        self.img_size, self.in_chans, self.num_features = size, in_chans, widths[-1]
        self.patch_embed = PatchEmbed(in_chans, patch_size[:3], embed_dim)
        self.pos_embeds, self.layers = nn.ModuleList(), nn.ModuleList()
        last = len(depths) - 1
        for stage, (dim, depth, heads) in enumerate(zip(widths, depths, num_heads, strict=True)):
            full = last_layer_full_MSA and stage == last
            window = (*space, window_size[3]) if full else first_window_size if stage == 0 else window_size
            steps = [0 if full or index % 2 == 0 else 1 for index in range(depth)]
            blocks = [Block(dim, heads, space, window, [step * (n // 2) for n in window]) for step in steps]
            self.pos_embeds.append(PositionalEmbedding(dim, space, size[3]))
            self.layers.append(Stage(blocks, None if stage == last else PatchMerging(dim, c_multiplier, space)))
            self.space = space
            space = tuple(length // 2 for length in space)
        # The published network has this norm and never calls it; checkpoints hold it.
        self.norm: nn.Module = nn.LayerNorm(self.num_features)

    def embed(self, x: Tensor) -> Tensor:
        """Sequences ``[B, in_chans, H, W, D, T]``, ``T`` up to that of ``img_size`` -> tokens ``[B, N, C]``.

        Raises:
            ConfigError: They have another shape.
        """
        *space, frames = self.img_size
        if x.ndim != 6 or list(x.shape[1:5]) != [self.in_chans, *space] or not 1 <= x.shape[5] <= frames:
            shape = ", ".join(map(str, ("B", self.in_chans, *space, f"1 to {frames}")))
            raise ConfigError(f"SwiFT takes [{shape}], got {list(x.shape)}")
        return self.patch_embed(x)

    def run_block(self, x: Tensor, stage: int, index: int) -> Tensor:
        """One block with what stands around it: positions before a stage's first, merging behind its last.

        Args:
            x: Tokens ``[B, N, C]``.
            stage: Which stage.
            index: Which of its blocks.

        Returns:
            ``[B, N, C]``, or ``[B, N / 8, C']`` behind a stage but the last.
        """
        layer = self.layers[stage]
        assert isinstance(layer, Stage)
        x = layer.blocks[index](x if index else self.pos_embeds[stage](x))
        return layer.downsample(x) if index + 1 == len(layer.blocks) and layer.downsample is not None else x

    def places(self) -> list[tuple[int, int]]:
        """Stage and number inside it of each block, in their order."""
        return [(s, i) for s, layer in enumerate(self.layers) for i in range(len(layer.blocks))]  # pyright: ignore

    def forward(self, x: Tensor) -> Tensor:
        """Sequences ``[B, in_chans, H, W, D, T]`` -> maps ``[B, C, h, w, d, T]`` of the last stage, without a norm."""
        x = self.embed(x)
        for stage, index in self.places():
            x = self.run_block(x, stage, index)
        return x.unflatten(1, (*self.space, -1)).movedim(-1, 1)


def check_shape(
    size: Sequence[int],
    window: Sequence[int],
    first: Sequence[int],
    patch: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    widths: Sequence[int],
) -> None:
    """Refuses numbers that make no network; see :class:`SwiFT`.

    Raises:
        ConfigError: Says which do not go together.
    """
    fours = {"img_size": size, "window_size": window, "first_window_size": first, "patch_size": patch}
    for name, four in fours.items():
        if len(four) != 4 or min(four) < 1:
            raise ConfigError(f"{name} of SwiFT is {tuple(four)}; give four positive numbers, time last")
    if patch[3] != 1:
        raise ConfigError(f"patch_size of SwiFT is {tuple(patch)}; a patch is one volume long, so its last number is 1")
    if len(depths) < 2 or min(depths) < 1 or len(heads) != len(depths):
        raise ConfigError(
            f"depths of SwiFT are {tuple(depths)} and num_heads {tuple(heads)}; give two stages or more, each with at "
            "least one block, and the heads of each"
        )
    step = 2 ** (len(depths) - 1)
    if any(length % (cut * step) for length, cut in zip(size[:3], patch[:3], strict=True)):
        raise ConfigError(
            f"img_size of SwiFT is {tuple(size)}; with patches of {tuple(patch[:3])} and {len(depths)} stages, of "
            f"which all but the last halve each axis, it must be a multiple of {[cut * step for cut in patch[:3]]}"
        )
    for dim, count in zip(widths, heads, strict=True):
        if count < 1 or dim % count:
            raise ConfigError(f"{count} heads do not divide a width of {dim} of SwiFT; change num_heads or embed_dim")
