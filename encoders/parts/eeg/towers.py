"""Towers around braindecode's networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoder.block_tokens import BlockTokens
from medgraft.encoder.sites import Site
from medgraft.encoders.parts.eeg.attention import CrissCrossBlock, PackedAttention, QueryKeyNorm, ResidualPair
from medgraft.encoders.parts.eeg.recordings import SCALINGS, Preparation
from medgraft.encoders.parts.loading import StagedEncoder
from medgraft.errors import ConfigError
from medgraft.features import Features


class EegEncoder(StagedEncoder):
    """Common part of the towers of EEG.

    Args:
        spec: Facts.
        model: The library's network, without a classifier.
        preparation: How a recording is brought to what the network takes.

    Attributes:
        droppable: Its tokens belong to channels one by one, so that it runs without some of them.
    """

    has_cls = False
    droppable = False

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec)
        self.model: Any = model
        self.preparation = preparation
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0  # PyTorch's fused layer would pass by every module inside

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the rows of a prepared recording."""
        return (*self.preparation.channels, *SCALINGS[self.preparation.scaling].extra)

    def prepare(self, raw: Any) -> Tensor:
        """A :class:`~medgraft.modalities.signal.Recording` -> ``float32 [channels, T]``; see :class:`Preparation`.

        Channels that are left out (``missing="drop"``) are ``nan``.
        """
        return torch.from_numpy(self.preparation(raw))

    def set_blocks(self, paths: Any) -> None:
        """Declares the blocks; where channels may be left out, samples differ in length, and so there are no stages."""
        super().set_blocks(paths)
        if self.preparation.missing == "drop":
            self.n_stages, self.block_stages = 1, ()

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of prepared recordings ``[B, channels, T]``, or of a hidden state and its stage.

        Samples that lack the same channels run together, and the features' mask says which tokens they do not have.
        """
        if self.preparation.missing != "drop" or start or not bool(x.isnan().any()):
            return super().encode(x, start=start)
        self._check_stage(start)
        present = ~self.checked(x).isnan().any(dim=-1)
        patterns, groups = present.unique(dim=0, return_inverse=True)
        parts = [self._run_present(x[groups == i][:, pattern], pattern) for i, pattern in enumerate(patterns)]
        order = torch.cat([(groups == i).nonzero()[:, 0] for i in range(len(patterns))]).argsort()
        tokens, masks, pooled = (torch.cat(each)[order] for each in zip(*parts, strict=True))
        prefix = self.prefix_tokens
        return Features(tokens, pooled, prefix, (tokens.shape[1] - prefix,), mask=masks)

    def _run_present(self, x: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens with zeros for channels that are not there, their mask, and ``pooled``."""
        features = self.pool(self.run(self.embed(x, pattern), 0, len(self.block_paths())))
        mask = self.token_mask(pattern, (features.tokens.shape[1] - features.n_prefix) // int(pattern.sum()))
        tokens = features.tokens.new_zeros(len(x), len(mask), features.tokens.shape[-1])
        tokens[:, mask] = features.tokens
        return tokens, mask.expand(len(x), -1), features.pooled

    @property
    def prefix_tokens(self) -> int:
        """Tokens without a place where all channels are there."""
        return int(self.has_cls)

    def token_mask(self, present: Tensor, patches: int) -> Tensor:
        """Which tokens a recording has that lacks some channels, ``bool [N]``.

        Args:
            present: Which of the network's channels are there, ``bool [channels]``.
            patches: Tokens of each channel.
        """
        return torch.cat([present.new_ones(self.prefix_tokens), present.repeat_interleave(patches)])

    def tokens_by_channel(self, patches: int, dim: int, count: int | None) -> BlockTokens:
        """Tokens of blocks that lie channel by channel behind those without a place.

        Args:
            patches: Tokens of each channel.
            dim: Width of a token.
            count: Tokens of the sample; ``None`` for all channels.
        """
        prefix = self.prefix_tokens
        channels = len(self.preparation.channels) if count is None else (count - prefix) // patches
        return BlockTokens(prefix, (channels, patches), "ct", dim, varying=self.preparation.missing == "drop")

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Recordings ``[B, C, T]`` -> input of the first block.

        Args:
            x: The channels that are there.
            present: Which of the network's channels these are, ``bool [channels]``; all of them unless given.
        """
        raise TypeError(f"{type(self).__name__} must implement embed()")


class WholeNetwork(EegEncoder):
    """A network that is run as the library runs it; what went into its classifier is the tokens.

    Args:
        spec: Facts.
        model: The network, its ``final_layer`` an identity.
        preparation: How a recording is brought to what the network takes.
    """

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``[B, channels, T]`` -> what the network gives, ``[B, C]``, ``[B, C, *size]`` or ``[B, *size, C]``."""
        return self.model(x)

    def pool(self, x: Tensor) -> Features:
        """Tokens ``[B, N, C]``, whose width the spec knows; ``pooled`` is their mean."""
        width = self.spec.dim
        if x.ndim > 2 and x.shape[-1] != width:
            x = x.movedim(1, -1)
        grid = tuple(x.shape[1:-1]) or (1,)
        tokens = x.reshape(len(x), -1, width)
        return Features(tokens, tokens.mean(dim=1), 0, grid)


class LabramTower(EegEncoder):
    """LaBraM, block by block; ``pooled`` is the CLS token, or what the network's mean pooling gives."""

    has_cls = True
    droppable = True

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        from braindecode.models.labram import LABRAM_CHANNEL_ORDER

        known = {name.upper(): i for i, name in enumerate(LABRAM_CHANNEL_ORDER)}
        self.register_buffer(
            "places", torch.tensor([known[name.upper()] + 1 for name in preparation.channels]), persistent=False
        )
        for block in model.blocks:
            block.attn = PackedAttention(block.attn)
        self.set_blocks([f"model.blocks.{i}" for i in range(len(model.blocks))])
        self.attention = [self._layout(i, block.attn) for i, block in enumerate(model.blocks)]

    def _layout(self, index: int, attention: PackedAttention) -> AttentionLayout:
        path = f"model.blocks.{index}.attn"
        plain = isinstance(attention.q_norm, nn.Identity)
        return AttentionLayout(
            "packed",
            f"{path}.qkv",
            heads=attention.num_heads,
            dim=attention.qkv.out_features // 3,
            out_path=f"{path}.proj",
            scale=attention.scale,
            transform=None if plain else QueryKeyNorm(self, path),
        )

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Channels and time, behind the CLS token."""
        return self.tokens_by_channel(self.model.n_path, self.model.embed_dim, count)

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Patches of 1 s with their electrode and time, behind a CLS token, ``[B, 1 + C * patches, width]``."""
        model, B = self.model, len(x)
        assert isinstance(self.places, Tensor)
        places = self.places if present is None else self.places[present]
        tokens = torch.cat([model.cls_token.expand(B, -1, -1), model.patch_embed(x)], dim=1)
        if model.position_embedding is not None:
            used = model.position_embedding[:, torch.cat([places.new_zeros(1), places])]
            tokens = tokens + model._adj_position_embedding(pos_embed_used=used, batch_size=B)
        time = model._adj_temporal_embedding(num_ch=x.shape[1], batch_size=B, dim_embed=model.embed_dim)
        return torch.cat([tokens[:, :1], tokens[:, 1:] + time], dim=1)

    def pool(self, x: Tensor) -> Features:
        """Last norm, ``[B, 1 + N, C]``."""
        model = self.model
        tokens = model.norm(x)
        grid = (len(self.preparation.channels), model.n_path)
        if model.fc_norm is None:
            return Features(tokens, tokens[:, 0], 1, grid)
        return Features(model.fc_norm(tokens), model.fc_norm(tokens[:, 1:].mean(dim=1)), 1, grid)


class CBraModTower(EegEncoder):
    """CBraMod, block by block; ``pooled`` is the mean of the tokens.

    Its positions are a convolution over the order of the channels, so that no token can be put between the others.
    """

    droppable = True
    rotary = True

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        layers, patches = model.encoder.layers, preparation.length // model._patch_size
        for i, layer in enumerate(layers):
            layers[i] = CrissCrossBlock(layer, patches)
        self.set_blocks([f"model.encoder.layers.{i}" for i in range(len(layers))])

    def sites(self) -> Mapping[str, Site]:
        """Also the two branches of each block; its two attentions are layers ``*.attn.spatial.q`` and so on."""
        sites = dict(super().sites())
        features = sites.pop("features")
        for i, path in enumerate(self.block_paths()):
            stage = self.block_stages[i] if self.block_stages else 0
            attn, entry, end = f"{path}.attn", f"{path}.linear1", f"{path}.linear2"
            sites[f"blocks.{i}.attn"] = Site(f"blocks.{i}.attn", "branch", attn, "", i, stage, entry=attn)
            sites[f"blocks.{i}.mlp"] = Site(f"blocks.{i}.mlp", "branch", end, "", i, stage, entry=entry)
        return {**sites, "features": features}

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Channels and time."""
        width = self.model.encoder.layers[index].norm1.normalized_shape[0]
        return self.tokens_by_channel(self.preparation.length // self.model._patch_size, width, count)

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Patches of 1 s with their spectrum and position, ``[B, C * patches, width]``."""
        return self.model.patch_embedding(self.model.rearrange(x)).flatten(1, 2)

    def pool(self, x: Tensor) -> Features:
        """The network's output layer, ``[B, N, C] -> [B, N, C']``."""
        tokens = self.model.proj_out(x)
        patches = self.preparation.length // self.model._patch_size
        return Features(tokens, tokens.mean(dim=1), 0, (tokens.shape[1] // patches, patches))


class EegptTower(EegEncoder):
    """EEGPT, block by block; each patch in time is a sequence of its channels and of summary tokens, which are kept."""

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        inner = model.target_encoder
        self.sliced = inner.num_patches[1]
        self.block_grid = (0, (inner.num_patches[0] + inner.embed_num,))
        self.set_blocks([f"model.target_encoder.blocks.{i}" for i in range(len(inner.blocks))])
        self.attention = [
            AttentionLayout(
                "packed",
                f"model.target_encoder.blocks.{i}.attn.qkv",
                heads=block.attn.num_heads,
                dim=block.attn.num_heads * block.attn.head_dim,
                out_path=f"model.target_encoder.blocks.{i}.attn.proj",
                scale=block.attn.scale,
            )
            for i, block in enumerate(inner.blocks)
        ]

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``[B, patches, C + summaries, width]``."""
        inner = self.model.target_encoder
        tokens = inner.patch_embed(x) + inner.chan_embed(self.model.chans_id.long())
        summaries = inner.summary_token.expand(len(x), tokens.shape[1], -1, -1)
        return torch.cat([tokens, summaries], dim=2)

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Blocks ``first`` to ``stop - 1`` on ``[B, patches, C + summaries, width]``, each patch for itself."""
        return super().run(x.flatten(0, 1), first, stop).unflatten(0, (len(x), -1))

    def pool(self, x: Tensor) -> Features:
        """The summaries of all patches behind the last norm, ``[B, patches * summaries, width]``, and their mean."""
        inner = self.model.target_encoder
        tokens = inner.norm(x[:, :, -inner.embed_num :])
        return Features(tokens.flatten(1, 2), tokens.mean(dim=(1, 2)), 0, (tokens.shape[1], tokens.shape[2]))


class BiotTower(EegEncoder):
    """BIOT, block by block; ``pooled`` is the mean of the tokens. Its attention is linear, so it has no scores."""

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        layers = model.encoder.transformer.layers.layers
        for i, layer in enumerate(layers):
            layers[i] = ResidualPair(layer)
        paths = [f"model.encoder.transformer.layers.layers.{i}" for i in range(len(layers))]
        self.set_blocks(paths)
        self.attention = [
            AttentionLayout(
                "split",
                f"{path}.0.fn.to_q",
                heads=model.num_heads,
                dim=model.embed_dim,
                key_path=f"{path}.0.fn.to_k",
                value_path=f"{path}.0.fn.to_v",
                out_path=f"{path}.0.fn.to_out",
                scored=False,
            )
            for path in paths
        ]

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Channels and time."""
        inner = self.model.encoder
        patches = (self.preparation.length - inner.n_fft) // inner.hop_length + 1
        return self.tokens_by_channel(patches, self.spec.dim, count)

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Spectra of half-overlapping seconds with their channel and time, ``[B, C * steps, width]``."""
        inner = self.model.encoder
        parts = []
        for i in range(x.shape[1]):
            spectra = inner.patch_embedding(inner.stft(x[:, i : i + 1]))
            parts.append(inner.positional_encoding(spectra + inner.channel_tokens(inner.index[i])))
        return torch.cat(parts, dim=1)

    def pool(self, x: Tensor) -> Features:
        """``[B, N, C]`` as they are, and their mean."""
        channels = len(self.preparation.channels)
        return Features(x, x.mean(dim=1), 0, (channels, x.shape[1] // channels))


class BendrTower(EegEncoder):
    """BENDR's contextualizer, block by block, behind its convolutions; ``pooled`` is the start token's output."""

    has_cls = True

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        context = model.contextualizer
        if hasattr(context, "relative_position"):
            nn.utils.parametrize.remove_parametrizations(context.relative_position[0], "weight")
        for layer in context.transformer_layers:
            layer.self_attn.batch_first = True  # the library's run time first, which changes nothing but the axes
        paths = [f"model.contextualizer.transformer_layers.{i}" for i in range(len(context.transformer_layers))]
        self.set_blocks(paths)
        self.attention = [
            AttentionLayout("mha", f"{path}.self_attn", heads=layer.self_attn.num_heads, dim=context.transformer_dim)
            for path, layer in zip(paths, context.transformer_layers, strict=True)
        ]

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Time, behind the start token."""
        step = math.prod(self.model.enc_downsample)
        frames = -(-self.preparation.length // step) if count is None else count - 1
        return BlockTokens(1, (frames,), "t", self.model.contextualizer.transformer_dim)

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Convolved signal with its position, behind the start token, ``[B, 1 + N, 3 * width]``."""
        context = self.model.contextualizer
        x = self.model.encoder(x)
        if hasattr(context, "relative_position"):
            x = x + context.relative_position(x)
        tokens = context.input_conditioning(x).transpose(0, 1)
        start = tokens.new_full((len(tokens), 1, tokens.shape[-1]), float(context.start_token))
        return torch.cat([start, tokens], dim=1)

    def pool(self, x: Tensor) -> Features:
        """Last norm of ``[B, 1 + N, 3 * width]``; the output layer behind it gives ``pooled``, ``[B, width]``."""
        context = self.model.contextualizer
        tokens = context.norm(x)
        pooled = context.output_layer(tokens[:, :1].transpose(1, 2))[:, :, 0]
        return Features(tokens, pooled, 1, (tokens.shape[1] - 1,))


class LunaTower(EegEncoder):
    """LUNA, block by block on patches in time, in which learned queries have gathered the channels."""

    rotary = True

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        paths = [f"model.blocks.{i}" for i in range(len(model.blocks))]
        self.set_blocks(paths)
        self.attention = [
            AttentionLayout(
                "packed",
                f"{path}.attn.qkv_proj",
                heads=block.attn.num_heads,
                dim=block.attn.dim,
                out_path=f"{path}.attn.proj",
                scored=False,
            )
            for path, block in zip(paths, model.blocks, strict=True)
        ]

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Time."""
        frames = self.preparation.length // self.model.patch_size if count is None else count
        return BlockTokens(0, (frames,), "t", self.spec.dim)

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``[B, patches, queries * width]``."""
        model = self.model
        places = model.get_default_channel_locations(len(x), x.shape[1], x.device, x.dtype)
        tokens, _ = model.prepare_tokens(x, places)
        gathered, _ = model.cross_attn(tokens)
        return gathered.reshape(len(x), -1, gathered.shape[1] * gathered.shape[2])

    def pool(self, x: Tensor) -> Features:
        """Last norm of ``[B, N, C]``, and the mean."""
        tokens = self.model.norm(x)
        return Features(tokens, tokens.mean(dim=1), 0, (tokens.shape[1],))


def check_droppable(name: str, kind: type[EegEncoder], preparation: Preparation) -> None:
    """Refuses to leave channels out of a network that takes a fixed list.

    Raises:
        ConfigError: With what it offers instead.
    """
    if preparation.missing == "drop" and not kind.droppable:
        raise ConfigError(
            f"encoder {name} takes a fixed list of channels, so none can be left out; give missing='interpolate' or "
            "'refuse'"
        )
