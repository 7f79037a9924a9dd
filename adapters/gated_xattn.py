"""Gated cross-attention: text tokens look at media through gates that are closed at the start.

GATED XATTN-DENSE of Alayrac et al., "Flamingo", NeurIPS 2022 (arXiv 2204.14198), in the layout of OpenFlamingo
(Awadalla et al., 2023, arXiv 2308.01390) and of Idefics (Laurençon et al., 2023, arXiv 2306.16527):

    x = x + tanh(g_a) W_o softmax(W_q norm(x) (W_k m)^T / sqrt(head_dim)) W_v m
    x = x + tanh(g_f) MLP(x)

with gates ``g_a = g_f = 0`` at the start. Only the gates have a gradient then, so they need a warm learning rate. The
media ``m`` are not normalised here; the resampler's last norm does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.cross_attention import GatedMlp, IdeficsForm, MaskedCrossAttention, Visibility
from medgraft.adapters.parts.perceiver_layers import feed_forward
from medgraft.adapters.parts.placement import trained_dtype
from medgraft.adapters.parts.published_weights import join_key_value, part_of
from medgraft.adapters.perceiver_resampler import PerceiverResampler, as_media
from medgraft.checkpoints.weights import load_strict
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import shares_space, text_tower, visual_tower
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.features import Features


class GatedCrossAttention(nn.Module):
    """One gated cross-attention block; the identity until its gates open.

    The state dict has OpenFlamingo's names: ``attn.{norm,to_q,to_kv,to_out}``, ``attn_gate``, ``ff.{0,1,3}`` and
    ``ff_gate``.

    Args:
        dim: Text width.
        media_dim: Media width.
        head_dim: Width of a head.
        heads: Number of heads.
        ff_mult: Width of the MLP as a multiple of ``dim``.
        immediate_only: Text sees the last media item before it (as published); else all before it.
        strict: Text that may see no media reads nothing. Off, as published, text before the first item reads the mean
            of *all* items if ``immediate_only`` is off, and so does text after more media tokens than there are items.
        idefics: Builds the block in the form of Idefics; ``ff_mult`` then has no meaning.

    Raises:
        ConfigError: A size is not positive.

    Example:
        >>> block = GatedCrossAttention(16, 8, head_dim=4, heads=2)
        >>> x, images = torch.randn(1, 5, 16), torch.randn(1, 2, 3, 8)
        >>> locations = torch.tensor([[False, True, False, True, False]])
        >>> torch.equal(block(x, images, locations), x)
        True
    """

    def __init__(
        self,
        dim: int,
        media_dim: int,
        head_dim: int = 64,
        heads: int = 8,
        ff_mult: float = 4,
        immediate_only: bool = True,
        *,
        strict: bool = False,
        idefics: IdeficsForm | None = None,
    ) -> None:
        super().__init__()
        for name, size in {"dim": dim, "media_dim": media_dim, "head_dim": head_dim, "heads": heads}.items():
            if size < 1:
                raise ConfigError(f"GatedCrossAttention: {name} is {size}; it must be at least 1")
        self.dim, self.media_dim, self.head_dim, self.heads = dim, media_dim, head_dim, heads
        self.immediate_only = immediate_only
        self.strict = strict
        self.attn = MaskedCrossAttention(dim, media_dim, head_dim, heads, idefics)
        gates = (1, 1, dim) if idefics is not None and idefics.gate == "vector" else (1,)
        self.attn_gate = nn.Parameter(torch.zeros(gates))
        self.ff_gate = nn.Parameter(torch.zeros(gates))
        if idefics is None:
            self.ff = feed_forward(dim, ff_mult)
        else:
            self.ff = nn.Sequential(nn.RMSNorm(dim, eps=idefics.eps), GatedMlp(dim, idefics.mlp_dim))

    def forward(
        self,
        x: Tensor,
        media: Tensor,
        media_locations: Tensor | None = None,
        use_cached_media: bool = False,
        *,
        media_mask: Tensor | None = None,
        visible: Tensor | None = None,
        kept: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Adds what the text reads in the media.

        Args:
            x: Text ``[B, L, dim]``.
            media: ``[B, T, n, media_dim]``: ``T`` media items of ``n`` latents or tokens.
            media_locations: ``[B, L]``, true at the text tokens that stand for a media item, in their order; the
                token itself already sees it. May have another length if ``use_cached_media``.
            use_cached_media: All of ``x`` comes after the last item of ``media_locations`` (generation). Without
                locations, all of ``x`` then sees all media.
            media_mask: ``[B, T, n]``, true for real media tokens; padding changes nothing, and text all of whose
                media are padding reads nothing. Not in the published code.
            visible: ``[B, L, T]``, true where a text token sees a media item, in place of ``media_locations``, as in
                Idefics; text that sees none reads nothing.
            kept: Keys and values of these media from before, see :meth:`MaskedCrossAttention.keys_and_values`.

        Returns:
            ``[B, L, dim]``.

        Raises:
            ConfigError: A shape does not fit, or nothing says where the media are.
        """
        self._check(x, media, media_locations, use_cached_media, media_mask, visible)
        T, n = media.shape[1:3]
        allowed, blind = None, None
        if visible is not None:
            allowed, blind = visible.bool(), ~visible.bool().any(dim=-1)
        elif media_locations is not None:
            allowed, blind = self._by_time(media_locations.bool(), x.shape[1], T, use_cached_media)
        padding = None
        if media_mask is not None:
            padding = ~media_mask.bool().flatten(1)
            sees = media_mask.bool().any(dim=-1)[:, None].expand(-1, x.shape[1], -1)
            if allowed is None:
                lost = ~sees.any(dim=-1)
            else:
                # Where the published form reads the mean of all items, it reads that of the real ones.
                lost = ~sees.any(dim=-1) | (allowed.any(dim=-1) & ~(allowed & sees).any(dim=-1))
            blind = lost if blind is None else blind | lost
        denied = None if allowed is None else ~allowed.repeat_interleave(n, dim=-1)
        read = self.attn(x, media.flatten(1, 2), Visibility(denied, padding, blind), kept)
        x = x + torch.tanh(self.attn_gate) * read
        return x + torch.tanh(self.ff_gate) * self.ff(x)

    def _by_time(self, locations: Tensor, length: int, items: int, cached: bool) -> tuple[Tensor, Tensor | None]:
        """Which items each text token may see ``[B, L, T]``, and which text tokens read nothing ``[B, L]``."""
        if cached:
            time = locations.sum(dim=1, keepdim=True).expand(-1, length)
        else:
            time = locations.cumsum(dim=1)
        item = torch.arange(1, items + 1, device=time.device)
        allowed = time[..., None] == item if self.immediate_only else time[..., None] >= item
        if self.strict:
            return allowed, ~allowed.any(dim=-1)
        return allowed, (time == 0) if self.immediate_only else None

    def _check(
        self,
        x: Tensor,
        media: Tensor,
        locations: Tensor | None,
        cached: bool,
        media_mask: Tensor | None,
        visible: Tensor | None,
    ) -> None:
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ConfigError(f"text must be [B, L, {self.dim}], got {list(x.shape)}")
        if media.ndim != 4 or media.shape[-1] != self.media_dim or len(media) != len(x):
            raise ConfigError(f"media must be [{len(x)}, T, n, {self.media_dim}], got {list(media.shape)}")
        if visible is not None and (locations is not None or visible.shape != (*x.shape[:2], media.shape[1])):
            raise ConfigError(
                f"visible must be [{x.shape[0]}, {x.shape[1]}, {media.shape[1]}] without media_locations, got "
                f"{list(visible.shape)}"
            )
        if visible is None and locations is None and not cached:
            raise ConfigError("give media_locations or visible, or use_cached_media=True for text after all media")
        if locations is not None and (len(locations) != len(x) or (not cached and locations.shape != x.shape[:2])):
            raise ConfigError(f"media_locations must be {list(x.shape[:2])}, got {list(locations.shape)}")
        if media_mask is not None and media_mask.shape != media.shape[:3]:
            raise ConfigError(f"media_mask must be {list(media.shape[:3])}, got {list(media_mask.shape)}")

    # -- published weights --------------------------------------------------------------------------------------------

    def load_openflamingo(self, state_dict: Mapping[str, Any], prefix: str | None = None) -> list[str]:
        """Loads OpenFlamingo's weights, strictly.

        Args:
            state_dict: Of one block or of a whole model.
            prefix: Which block of a whole model, by the end of what precedes its keys
                (``"gated_cross_attn_layers.3"``); see :func:`~medgraft.adapters.parts.published_weights.part_of`.

        Returns:
            Keys of other modules, which were not used.

        Raises:
            CheckpointError: A key is missing, unexpected or of another shape; nothing is changed then.
        """
        state, others = part_of(state_dict, "attn_gate", prefix)
        load_strict(self, state, "the OpenFlamingo block")
        return others

    def load_idefics(self, state_dict: Mapping[str, Any], prefix: str | None = None, eps: float = 1e-6) -> list[str]:
        """Loads the weights of the first Idefics, strictly, and gives the block its form.

        Width of the MLP, kind of gate and norms of queries and keys are read from the weights; ``dim``, ``media_dim``
        and the heads must be those of the block. Parameters are new objects afterwards.

        Args:
            state_dict: Of one block or of a whole model.
            prefix: See :meth:`load_openflamingo`.
            eps: Of the norms, ``rms_norm_eps`` of the model's configuration.

        Returns:
            Keys of other modules and the frequencies of the rotary embedding, which cross-attention does not use.

        Raises:
            CheckpointError: A key is missing, unexpected or of another shape; nothing is changed then.
        """
        tensors, others = part_of(state_dict, "alpha_cross_attn", prefix)
        unused = [key for key in tensors if "rotary_emb" in key]
        named = {IDEFICS_NAMES.get(key, key): value for key, value in tensors.items() if key not in unused}
        state = join_key_value(named, "to_k.weight", "to_v.weight", "to_kv.weight")
        gate_proj = state.get("ff.1.gate.weight")
        form = IdeficsForm(
            mlp_dim=1 if gate_proj is None else len(gate_proj),
            gate="vector" if state["attn_gate"].ndim == 3 else "float",
            qk_norm="attn.q_norm.weight" in state,
            eps=eps,
        )
        loaded = GatedCrossAttention(self.dim, self.media_dim, self.head_dim, self.heads, idefics=form)
        loaded.to(device=self.attn_gate.device, dtype=self.attn_gate.dtype)
        load_strict(loaded, state, "the Idefics block")
        for name in ("attn", "attn_gate", "ff", "ff_gate"):
            setattr(self, name, getattr(loaded, name))
        return others + unused


IDEFICS_NAMES = {
    "input_layernorm.weight": "attn.norm.weight",
    "cross_attn.q_proj.weight": "attn.to_q.weight",
    "cross_attn.k_proj.weight": "attn.to_k.weight",
    "cross_attn.v_proj.weight": "attn.to_v.weight",
    "cross_attn.o_proj.weight": "attn.to_out.weight",
    "cross_attn.q_layer_norm.weight": "attn.q_norm.weight",
    "cross_attn.k_layer_norm.weight": "attn.k_norm.weight",
    "alpha_cross_attn": "attn_gate",
    "alpha_dense": "ff_gate",
    "post_attention_layernorm.weight": "ff.0.weight",
    "mlp.gate_proj.weight": "ff.1.gate.weight",
    "mlp.up_proj.weight": "ff.1.up.weight",
    "mlp.down_proj.weight": "ff.1.down.weight",
}


# -- the adapter ------------------------------------------------------------------------------------------------------


class GatedXattn(Adapter):
    """Gated cross-attention of a frozen text tower's output tokens to the visual tower's.

    The published blocks lie between the layers of a language model; here they follow the last one, so that both towers
    can be computed once and kept. Every text token sees all visual tokens but the prefix (CLS). The pooled embedding
    goes through the blocks as one more text token, which for a tower that pools one of its tokens is the same as
    pooling afterwards. Text that is encoded without an image in the same call stays as it is, and so does the
    embedding in a space shared with images: seeing the image would give its partner away, so a contrastive task finds
    nothing to train here.
    """

    paper = "Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, NeurIPS 2022 (arXiv 2204.14198)"
    licence = "Apache-2.0"
    formula = (
        r"x \leftarrow x + \tanh(g_a)\, W_o\, \mathrm{softmax}\left(\frac{W_q \mathrm{LN}(x)\, (W_k "
        r"m)^\top}{\sqrt{d}}\right) W_v m"
        "\n"
        r"x \leftarrow x + \tanh(g_f)\, \mathrm{MLP}(x)"
    )
    formats = ("weights of OpenFlamingo and Idefics, into the module: `load_openflamingo` and `load_idefics`",)
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 9})
    size_knob = SizeKnob("head_dim")
    search = MappingProxyType({"gate_lr": (1.0, 3.0, 10.0, 30.0, 100.0)})
    text_padding = 0

    class Config(AdapterConfig):
        """Options.

        Attributes:
            depth: Blocks, one after another.
            heads: Attention heads.
            head_dim: Width of a head.
            ff_mult: Width of the MLP as a multiple of the text width.
            resampler_depth: Layers of a Perceiver Resampler between the visual tokens and the blocks; 0 for none.
            num_latents: Latents of the resampler.
            gate_lr: Learning rate of the gates relative to the adapter's; only they have a gradient at the start.
        """

        depth: int = Field(1, ge=1)
        heads: int = Field(8, ge=1)
        head_dim: int = Field(64, ge=1)
        ff_mult: int = Field(4, ge=1)
        resampler_depth: int = Field(0, ge=0)
        num_latents: int = Field(64, ge=1)
        gate_lr: float = Field(10.0, gt=0)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.resampler: PerceiverResampler | None = None
        self.blocks = nn.ModuleList()
        self._seen: Features | None = None
        self._text_was_alone = False

    def supports(self, encoder: Encoder) -> Support:
        """Fits dual encoders of text and one visual modality."""
        names = encoder.towers()
        if len(names) == 2 and text_tower(encoder) and visual_tower(encoder):
            return Support(True)
        return Support(False, f"it reads {' and '.join(sorted(names))}; gated_xattn needs a visual and a text tower")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Remembers the visual features of a call, and maps the text features that follow."""
        attachment, config = Attachment(encoder), self.config
        reader, seen = text_tower(encoder), visual_tower(encoder)
        if reader is None or seen is None:
            raise IncompatibleError(f"gated_xattn does not fit {encoder.spec.name}: {self.supports(encoder).reason}")
        (text_name, text), (visual_name, visual) = reader, seen
        features = {site.tower: site for site in sites.values() if site.kind == "features"}
        attachment.record({"text features": [features[text_name]], "visual features": [features[visual_name]]})
        if config.resampler_depth:
            self.resampler = PerceiverResampler(
                visual.spec.dim,
                config.resampler_depth,
                config.head_dim,
                config.heads,
                config.num_latents,
                ff_mult=config.ff_mult,
            )
        self.blocks = nn.ModuleList(
            GatedCrossAttention(text.spec.dim, visual.spec.dim, config.head_dim, config.heads, config.ff_mult)
            for _ in range(config.depth)
        )
        self.to(torch.promote_types(trained_dtype(text), trained_dtype(visual)))
        shared = shares_space(encoder, text_name)
        attachment.set_attribute(encoder, "towers", self._forgetful(encoder))
        attachment.map_features(visual, self._see)
        attachment.map_features(text, lambda output: self._read(output, text if shared else None))
        return attachment

    def learning_rate_scale(self, parameter: str) -> float:
        """The gates learn faster."""
        return self.config.gate_lr if parameter.endswith(("attn_gate", "ff_gate")) else 1.0

    def _forgetful(self, encoder: Encoder):
        """``encoder.towers``, which every new call asks for first, so that no image outlives its call."""

        def towers() -> dict[str, Encoder]:
            self._seen, self._text_was_alone = None, False
            return type(encoder).towers(encoder)

        return towers

    def _see(self, features: Features) -> Features:
        if self._text_was_alone:
            raise ConfigError("gated_xattn reads the image before the text; give the visual modality first")
        self._seen = features
        return features

    def _read(self, features: Features, shared: Encoder | None) -> Features:
        seen, self._seen = self._seen, None
        if seen is None:
            self._text_was_alone = True
            return features
        if len(seen.tokens) != len(features.tokens):
            raise ConfigError(f"{len(features.tokens)} texts, but {len(seen.tokens)} images in the same call")
        kind = next(self.parameters()).dtype
        media, mask = as_media(seen)
        media = media.to(kind)
        if self.resampler is not None:
            media, mask = self.resampler(media, mask), None
        else:
            media, mask = media[:, :, 0], None if mask is None else mask[:, :, 0]
        plain = torch.cat([features.tokens, features.pooled[:, None]], dim=1).to(kind)
        x = plain
        for block in self.blocks:
            x = block(x, media, use_cached_media=True, media_mask=mask)
        tokens, pooled = x[:, :-1], x[:, -1]
        if features.mask is not None:
            tokens = torch.where(features.mask[..., None], tokens, plain[:, :-1])
        embedding = features.embedding
        if embedding is None and shared is not None:
            embedding = F.normalize(shared.project(features.pooled.to(shared.dtype)), dim=-1)
        return features.replace(tokens=tokens, pooled=pooled, embedding=embedding)
