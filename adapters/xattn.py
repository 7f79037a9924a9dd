"""Gated cross-attention between the blocks of a frozen language model, which look at an image or a volume there.

Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", NeurIPS 2022 (arXiv 2204.14198), in the
layout of OpenFlamingo (Awadalla et al., 2023, arXiv 2308.01390): before every ``every``-th block

    x = x + tanh(g_a) CrossAttention(x, media);  x = x + tanh(g_f) MLP(x)

with ``g_a = g_f = 0`` at the start, and the block as it was. The media are a Perceiver Resampler's latents.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.gated_xattn import GatedCrossAttention
from medgraft.adapters.parts.language import beside_language_model, import_openflamingo, openflamingo_state
from medgraft.adapters.parts.placement import trained_dtype
from medgraft.adapters.perceiver_resampler import PerceiverResampler, as_media
from medgraft.checkpoints.weights import load_strict
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import text_tower, visual_tower
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.features import Features
from medgraft.schedule import Phase, first_alone


class Xattn(Adapter):
    """A language model whose blocks look at the visual tower's tokens, through gates that are closed at the start.

    In a call of the graft with image and text the text sees the image; a text without an image stays as it is. Around
    :meth:`medgraft.language_model.LanguageModel.generate`, which is no call of the graft, stands :meth:`looking_at`;
    the media are then resampled once, however many tokens follow. Only the gates have a gradient at the start, so they
    learn faster.
    """

    formula = (
        r"x \leftarrow x + \tanh(g_a)\, \mathrm{CrossAttention}(x, \mathrm{media})\\"
        "\n"
        r"x \leftarrow x + \tanh(g_f)\, \mathrm{MLP}(x)"
    )
    paper = "Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, NeurIPS 2022 (arXiv 2204.14198)"
    licence = "Apache-2.0"
    formats = ("checkpoints of OpenFlamingo: `medgraft import xattn FILE --encoder ...`",)
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 9})
    text_padding = 0
    size_knob = SizeKnob("head_dim")
    search = MappingProxyType({"gate_lr": (1.0, 3.0, 10.0, 30.0, 100.0)})

    class Config(AdapterConfig):
        """Options.

        Attributes:
            every: A cross-attention before each ``every``-th block.
            first: Block that has the first one before it; OpenFlamingo's is ``every - 1``.
            heads: Attention heads.
            head_dim: Width of a head.
            ff_mult: Width of the MLP as a multiple of the text width.
            resampler_depth: Layers of the Perceiver Resampler; 0 gives the blocks the visual tokens themselves.
            num_latents: Its latents.
            gate_lr: Learning rate of the gates relative to the adapter's.
            alone: Share of the training steps, the first ones, in which it trains alone and what it is joined with
                (``xattn+lora``) waits; then all train.
        """

        every: int = Field(1, ge=1)
        first: int = Field(0, ge=0)
        heads: int = Field(8, ge=1)
        head_dim: int = Field(64, ge=1)
        ff_mult: int = Field(4, ge=1)
        resampler_depth: int = Field(2, ge=0)
        num_latents: int = Field(64, ge=1)
        gate_lr: float = Field(10.0, gt=0)
        alone: float = Field(0.0, ge=0, lt=1)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.resampler: PerceiverResampler | None = None
        self.layers = nn.ModuleDict()
        self._media: tuple[Tensor, Tensor | None] | None = None
        self._kept: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._visual = ""

    def phases(self) -> tuple[Phase, ...]:
        """One, or two of which it trains alone in the first."""
        return first_alone(self.config.alone)

    def supports(self, encoder: Encoder) -> Support:
        """Fits a visual tower beside a language model whose blocks are known."""
        fits, reader = beside_language_model(encoder), text_tower(encoder)
        if fits and reader is not None:
            blocks = len(reader[1].block_paths())
            if not blocks:
                return Support(False, f"the blocks of {reader[1].spec.name} cannot be found; soft_prefix needs none")
            if blocks <= self.config.first:
                return Support(False, f"first={self.config.first}, and {reader[1].spec.name} has {blocks} blocks")
        return fits

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Hangs the cross-attentions before blocks of the language model, and keeps the media of a call."""
        attachment, config = Attachment(encoder), self.config
        reader, seen = text_tower(encoder), visual_tower(encoder)
        if reader is None or seen is None:
            raise IncompatibleError(f"xattn does not fit {encoder.spec.name}: {self.supports(encoder).reason}")
        (text_name, text), (self._visual, visual) = reader, seen
        blocks = [site for site in sites.values() if site.kind == "block" and site.tower == text_name]
        blocks = sorted(blocks, key=lambda site: site.block or 0)[config.first :: config.every]
        attachment.record({"blocks": blocks})
        if config.resampler_depth:
            self.resampler = PerceiverResampler(
                visual.spec.dim,
                config.resampler_depth,
                config.head_dim,
                config.heads,
                config.num_latents,
                ff_mult=config.ff_mult,
            )
        for site in blocks:
            self.layers[str(site.block)] = GatedCrossAttention(
                text.spec.dim, visual.spec.dim, config.head_dim, config.heads, config.ff_mult
            )
        self.to(trained_dtype(text))
        attachment.first.add(self._visual)
        attachment.on_call.append(self._forget)
        attachment.map_features(visual, self._see)
        for site in blocks:
            attachment.map_block_input(site, self._reading(str(site.block)))
        return attachment

    def learning_rate_scale(self, parameter: str) -> float:
        """The gates learn faster."""
        return self.config.gate_lr if parameter.endswith(("attn_gate", "ff_gate")) else 1.0

    @contextmanager
    def looking_at(self, outputs: Mapping[str, Features]) -> Generator[None]:
        """Inside it, the language model's blocks see the visual features of ``B`` samples, whoever calls it.

        Of a search with several beams, consecutive rows belong to one sample.

        Args:
            outputs: What the graft's ``encode`` gave, the visual modality among it.
        """
        before = self._media
        self._media, self._kept = self._resampled(outputs[self._visual]), {}
        try:
            yield
        finally:
            self._media, self._kept = before, {}

    def load_openflamingo(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Loads the weights of OpenFlamingo's resampler and cross-attentions, strictly; the adapter is attached.

        Args:
            state_dict: Of a whole model, as published.

        Returns:
            Keys that were not used: embeddings of the language model, which stay as they are.

        Raises:
            CheckpointError: A key is missing, unexpected or of another shape; nothing is changed then.
        """
        state, others = openflamingo_state(state_dict)
        load_strict(self, state, "the OpenFlamingo checkpoint")
        return others

    @staticmethod
    def import_file(path: Path, out: Path, encoder: str | None = None) -> str:
        """Makes an adapter folder of a checkpoint of OpenFlamingo; see :func:`import_openflamingo`."""
        return import_openflamingo(path, out, encoder)

    def _forget(self) -> None:
        self._media, self._kept = None, {}

    def _see(self, features: Features) -> Features:
        self._media, self._kept = self._resampled(features), {}
        return features

    def _resampled(self, features: Features) -> tuple[Tensor, Tensor | None]:
        """Media ``[B, 1, n, C]`` and which are real ``[B, 1, n]``."""
        media, mask = as_media(features)
        media = media.to(next(self.layers.parameters()).dtype)
        if self.resampler is not None:
            return self.resampler(media, mask), None
        return media.flatten(2, 3), None if mask is None else mask.flatten(2, 3)

    def _reading(self, name: str):
        """What goes into a block, ``[B, L, C]``, after the look at the media."""

        def read(x: Tensor) -> Tensor:
            if self._media is None:
                return x
            media, mask = self._media
            if len(x) % len(media):
                raise ConfigError(f"{len(x)} texts, but {len(media)} images in the same call")
            beams = len(x) // len(media)
            if beams > 1:
                media = media.repeat_interleave(beams, dim=0)
                mask = None if mask is None else mask.repeat_interleave(beams, dim=0)
            layer = self.layers[name]
            assert isinstance(layer, GatedCrossAttention)
            kept = None
            if not torch.is_grad_enabled():  # of a generation: media are the same for every token that follows
                if (name, len(x)) not in self._kept:
                    self._kept[name, len(x)] = layer.attn.keys_and_values(media.flatten(1, 2))
                kept = self._kept[name, len(x)]
            return layer(x.to(media.dtype), media, use_cached_media=True, media_mask=mask, kept=kept).to(x.dtype)

        return read
