"""Brain-Adapter: a residual 3D convolutional bottleneck in front of a frozen 3D encoder, and trained projections.

Zhang et al., "Brain-Adapter: Enhancing Neurological Disorder Analysis with Adapter-Tuning Multimodal Large Language
Models", 2025 (arXiv 2501.16282). The paper gives the idea (a lightweight residual convolutional structure before the
vision encoder, linear projections of image and text, a two-way contrastive loss, classification by a one-layer MLP),
the settings FPM and TLP, and the learning rates 1e-3 and 1e-4. It gives no widths, kernels, strides, norms, temperature
or weight of the contrastive term: those are this implementation's choices, marked "ours" below.

As published: ``m3d:clip_pooled_256`` with a text encoder, ``pair:m3d:clip_pooled_256@FILE|transformers:llama@FOLDER``.
On any other encoder of samples on a 3D grid (volumes, PET, maps of diffusion or functional MRI side by side as its
channels), the bottleneck sits at the input, or behind each block (``where: blocks``, ours).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.kernels.bottleneck.op import bottleneck_3d
from medgraft.adapters.linear_probe import mean_token
from medgraft.adapters.parts.placement import TokenGrid, key_of
from medgraft.adapters.parts.real_slices import on_real_slices
from medgraft.attachment.blank_run import blank_batch
from medgraft.attachment.portable import Portable
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import grid_axes, reads_text
from medgraft.errors import IncompatibleError
from medgraft.features import Features
from medgraft.losses import gathered_info_nce
from medgraft.modality import is_text
from medgraft.ops import backends
from medgraft.world import World

Positive = Annotated[int, Field(ge=1)]


class VolumeBottleneck(Portable, nn.Module):
    """``resize(x) + out(convolutions(x))``, the identity (up to the resize) at the start.

    The convolutions run on a reduced grid, since one full-resolution feature map of a 256^3 volume takes 67 MB; their
    result is brought to the target grid by trilinear interpolation (ours).

    Args:
        channels: Channels of the volume.
        size: Grid ``(D, H, W)`` that the encoder expects.
        width: Channels inside (ours); multiples of 16 hit the fast convolution paths.
        reduction: Stride of the first convolution (ours), one for all axes or one each; its kernel covers it.
        resize: The encoder's own way to ``size``; trilinear interpolation by default.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, ...],
        width: int = 16,
        reduction: int | tuple[int, int, int] = 4,
        resize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.size = tuple(size)
        self.resize = resize or self._interpolate
        stride = (reduction,) * 3 if isinstance(reduction, int) else tuple(reduction)
        kernel = tuple(max(3, 2 * (step // 2) + 1) for step in stride)  # no voxel falls between two strides
        padding = tuple(length // 2 for length in kernel)
        self.reduce = nn.Conv3d(channels, width, kernel, stride=stride, padding=padding)  # pyright: ignore
        self.norm1 = nn.GroupNorm(math.gcd(8, width), width)
        self.mix = nn.Conv3d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(math.gcd(8, width), width)
        self.expand = nn.Conv3d(width, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, *any] -> [B, channels, *size]``."""
        h = F.gelu(self.norm1(self.reduce(x)))
        h = self.expand(F.gelu(self.norm2(self.mix(h))))
        resized = self.resize(x)
        return resized + upsample(h, tuple(resized.shape[2:]))

    def _interpolate(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) == self.size:
            return x
        return F.interpolate(x, size=self.size, mode="trilinear", align_corners=False)


class BlockBottleneck(nn.Module):
    """``x + up(gelu(mix(down(x))))`` on a map of features, zero at the start (ours, after ST-Adapter).

    Runs as the shared operation :func:`~medgraft.adapters.kernels.bottleneck.op.bottleneck_3d`.

    Args:
        dim: Channels ``C`` of the map.
        width: Channels inside, ``c``.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.mix = nn.Conv3d(width, width, 3, padding=1)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, D, H, W] -> [B, C, D, H, W]``."""
        parts: list[Any] = [each for layer in (self.down, self.mix, self.up) for each in (layer.weight, layer.bias)]

        def run(*tensors: Any) -> Tensor:
            return bottleneck_3d(*tensors, backend=backends.current())

        if backends.current() == "eager":
            return run(x, *parts).to(x.dtype)
        return backends.outside_autocast(run, x, *parts).to(x.dtype)


def upsample(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Trilinear interpolation ``[B, C, *any] -> [B, C, *size]`` as one matrix product per axis.

    Equal to ``F.interpolate`` up to rounding; on a CPU the backward of that takes a fifth of a training step.
    """
    for axis, length in enumerate(size, start=2):
        if x.shape[axis] != length:
            eye = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
            weights = F.interpolate(eye[None], size=length, mode="linear", align_corners=False)[0]
            x = (x.movedim(axis, -1) @ weights).movedim(-1, axis)
    return x


class BrainAdapter(Adapter):
    """The bottleneck on the volume, and in setting TLP a linear projection of each modality.

    FPM (frozen pre-trained model) trains the bottleneck only and is the identity at the start; TLP adds the
    projections, whose random start changes the features (``identity_at_init`` holds for FPM only).
    """

    identity_at_init = False
    paper = (
        "Zhang et al., Brain-Adapter: Enhancing Neurological Disorder Analysis with Adapter-Tuning Multimodal Large "
        "Language Models, 2025 (arXiv 2501.16282)"
    )
    licence = "Apache-2.0"
    formula = (
        r"x' = \mathrm{resize}(x) + \mathrm{up}\left(C_3\, \sigma(C_2\, \sigma(C_1 x))\right), \quad "
        r"\sigma = \mathrm{GELU} \circ \mathrm{GroupNorm}"
    )
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 9, "batch_size": 8})
    size_knob = SizeKnob("width")
    search = MappingProxyType(
        {"contrastive_weight": (0.0, 0.03, 0.1, 0.3, 1.0), "projection_lr": (0.01, 0.03, 0.1, 0.3, 1.0)}
    )
    text_padding = 0
    token_wise = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            setting: ``TLP`` or ``FPM``, the paper's names.
            where: ``input``, in front of the encoder as published, or ``blocks``, behind each of its blocks (ours).
            width: Channels of the bottleneck.
            reduction: Stride of its first convolution at the input, for all axes or for depth, height and width; a
                256 x 256 x 256 volume for an encoder of 32 x 256 x 256 takes ``[8, 4, 4]``.
            recompute: Keep no activations of the volume's frozen blocks and of the bottleneck, and compute them again
                in the backward pass: the same gradients, less memory, about a third more time.
            projection_dim: Width of the projections (768 in the paper, the encoder's own width there); ``None`` takes
                the volume tower's width.
            temperature: Of the contrastive loss.
            contrastive_weight: Factor on the contrastive loss, where image and text are both there; 0 leaves it out.
            projection_lr: Learning rate of the projections relative to the adapter's; 0.1 in the paper.
        """

        setting: Literal["TLP", "FPM"] = "TLP"
        where: Literal["input", "blocks"] = "input"
        width: int = Field(16, ge=1)
        reduction: Positive | tuple[Positive, Positive, Positive] = 4
        recompute: bool = False
        projection_dim: int | None = Field(None, ge=1)
        temperature: float = Field(0.07, gt=0)
        contrastive_weight: float = Field(0.1, ge=0)
        projection_lr: float = Field(0.1, gt=0)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        if self.config.recompute:
            self.token_wise = False  # blocks that are computed again run whole both times
        self.bottleneck = nn.ModuleDict()
        self.projection = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders of 3D grids, alone or with a text tower, and, in setting TLP, a text encoder alone."""
        towers = encoder.towers()
        volumes = [tower for tower in towers.values() if is_volume(tower)]
        if any(not is_volume(tower) and not reads_text(tower) for tower in towers.values()):
            reads = " and ".join(sorted(towers))
            return Support(False, f"it reads {reads}; brain_adapter needs volumes (or TLP with text)")
        if not volumes and self.config.setting == "FPM":
            return Support(False, "setting FPM trains only the volume's bottleneck, and it has no volume tower")
        if self.config.where == "blocks" and not all(tower.block_paths() for tower in volumes):
            return Support(False, "its volume tower has no blocks to put a bottleneck behind; where: input fits")
        if self.config.recompute and any(tower.sliced > 1 for tower in volumes):
            return Support(
                False,
                "its blocks see the other slices only while a batch runs, so they cannot be computed again; "
                "leave recompute out",
            )
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds the bottlenecks to the volume towers and the projections at the features."""
        attachment = Attachment(encoder)
        towers = encoder.towers()
        projected = next(iter(towers.values())).spec.dim
        self.bottleneck.clear()
        for name, tower in towers.items():
            mine = [site for site in sites.values() if site.tower in ("", name)]
            if is_volume(tower) and self.config.where == "input":
                attachment.record({"input": [site for site in mine if site.kind == "input"]})
                self._attach_input(attachment, tower)
            elif is_volume(tower):
                self._attach_blocks(attachment, tower, [site for site in mine if site.kind == "block"])
            if is_volume(tower) and self.config.recompute:
                self._recompute_blocks(attachment, tower)
            if self.config.setting == "TLP":
                attachment.record({"features": [site for site in mine if site.kind == "features"]})
                linear = nn.Linear(tower.spec.dim, self.config.projection_dim or projected)
                self.projection[name] = linear
                attachment.map_features(tower, _project(linear, mean=is_volume(tower)))
        return attachment

    def _attach_input(self, attachment: Attachment, tower: Encoder) -> None:
        size = tower.network_size or tower.spec.input_size
        bottleneck = VolumeBottleneck(
            tower.spec.channels,
            size,
            self.config.width,
            self.config.reduction,
            (lambda x: tower.resize(x)) if tower.sliced == 1 else (lambda x: x),  # slices have the 2D encoder's size
        )
        self.bottleneck[tower.spec.modality] = bottleneck
        change = recomputed(bottleneck) if self.config.recompute else bottleneck
        attachment.map_input(tower, change if tower.sliced == 1 else _between_padding(change))

    def _attach_blocks(self, attachment: Attachment, tower: Encoder, blocks: list[Site]) -> None:
        attachment.record({"blocks.*": blocks})
        grid = TokenGrid(tower) if tower.attention else None
        widths = [tower.spec.dim] * len(blocks) if grid else _map_widths(tower)
        for site, dim in zip(blocks, widths, strict=True):
            bottleneck = BlockBottleneck(dim, self.config.width)
            self.bottleneck[key_of(site)] = bottleneck
            change = recomputed(bottleneck) if self.config.recompute else bottleneck
            attachment.map_output(site, change if grid is None else _on_grid(change, grid))

    def _recompute_blocks(self, attachment: Attachment, tower: Encoder) -> None:
        for path in tower.block_paths():
            block = tower.get_submodule(path)
            attachment.set_attribute(block, "forward", recomputed(block.forward))

    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor | None:
        """Two-way contrastive loss between volume and text embeddings, as in ConVIRT (Zhang et al., 2020).

        A scalar; ``None`` where not just one of each ran. Embeddings are ``[B, E]``.
        """
        embeddings = {is_text(name): features.embedding for name, features in outputs.items()}
        volume, text = embeddings.get(False), embeddings.get(True)
        if self.config.contrastive_weight == 0 or len(outputs) != 2 or volume is None or text is None:
            return None
        loss = gathered_info_nce(volume, text, 1 / self.config.temperature)
        pairs = sum(World().lengths(volume))
        return self.config.contrastive_weight * loss / max(math.log(pairs), 1.0)

    def learning_rate_scale(self, parameter: str) -> float:
        """Projections learn more slowly than the bottleneck, as published."""
        return self.config.projection_lr if parameter.startswith("projection.") else 1.0


def is_volume(tower: Encoder) -> bool:
    """Whether a tower reads samples on a 3D grid, whatever they are called."""
    return grid_axes(tower) == 3


def _project(linear: nn.Linear, mean: bool):
    """Projects the mean patch token (as after M3D's spatial pooling) or, for text, the pooled token."""

    def project(features: Features) -> Features:
        pooled = mean_token(features) if mean else features.pooled
        projected = linear(pooled)
        return features.replace(pooled=projected, embedding=torch.nn.functional.normalize(projected, dim=-1))

    return project


def recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its activations computed again in the backward pass."""

    def run(*arguments: Any, **keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(*arguments, **keywords)
        return checkpoint(function, *arguments, use_reentrant=False, **keywords)

    return run


def _between_padding(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of volumes for an encoder of slices: padded ones, NaN all over, stay so and take no part in it."""

    def run(x: Tensor) -> Tensor:
        real = ~x.flatten(3)[:, 0, :, 0].isnan()
        if bool(real.all()) or not bool(real.any(dim=1).all()):  # the encoder refuses a volume of padding alone
            return change(x)
        return on_real_slices(change, x, real, padding=float("nan"))

    return run


def _on_grid(change: Callable[[Tensor], Tensor], grid: TokenGrid) -> Callable[[Tensor], Tensor]:
    """A function of maps as one of tokens; prefix tokens stay as they are."""

    def run(tokens: Tensor) -> Tensor:
        prefix, places = grid.split(tokens)
        return grid.join(prefix, grid.mapped(change, places))

    return run


def _map_widths(tower: Encoder) -> list[int]:
    """Channels of the map that each block of a CNN returns, from one run on a blank sample.

    Raises:
        IncompatibleError: A block returns no map of a volume.
    """
    shapes: list[tuple[int, ...]] = []
    modules = [tower.get_submodule(path) for path in tower.block_paths()]
    hooks = [each.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape))) for each in modules]
    try:
        with torch.no_grad():
            tower.encode(blank_batch(tower))
    finally:
        for hook in hooks:
            hook.remove()
    if any(len(shape) != 5 for shape in shapes):
        raise IncompatibleError(f"encoder {tower.spec.name}: a block returns {shapes[0]}, not [B, C, D, H, W]")
    return [shape[1] for shape in shapes]
