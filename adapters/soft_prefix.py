"""Soft prefix: what a visual tower sees as vectors in front of a frozen language model's prompt.

Liu et al., "Visual Instruction Tuning" (LLaVA), NeurIPS 2023 (arXiv 2304.08485): visual tokens are mapped to the
width of the language model's embeddings and stand where words would. The map is, by ``projector``:

- ``spatial``: cubes of 2 x 2 x 2 tokens averaged, then ``Linear, GELU, Linear``, as in M3D (Bai et al., 2024, arXiv
  2404.00578), whose keys ``projector.{0,2}`` it has;
- ``perceiver``: a Perceiver Resampler (Alayrac et al., NeurIPS 2022), then one linear map;
- ``linear``: each token by one linear map, as in the first LLaVA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.parts.language import beside_language_model, import_m3d
from medgraft.adapters.parts.placement import towers_with_features, trained_dtype
from medgraft.adapters.parts.published_weights import part_of
from medgraft.adapters.perceiver_resampler import PerceiverResampler, as_media
from medgraft.adapters.spatial_pooling import SpatialPooling
from medgraft.checkpoints.weights import load_strict
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import text_tower, visual_tower
from medgraft.errors import IncompatibleError
from medgraft.features import Features
from medgraft.schedule import Phase, first_alone


class SoftPrefix(Adapter):
    """Maps the visual tower's tokens to soft tokens of the language model beside it, ``[B, S, C]``.

    The map starts at random values, so a fresh graft does not equal the encoder (``identity_at_init`` is false).
    Embeddings of the language model stay as they are.
    """

    formula = r"[\,W_2\, \mathrm{GELU}(W_1\, \mathrm{avgpool}(x));\; \mathrm{prompt}\,]"
    paper = "Liu et al., Visual Instruction Tuning, NeurIPS 2023 (arXiv 2304.08485)"
    licence = "Apache-2.0"
    formats = ("the projector of M3D-LaMed: `medgraft import soft_prefix FILE --encoder ...`",)
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 3})
    text_padding = 0
    identity_at_init = False
    search = MappingProxyType({"size": (1, 2, 3, 4, 5)})

    class Config(AdapterConfig):
        """Options.

        Attributes:
            projector: ``spatial``, ``perceiver`` or ``linear``.
            size: Tokens per axis that ``spatial`` makes one of.
            layers: Linear maps of ``spatial``.
            depth: Layers of the resampler.
            heads: Its attention heads.
            head_dim: Width of one.
            num_latents: Soft tokens that it makes.
            alone: Share of the training steps, the first ones, in which it trains alone and what it is joined with
                (``soft_prefix+lora``) waits; then all train.
        """

        projector: Literal["spatial", "perceiver", "linear"] = "spatial"
        size: int = Field(2, ge=1)
        layers: int = Field(2, ge=1)
        depth: int = Field(2, ge=1)
        heads: int = Field(4, ge=1)
        head_dim: int = Field(32, ge=1)
        num_latents: int = Field(16, ge=1)
        alone: float = Field(0.0, ge=0, lt=1)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.maps = nn.ModuleDict()

    def soft_tokens(self, outputs: Mapping[str, Features]) -> tuple[Tensor, Tensor | None]:
        """The mapped tokens ``[B, S, C]``, and which are real ``[B, S]``."""
        features = outputs[next(iter(self.maps))]
        return features.tokens, features.mask

    def phases(self) -> tuple[Phase, ...]:
        """One, or two of which it trains alone in the first."""
        return first_alone(self.config.alone)

    def supports(self, encoder: Encoder) -> Support:
        """Fits a visual tower beside a language model."""
        return beside_language_model(encoder)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts the map on the features of the first visual tower."""
        attachment, config = Attachment(encoder), self.config
        reader, seen = text_tower(encoder), visual_tower(encoder)
        if reader is None or seen is None:
            raise IncompatibleError(f"soft_prefix does not fit {encoder.spec.name}: {self.supports(encoder).reason}")
        width, (name, visual) = reader[1].spec.dim, seen
        tower, site = towers_with_features(encoder, sites, "visual")[name]
        attachment.record({"features": [site]})
        if config.projector == "perceiver":
            resampler = PerceiverResampler(
                visual.spec.dim, config.depth, config.head_dim, config.heads, config.num_latents
            )
            made: nn.Module = nn.ModuleDict({"resampler": resampler, "projector": nn.Linear(visual.spec.dim, width)})
        elif config.projector == "spatial":
            made = SpatialPooling(visual.spec.dim, width, config.size, config.layers)
        else:
            made = nn.ModuleDict({"projector": nn.Linear(visual.spec.dim, width)})
        self.maps[name] = made.to(trained_dtype(tower))
        attachment.map_features(tower, _softened(self.maps[name]))
        return attachment

    def load_m3d(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Loads M3D-LaMed's projector, strictly; the adapter is attached, with ``projector: spatial``.

        Args:
            state_dict: Of the projector (``mm_projector.bin``) or of a whole model.

        Returns:
            Keys of other modules, which were not used.

        Raises:
            CheckpointError: A key is missing, unexpected or of another shape; nothing is changed then.
        """
        state, others = part_of(state_dict, "projector.0.weight")
        load_strict(next(iter(self.maps.values())), state, "M3D's projector")
        return others

    @staticmethod
    def import_file(path: Path, out: Path, encoder: str | None = None) -> str:
        """Makes an adapter folder of M3D-LaMed's projector; see :func:`import_m3d`."""
        return import_m3d(path, out, encoder)


def _softened(made: nn.Module) -> Callable[[Features], Features]:
    """Features -> those of soft tokens, of which ``pooled`` is the mean over the real ones."""

    def soften(features: Features) -> Features:
        dtype = next(made.parameters()).dtype
        tokens, mask = features.tokens[:, features.n_prefix :].to(dtype), None
        if isinstance(made, SpatialPooling):
            if features.mask is None:
                tokens, grid = made(tokens, features.grid)
            else:
                tokens, grid, mask = made.of_real(tokens, features.grid, features.mask[:, features.n_prefix :])
        else:
            assert isinstance(made, nn.ModuleDict)
            if "resampler" in made:
                media, padding = as_media(features)
                tokens, grid = made["resampler"](media.to(dtype), padding)[:, 0], ()
            else:
                grid = features.grid
                mask = None if features.mask is None else features.mask[:, features.n_prefix :]
            tokens = made["projector"](tokens)
        return Features(tokens, _mean(tokens, mask), 0, grid or (tokens.shape[1],), mask=mask)

    return soften


def _mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return tokens.mean(dim=1)
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
