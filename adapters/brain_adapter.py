"""Brain-Adapter: a residual 3D convolutional bottleneck in front of a frozen 3D encoder, and trained projections.

Zhang et al., "Brain-Adapter: Enhancing Neurological Disorder Analysis with Adapter-Tuning Multimodal Large Language
Models", 2025 (arXiv 2501.16282). The paper gives the idea (a lightweight residual convolutional structure before the
vision encoder, linear projections of image and text, a two-way contrastive loss, classification by a one-layer MLP),
the settings FPM and TLP, and the learning rates 1e-3 and 1e-4. It gives no widths, kernels, strides, norms, temperature
or weight of the contrastive term: those are this implementation's choices, marked "ours" below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.linear_probe import mean_token
from medgraft.encoder import Encoder
from medgraft.features import Features
from medgraft.losses import label_guided_info_nce
from medgraft.sites import Site


class VolumeBottleneck(nn.Module):
    """``resize(x) + out(convolutions(x))``, the identity (up to the resize) at the start.

    The convolutions run on a reduced grid, since one full-resolution feature map of a 256^3 volume takes 67 MB; their
    result is brought to the target grid by trilinear interpolation (ours).

    Args:
        channels: Channels of the volume.
        size: Grid ``(D, H, W)`` that the encoder expects.
        width: Channels inside (ours); multiples of 16 hit the fast convolution paths.
        reduction: Stride of the first convolution on each axis (ours); its kernel covers it.
    """

    def __init__(self, channels: int, size: tuple[int, ...], width: int = 16, reduction: int = 4) -> None:
        super().__init__()
        self.size = tuple(size)
        kernel = max(3, 2 * (reduction // 2) + 1)  # wide enough that no voxel falls between two strides
        self.reduce = nn.Conv3d(channels, width, kernel, stride=reduction, padding=kernel // 2)
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
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="trilinear", align_corners=False)
        return x + upsample(h, self.size)


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

    class Config(AdapterConfig):
        """Options.

        Attributes:
            setting: ``TLP`` or ``FPM``, the paper's names.
            width: Channels of the bottleneck.
            reduction: Stride of its first convolution.
            projection_dim: Width of the projections (768 in the paper, the encoder's own width there); ``None`` takes
                the volume tower's width.
            temperature: Of the contrastive loss.
            contrastive_weight: Factor on the contrastive loss, where image and text are both there; 0 leaves it out.
            projection_lr: Learning rate of the projections relative to the adapter's; 0.1 in the paper.
        """

        setting: Literal["TLP", "FPM"] = "TLP"
        width: int = Field(16, ge=1)
        reduction: int = Field(4, ge=1)
        projection_dim: int | None = Field(None, ge=1)
        temperature: float = Field(0.07, gt=0)
        contrastive_weight: float = Field(0.1, ge=0)
        projection_lr: float = Field(0.1, gt=0)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.bottleneck = nn.ModuleDict()
        self.projection = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits volume encoders, alone or with a text tower, and, in setting TLP, a text encoder alone."""
        names = set(encoder.towers())
        if names <= {"volume", "text"} and ("volume" in names or self.config.setting == "TLP"):
            return Support(True)
        if names == {"text"}:
            return Support(False, "setting FPM trains only the volume's bottleneck, and it has no volume tower")
        return Support(False, f"it reads {' and '.join(sorted(names))}; brain_adapter needs volumes (or TLP with text)")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds the bottleneck at the volume's input and the projections at the features."""
        attachment = Attachment(encoder)
        towers = encoder.towers()
        projected = next(iter(towers.values())).spec.dim
        for name, tower in towers.items():
            mine = [site for site in sites.values() if site.tower in ("", name)]
            if name == "volume":
                attachment.record({"input": [site for site in mine if site.kind == "input"]})
                bottleneck = VolumeBottleneck(
                    tower.spec.channels, tower.spec.input_size, self.config.width, self.config.reduction
                )
                self.bottleneck[name] = bottleneck
                attachment.map_input(tower, bottleneck)
            if self.config.setting == "TLP":
                attachment.record({"features": [site for site in mine if site.kind == "features"]})
                linear = nn.Linear(tower.spec.dim, self.config.projection_dim or projected)
                self.projection[name] = linear
                attachment.map_features(tower, _project(linear, mean=name == "volume"))
        return attachment

    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor | None:
        """Two-way contrastive loss between volume and text embeddings, as in ConVIRT (Zhang et al., 2020)."""
        if self.config.contrastive_weight == 0 or set(outputs) != {"volume", "text"}:
            return None
        volume, text = outputs["volume"].embedding, outputs["text"].embedding
        if volume is None or text is None:
            return None
        loss = label_guided_info_nce(volume, text, 1 / self.config.temperature)
        return self.config.contrastive_weight * loss / max(math.log(len(volume)), 1.0)

    def learning_rate_scale(self, parameter: str) -> float:
        """Projections learn more slowly than the bottleneck, as published."""
        return self.config.projection_lr if parameter.startswith("projection.") else 1.0


def _project(linear: nn.Linear, mean: bool):
    """Projects the mean patch token (as after M3D's spatial pooling) or, for text, the pooled token."""

    def project(features: Features) -> Features:
        pooled = mean_token(features) if mean else features.pooled
        projected = linear(pooled)
        return features.replace(pooled=projected, embedding=torch.nn.functional.normalize(projected, dim=-1))

    return project
