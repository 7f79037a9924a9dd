"""SSF: a trained scale and shift behind every operation of the encoder.

Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022 (arXiv
2210.08823), equation 3: ``y = gamma * x + beta`` per channel, behind linear maps, convolutions and norms; equation 4
folds it into a linear map, ``W' = gamma W`` and ``b' = gamma b + beta``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment
from medgraft.adapters.parts.placement import DepthGroup, Hits, key_of, select, unique
from medgraft.attachment.blank_run import used_parts
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import ConfigError, IncompatibleError

KINDS = {"projection", "layer", "norm", "branch"}


class ScaleShift(nn.Module):
    """``gamma * y + beta`` over the channels of ``y``.

    Args:
        weight: The layer's weight (``in_proj_weight`` of a fused attention), for the number of channels.
        axis: Axis of the channels in ``y``: 1 for feature maps, -1 for tokens.
        std: Deviation of the start around 1 and 0.
    """

    def __init__(self, weight: Tensor, axis: int, std: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1 + std * torch.randn(len(weight), dtype=weight.dtype, device=weight.device))
        self.beta = nn.Parameter(std * torch.randn(len(weight), dtype=weight.dtype, device=weight.device))
        self.axis = axis

    def forward(self, y: Tensor, *, scale: bool = True, shift: bool = True) -> Tensor:
        """``gamma * y + beta``, or one half of it, in the type of ``y``, which is ``[..., C]`` or ``[B, C, *size]``."""
        shape = [1] * y.ndim
        shape[self.axis] = -1
        out = self.gamma.view(shape) * y if scale else y
        return (out + self.beta.view(shape) if shift else out).to(y.dtype)


class _Place:
    """One weight with its scale and shift, and the bias that can take the shift up."""

    def __init__(self, module: ScaleShift, weight: Tensor, bias: nn.Parameter | None, foldable: bool) -> None:
        self.module, self.weight, self.bias, self.foldable = module, weight, bias, foldable
        self.merged = False

    def apply(self, y: Tensor) -> Tensor:
        """What is left to do to the layer's output."""
        if not self.merged or not self.foldable:
            return self.module(y)
        return y if self.bias is not None else self.module(y, scale=False)

    def fold(self) -> None:
        """``W' = gamma W`` and ``b' = gamma b + beta``."""
        rows = self.module.gamma.detach().view(-1, *(1 for _ in self.weight.shape[1:]))
        self.weight.mul_(rows)
        if self.bias is not None:
            self.bias.mul_(self.module.gamma).add_(self.module.beta)


class Ssf(Adapter):
    """Scale and shift behind the linear maps, convolutions and norms that the features depend on.

    A packed ``qkv`` has one scale and shift over all of its rows, so a pattern that names one projection stands for
    the three. Starts at the identity; the authors' code draws from normals of deviation 0.02 around it (``std``).
    Merged, a layer without a bias keeps its shift as an addition, and so does a norm with an activation inside its
    whole scale and shift.
    """

    paper = (
        "Lian et al., Scaling and Shifting Your Features: A New Baseline for Efficient Model Tuning, NeurIPS 2022 "
        "(arXiv 2210.08823)"
    )
    licence = "Apache-2.0"
    formula = r"y = \gamma \odot x + \beta"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    search = MappingProxyType({"std": (0.0, 0.005, 0.01, 0.02, 0.05)})
    text_padding = 0
    mergeable = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            std: Deviation of the start around scale 1 and shift 0; 0.02 in the authors' code.
            targets: Patterns of layers and norms.
            depth: Group of blocks.
        """

        std: float = Field(0.0, ge=0, le=1)
        targets: tuple[str, ...] = Field(("*",), min_length=1)
        depth: DepthGroup = "all"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.identity_at_init = self.config.std == 0
        self.scale_shift = nn.ModuleDict()
        self._places: list[_Place] = []
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.register_load_state_dict_pre_hook(self._refuse_if_merged)

    def _refuse_if_merged(self, *_: Any) -> None:
        if self._kept:
            raise ConfigError("this SSF is merged, so the encoder would keep the old scale; unmerge before loading")

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Layers and norms that ``targets`` names; fits every encoder with layers, CNNs included."""
        # The output projection of a fused attention is no layer of its own; its branch stands for it.
        offered = {name: site for name, site in sites.items() if site.kind != "branch" or site.in_mha}
        return select(encoder, offered, self.config.targets, KINDS, depth=self.config.depth, what="ssf")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds one scale and shift per layer that the features depend on."""
        attachment = Attachment(encoder)
        attachment.on_detach(self.unmerge)
        parts = [used_parts(tower) for tower in encoder.towers().values()]
        used, called = set().union(*(p for p, _ in parts)), set().union(*(m for _, m in parts))

        def matters(site: Site) -> bool:
            module = encoder.get_submodule(site.path)
            return module in called and not used.isdisjoint(_owner(module, site).parameters())

        hits: Hits = {}
        for pattern, matches in self.select(encoder, sites).items():
            hits[pattern] = [site for site in matches if matters(site)]
            if not hits[pattern]:
                raise IncompatibleError(
                    f"ssf.targets: {pattern!r} matches {matches[0].name}, which no feature depends on, or which "
                    "is never called"
                )
        attachment.record(hits)
        self.scale_shift.clear()
        self._places.clear()
        done: set[tuple[str, bool]] = set()
        for site in unique(hits):
            if (place := (site.path, site.kind == "branch")) in done:
                continue  # another row of the same packed weight
            done.add(place)
            self._add(attachment, site, _weight(encoder, site))
        return attachment

    def _add(self, attachment: Attachment, site: Site, weight: Tensor) -> None:
        module = attachment.encoder.get_submodule(site.path)
        added = ScaleShift(weight, _axis(module), self.config.std)
        self.scale_shift[key_of(site)] = added
        if not site.in_mha:
            place = _Place(added, weight, module._parameters.get("bias"), _foldable(module, weight))
            attachment.map_output(site, place.apply)
        elif site.kind == "branch":
            assert isinstance(module, nn.MultiheadAttention)
            place = _Place(added, weight, module.out_proj._parameters.get("bias"), True)
            attachment.map_output(site, place.apply)
        else:
            place = _Place(added, weight, module._parameters.get("in_proj_bias"), True)
            attachment.map_projection(site.path, _second(place.apply))
        self._places.append(place)

    def merge(self) -> None:
        """Folds every scale, and every shift that a bias can take up, into the frozen weights."""
        if self._kept:
            raise ConfigError("this SSF is merged already; unmerge first")
        for place in self._places:
            if place.foldable:
                for value in (place.weight, place.bias):
                    if value is not None:
                        self._kept.append((value, value.detach().clone()))
                with torch.no_grad():
                    place.fold()
                place.merged = True

    def unmerge(self) -> None:
        """Puts the kept copies of weights and biases back."""
        with torch.no_grad():
            for value, original in self._kept:
                value.copy_(original)
        self._kept = []
        for place in self._places:
            place.merged = False


def _second(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: function(y)


def _owner(module: nn.Module, site: Site) -> nn.Module:
    """The module that holds the weight at a site."""
    return module.out_proj if isinstance(module, nn.MultiheadAttention) and site.kind == "branch" else module


def _weight(encoder: Encoder, site: Site) -> Tensor:
    """A parameter, or what a parametrisation makes of some."""
    module = encoder.get_submodule(site.path)
    fused = isinstance(module, nn.MultiheadAttention) and site.kind != "branch"
    weight = module.in_proj_weight if fused else _owner(module, site).weight
    assert isinstance(weight, Tensor), f"{site.path} has no weight"
    return weight.detach() if not isinstance(weight, nn.Parameter) else weight


def _axis(module: nn.Module) -> int:
    maps = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    # Layer norms over the channels of a feature map derive from the one over tokens, timm's and transformers' alike.
    first = type(module).__name__.endswith("2d") or getattr(module, "data_format", "") == "channels_first"
    return 1 if isinstance(module, maps) or first else -1


def _foldable(module: nn.Module, weight: Tensor) -> bool:
    """Whether a scale can go into the weight: not so into a parametrised one, nor before an activation of a norm."""
    return isinstance(weight, nn.Parameter) and isinstance(getattr(module, "act", None), nn.Identity | None)
