"""Perceiver Resampler: learned latents that read any number of visual tokens and return a fixed number.

Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", NeurIPS 2022 (arXiv 2204.14198), section on
the Perceiver Resampler, in the layout of OpenFlamingo (Awadalla et al., 2023, arXiv 2308.01390) and of Idefics
(Laurençon et al., 2023, arXiv 2306.16527). Per layer, for the latents ``l`` of one media item ``x``:

    l = l + W_o softmax(W_q LN(l) (W_k [LN(x); LN(l)])^T / sqrt(head_dim)) W_v [LN(x); LN(l)]
    l = l + W_2 act(W_1 LN(l))

and a final LayerNorm. No linear map has a bias; ``act`` is the exact GELU in OpenFlamingo, ReLU in Idefics and the
squared ReLU in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.kernels.perceiver.op import normalised as kernel_normalised
from medgraft.adapters.parts.perceiver_layers import Activation, PerceiverAttention, feed_forward
from medgraft.adapters.parts.placement import towers_with_features, trained_dtype
from medgraft.adapters.parts.published_weights import join_key_value, part_of
from medgraft.checkpoints.weights import load_strict
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import Reading
from medgraft.errors import CheckpointError, ConfigError
from medgraft.features import Condenser, Features


class PerceiverResampler(nn.Module):
    """Resamples each media item to a fixed number of latents, independently of the other items.

    The state dict has OpenFlamingo's names: ``latents``, ``frame_embs``, ``media_time_embs``,
    ``layers.{i}.0.{norm_media,norm_latents,to_q,to_kv,to_out}``, ``layers.{i}.1.{0,1,3}`` and ``norm``.

    Args:
        dim: Token width ``C``.
        depth: Layers; 6 in every published model.
        head_dim: Width of a head.
        heads: Number of heads.
        num_latents: Latents per media item.
        max_media: Media items with a position embedding of their own; ``None`` for no such embedding.
        max_frames: Frames with a time embedding; more frames interpolate it linearly. ``None`` for none.
        ff_mult: Width of the MLP as a multiple of ``dim``.
        activation: Of the MLP.
        qk_norm: LayerNorm of each head's queries and keys.

    Raises:
        ConfigError: A size is not positive.

    Example:
        >>> resampler = PerceiverResampler(16, depth=1, head_dim=4, heads=2, num_latents=3)
        >>> resampler(torch.randn(2, 1, 5, 7, 16)).shape
        torch.Size([2, 1, 3, 16])
    """

    def __init__(
        self,
        dim: int,
        depth: int = 6,
        head_dim: int = 64,
        heads: int = 8,
        num_latents: int = 64,
        max_media: int | None = None,
        max_frames: int | None = None,
        ff_mult: float = 4,
        *,
        activation: Activation = "gelu",
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "head_dim": head_dim, "heads": heads, "num_latents": num_latents}
        for name, size in {**sizes, "max_media": max_media, "max_frames": max_frames}.items():
            if size is not None and size < 1:
                raise ConfigError(f"PerceiverResampler: {name} is {size}; it must be at least 1")
        self.dim = dim
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.frame_embs = nn.Parameter(torch.randn(max_frames, dim)) if max_frames else None
        self.media_time_embs = nn.Parameter(torch.randn(max_media, 1, dim)) if max_media else None
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, head_dim, heads, qk_norm), feed_forward(dim, ff_mult, activation)])
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, normalised: bool = False) -> Tensor:
        """Resamples.

        Args:
            x: ``[B, T, F, N, C]``: ``T`` media items of ``F`` frames of ``N`` tokens.
            mask: ``[B, T, F, N]``, true for real tokens; padding then changes nothing. Not in the published code.
            normalised: ``x`` has gone through a LayerNorm without affine parameters before; for resamplers without
                embeddings of media items and frames, which are added in front of it.

        Returns:
            ``[B, T, num_latents, C]``.

        Raises:
            ConfigError: A shape does not fit, or there are more media items than embeddings.
        """
        if x.ndim != 5 or x.shape[-1] != self.dim:
            raise ConfigError(f"a resampler of width {self.dim} takes [B, T, F, N, {self.dim}], got {list(x.shape)}")
        if mask is not None and mask.shape != x.shape[:-1]:
            raise ConfigError(f"a token mask for {list(x.shape)} must be {list(x.shape[:-1])}, got {list(mask.shape)}")
        if normalised and not self.normalises_first:
            raise ConfigError("embeddings are added to the tokens before their norm, so they cannot be normalised yet")
        B, T, frames = x.shape[:3]
        if self.frame_embs is not None:
            x = x + self._frame_embeddings(self.frame_embs, frames)[:, None]
        x = x.flatten(2, 3)
        if self.media_time_embs is not None:
            if len(self.media_time_embs) < T:
                raise ConfigError(f"{T} media items, but max_media is {len(self.media_time_embs)}")
            x = x + self.media_time_embs[:T]
        x = x.flatten(0, 1)
        flat = None if mask is None else mask.flatten(2).flatten(0, 1)
        # A copy: torch's counter of operations cannot follow a view of a parameter into a module without gradients.
        latents = self.latents.expand(B * T, -1, -1).clone()
        first = self.layers[0][0]  # pyright: ignore[reportIndexIssue]
        x_hat = first.normalised(x, latents.shape[1], already=normalised)
        for attention, mlp in self.layers:  # pyright: ignore[reportGeneralTypeIssues]
            latents = latents + attention(x, latents, flat, x_hat, normalised=normalised)
            latents = latents + mlp(latents)
        return self.norm(latents).unflatten(0, (B, T))

    @property
    def normalises_first(self) -> bool:
        """Whether nothing trained touches the tokens before their norm."""
        return self.frame_embs is None and self.media_time_embs is None

    @staticmethod
    def _frame_embeddings(embeddings: Tensor, frames: int) -> Tensor:
        if frames <= len(embeddings):
            return embeddings[:frames]
        return F.interpolate(embeddings.T[None], size=frames, mode="linear", align_corners=True)[0].T

    # -- published weights --------------------------------------------------------------------------------------------

    def load_openflamingo(self, state_dict: Mapping[str, Any], prefix: str | None = None) -> list[str]:
        """Loads OpenFlamingo's weights, strictly.

        Args:
            state_dict: Of the resampler alone or of a whole model; whatever precedes its keys (``perceiver.``,
                ``module.perceiver.``) is found.
            prefix: Which of several resamplers, see :func:`~medgraft.adapters.parts.published_weights.part_of`.

        Returns:
            Keys of other modules, which were not used.

        Raises:
            CheckpointError: A key is missing, unexpected or of another shape; nothing is changed then.
        """
        state, others = part_of(state_dict, "latents", prefix)
        self._load(state, "the OpenFlamingo resampler")
        return others

    def load_idefics(self, state_dict: Mapping[str, Any], prefix: str | None = None) -> list[str]:
        """Loads the weights of the first Idefics, strictly, and takes over its MLP's activation, the ReLU.

        Queries and keys are normalised per head in some of its models; ``qk_norm`` must then be on.

        Args:
            state_dict: Of the resampler alone or of a whole model (``model.perceiver_resampler.``).
            prefix: See :func:`~medgraft.adapters.parts.published_weights.part_of`.

        Returns:
            Keys of other modules, which were not used.

        Raises:
            CheckpointError: A key is missing, unexpected or of another shape; nothing is changed then.
        """
        tensors, others = part_of(state_dict, "latents", prefix)
        state = {_from_idefics(key): value for key, value in tensors.items()}
        self._load(join_key_value(state, "to_k.weight", "to_v.weight", "to_kv.weight"), "the Idefics resampler")
        for layer in self.layers:
            layer[1][2] = nn.ReLU()  # pyright: ignore[reportIndexIssue]
        return others

    def _load(self, state: dict[str, Tensor], where: str) -> None:
        try:
            load_strict(self, state, where)
        except CheckpointError as error:
            raise CheckpointError(f"{error}. The checkpoint is of PerceiverResampler({_arguments(state)})") from error


IDEFICS_NAMES = {
    "context_layer_norm": "norm_media",
    "latents_layer_norm": "norm_latents",
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "output_proj": "to_out",
    "q_layer_norm": "q_norm",
    "k_layer_norm": "k_norm",
    "ln": "0",
    "fc": "1",
    "c_proj": "3",
    "blocks": "layers",
    "layer_norm": "norm",
}


def _from_idefics(key: str) -> str:
    return ".".join(IDEFICS_NAMES.get(part, part) for part in key.split("."))


def _arguments(state: Mapping[str, Tensor]) -> str:
    """What a checkpoint says about the constructor's arguments, for an error."""
    depth = len({key.split(".")[1] for key in state if key.startswith("layers.")})
    latents, dim = state["latents"].shape
    parts = [f"dim={dim}", f"depth={depth}", f"num_latents={latents}"]
    if (q := state.get("layers.0.0.to_q.weight")) is not None:
        parts.append(f"heads * head_dim={len(q)}")
    if (up := state.get("layers.0.1.1.weight")) is not None:
        parts.append(f"ff_mult={len(up) / dim:g}")
    for argument, key in (("max_media", "media_time_embs"), ("max_frames", "frame_embs")):
        parts.append(f"{argument}={len(state[key]) if key in state else None}")
    if any("q_norm" in key for key in state):
        parts.append("qk_norm=True")
    return ", ".join(parts)


# -- the adapter ------------------------------------------------------------------------------------------------------


class PerceiverResamplerAdapter(Adapter):
    """A resampler on the output tokens of a tower; the head reads the mean of its latents.

    Prefix tokens (CLS) are left out, as in Flamingo. The latents replace the tokens, so a fresh graft does not equal
    the encoder (``identity_at_init`` is false).
    """

    paper = "Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, NeurIPS 2022 (arXiv 2204.14198)"
    licence = "Apache-2.0"
    formula = (
        r"l \leftarrow l + W_o\, \mathrm{softmax}\left(\frac{W_q \mathrm{LN}(l)\, (W_k [\mathrm{LN}(x); "
        r"\mathrm{LN}(l)])^\top}{\sqrt{d}}\right) W_v [\mathrm{LN}(x); \mathrm{LN}(l)]"
        "\n"
        r"l \leftarrow l + W_2\, \mathrm{act}(W_1 \mathrm{LN}(l))"
    )
    formats = ("weights of OpenFlamingo and Idefics, into the module: `load_openflamingo` and `load_idefics`",)
    train_defaults = MappingProxyType({"lr": 0.0005, "epochs": 8})
    size_knob = SizeKnob("head_dim")
    search = MappingProxyType({"num_latents": (8, 16, 32, 64, 128), "depth": (1, 2, 3, 4, 6)})
    text_padding = 0
    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            depth: Layers; 6 in the paper, whose encoder is a hundred times as large as the shipped ones.
            heads: Attention heads.
            head_dim: Width of a head.
            num_latents: Latents, the tokens that come out.
            ff_mult: Width of the MLP as a multiple of the token width.
            activation: Of the MLP: ``gelu`` (OpenFlamingo), ``relu`` (Idefics), ``squared_relu`` (Flamingo).
            max_frames: Reads the first axis of the token grid as frames (slices of a volume) and gives that many of
                them a learned embedding, interpolated where there are more; ``None`` reads the grid as one frame.
            pooling: What the head reads: the ``mean`` of the latents, or the ``first``.
            modality: Which towers of a dual encoder get a resampler.
        """

        depth: int = Field(2, ge=1)
        heads: int = Field(8, ge=1)
        head_dim: int = Field(64, ge=1)
        num_latents: int = Field(64, ge=1)
        ff_mult: int = Field(4, ge=1)
        activation: Activation = "gelu"
        max_frames: int | None = Field(None, ge=1)
        pooling: Literal["mean", "first"] = "mean"
        modality: Reading = "visual"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.resampler = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder that has a tower of the modality, unless its tokens are single values."""
        towers = towers_with_features(encoder, encoder.sites(), self.config.modality)
        if not towers:
            return Support(False, f"it has no {self.config.modality} tower")
        for name, (tower, _) in towers.items():
            if tower.spec.dim < 2:
                return Support(False, f"the tokens of its {name} tower are single values, which a LayerNorm makes 0")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds one resampler per tower, on its tokens."""
        attachment = Attachment(encoder)
        config = self.config
        for name, (tower, site) in towers_with_features(encoder, sites, config.modality).items():
            attachment.record({"features": [site]})
            resampler = PerceiverResampler(
                tower.spec.dim,
                config.depth,
                config.head_dim,
                config.heads,
                config.num_latents,
                max_frames=config.max_frames,
                ff_mult=config.ff_mult,
                activation=config.activation,
            )
            self.resampler[name] = resampler.to(trained_dtype(tower))
            attachment.map_features(tower, _resample(resampler, config))
        return attachment

    def precompute(self, tower: Encoder) -> Condenser | None:
        """The normalised tokens: each layer's norm of them differs in its affine part only."""
        name = tower.spec.modality
        if name not in self.resampler or self.config.max_frames is not None:
            return None
        key = "perceiver_resampler normalised"

        def apply(features: Features) -> Features:
            media, mask = as_media(features)
            tokens, grid = kernel_normalised(media[:, 0, 0]), features.grid
            mask = None if mask is None else mask[:, 0, 0]
            return Features(tokens, features.pooled, n_prefix=0, grid=grid, mask=mask, condensed=key)

        return Condenser(key, apply)


def as_media(features: Features, frames: bool = False) -> tuple[Tensor, Tensor | None]:
    """Tokens without the prefix as one media item ``[B, 1, F, N, C]``, and their mask ``[B, 1, F, N]``.

    Args:
        features: Of one tower.
        frames: The first axis of the grid is ``F``; else there is one frame.
    """
    tokens = features.tokens[:, features.n_prefix :]
    shape = (1, features.grid[0] if frames and len(features.grid) > 1 else 1, -1)
    mask = None if features.mask is None else features.mask[:, features.n_prefix :].unflatten(1, shape)
    return tokens.unflatten(1, shape), mask


def _resample(resampler: PerceiverResampler, config: PerceiverResamplerAdapter.Config):
    def resample(features: Features) -> Features:
        media, mask = as_media(features, frames=config.max_frames is not None)
        done = bool(features.condensed)
        latents = resampler(media.to(resampler.latents.dtype), mask, normalised=done)[:, 0]
        pooled = latents.mean(dim=1) if config.pooling == "mean" else latents[:, 0]
        return Features(tokens=latents, pooled=pooled, n_prefix=0, grid=(latents.shape[1],))

    return resample
