"""3D-Neuro-SimCLR: a 3D ResNet-18 pre-trained by SimCLR on 44,958 T1 scans of 18,759 people.

Kaczmarek et al., "Building a General SimCLR Self-Supervised Foundation Model Across Neurological Diseases to Advance 3D
Brain MRI Diagnoses", ICCV Workshops 2025. Its checkpoint is a file of PyTorch named ``.tar``, not to be unpacked, with
the encoder under ``encoder.`` beside a projector. The stem has stride 1, so it keeps twice MedicalNet's resolution.

Preparation after the authors' code: T1 at 1 mm, skull-stripped and rigidly registered to MNI152 (193 x 229 x 193
voxels, as TurboPrep leaves it), axes turned to z, y, x and cropped to 150 x 192 x 192, z-scores inside the brain, 0
outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.monai import NOT_ENCODER
from medgraft.encoders.parts.loading import url_file
from medgraft.encoders.parts.monai_networks import build_resnet
from medgraft.encoders.parts.monai_towers import INTENSITIES, VolumeResNet
from medgraft.encoders.parts.published import PublishedSource, Release
from medgraft.errors import DataError

SIZE = (150, 192, 192)
TEMPLATE = (193, 229, 193)
CROP = (slice(10, 160), slice(19, 211), slice(1, None))
FILE = "simclr_3d_brain_foundation.tar"
URL = f"https://github.com/emilykaczmarek/3D-Neuro-SimCLR/releases/download/v1.0.0/{FILE}"
EPS = 1e-12


def standardize(volume: Tensor) -> Tensor:
    """z-scores over the voxels that are not 0, background 0; ``[D, H, W]`` to the same."""
    mask = (volume != 0).to(volume.dtype)
    count = mask.sum().clamp_min(1.0)
    mean = volume.sum() / count
    deviation = ((volume.square().sum() / count - mean.square()).clamp_min(0) + EPS).sqrt()
    return (volume - mean) / deviation * mask


def prepare_volume(raw: Any, size: Sequence[int] = SIZE) -> Tensor:
    """Skull-stripped volume ``[x, y, z]`` in RAS orientation -> ``float32 [1, *size]``.

    On the grid of the template the crop is the published one. Any other volume has the box around its brain scaled by
    one factor until it fills ``size`` on some axis, and centred there: its voxels are then no longer of 1 mm.

    Raises:
        DataError: It has other than three axes.
    """
    values = torch.as_tensor(np.ascontiguousarray(raw), dtype=torch.float32)
    if values.ndim != 3:
        raise DataError(f"a volume must be [x, y, z], got {list(values.shape)}")
    published = tuple(values.shape) == TEMPLATE and tuple(size) == SIZE
    values = values.permute(2, 1, 0)
    volume = values[CROP] if published else _fitted(values, size)
    return standardize(volume)[None]


def _fitted(values: Tensor, size: Sequence[int]) -> Tensor:
    inside = values.nonzero()
    fitted = values.new_zeros(*size)
    if not len(inside):
        return fitted
    low, high = inside.amin(dim=0).tolist(), (inside.amax(dim=0) + 1).tolist()
    box = values[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    factor = min(target / length for target, length in zip(size, box.shape, strict=True))
    scaled = [min(target, max(1, round(length * factor))) for target, length in zip(size, box.shape, strict=True)]
    box = F.interpolate(box[None, None], size=scaled, mode="trilinear", align_corners=False)[0, 0]
    place = [(target - length) // 2 for target, length in zip(size, scaled, strict=True)]
    fitted[tuple(slice(at, at + length) for at, length in zip(place, scaled, strict=True))] = box
    return fitted


class NeuroSimClr(VolumeResNet):
    """The ResNet-18, stage by stage; ``pooled`` is the mean of the last map."""

    def prepare(self, raw: Any) -> Tensor:
        """Skull-stripped volume ``float32 [x, y, z]`` -> ``float32 [1, *input_size]``; see :func:`prepare_volume`."""
        return prepare_volume(raw, self.spec.input_size)


class NeuroSimClrSource(PublishedSource):
    """Entry point ``neuro_simclr``; its options are those of MONAI's ResNet."""

    name, size = "neuro_simclr", SIZE

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {"t1": "3D ResNet-18 on 150 x 192 x 192 voxels of 1 mm, 512 features, brain T1"}

    @classmethod
    def release(cls, model: str) -> Release:
        """See :class:`PublishedSource`."""
        return Release(
            place=URL,
            fetch=lambda: url_file(f"neuro_simclr:{model}", URL),
            files=(FILE,),
            drop=(*NOT_ENCODER, r"^projector\."),
            licence="MIT",
            cohorts=("ADNI",),
            local_cohorts=("ADNI",),
        )

    @classmethod
    def network(cls, model: str, size: tuple[int, int, int], **options: Any) -> nn.Module:
        """The network takes volumes of any size; see :class:`PublishedSource`."""
        common: dict[str, Any] = {"shortcut_type": "B", "bias_downsample": True, "conv1_t_stride": 1}
        return build_resnet("resnet18", False, **{**common, **options})

    @classmethod
    def encoder(cls, model: str, network: Any, facts: Callable[..., EncoderSpec]) -> Encoder:
        """See :class:`PublishedSource`."""
        spec = facts(spacing=1.0, intensity=INTENSITIES["znorm"], dim=network.in_planes)
        return NeuroSimClr(spec, network, "znorm")
