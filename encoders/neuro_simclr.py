"""3D-Neuro-SimCLR: a 3D ResNet-18 pre-trained by SimCLR on 44,958 T1 scans of 18,759 people.

Kaczmarek et al., "Building a General SimCLR Self-Supervised Foundation Model Across Neurological Diseases to Advance 3D
Brain MRI Diagnoses", ICCV Workshops 2025. Its checkpoint is a file of PyTorch named ``.tar``, not to be unpacked, with
the encoder under ``encoder.`` beside a projector. The stem has stride 1, so it keeps twice MedicalNet's resolution.

Preparation after the authors' code: T1 at 1 mm, skull-stripped and rigidly registered to MNI152 (193 x 229 x 193
voxels, as TurboPrep leaves it), axes turned to z, y, x and cropped to 150 x 192 x 192, z-scores inside the brain, 0
outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.encoders.hub import demand
from medgraft.encoders.loading import finish, options_of, origin, seeded, url_file
from medgraft.encoders.monai import NOT_ENCODER
from medgraft.encoders.monai_networks import build_resnet
from medgraft.encoders.monai_towers import INTENSITIES, VolumeResNet
from medgraft.encoders.published import Release, volume_size
from medgraft.errors import DataError, UnknownNameError

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
    factor = min(wanted / length for wanted, length in zip(size, box.shape, strict=True))
    scaled = [min(wanted, max(1, round(length * factor))) for wanted, length in zip(size, box.shape, strict=True)]
    box = F.interpolate(box[None, None], size=scaled, mode="trilinear", align_corners=False)[0, 0]
    place = [(wanted - length) // 2 for wanted, length in zip(size, scaled, strict=True)]
    fitted[tuple(slice(at, at + length) for at, length in zip(place, scaled, strict=True))] = box
    return fitted


class NeuroSimClr(VolumeResNet):
    """The ResNet-18, stage by stage; ``pooled`` is the mean of the last map."""

    def prepare(self, raw: Any) -> Tensor:
        """Skull-stripped volume ``float32 [x, y, z]`` -> ``float32 [1, *input_size]``; see :func:`prepare_volume`."""
        return prepare_volume(raw, self.spec.input_size)


class NeuroSimClrSource:
    """Entry point ``neuro_simclr``."""

    api_version = 1

    @staticmethod
    def models() -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {"t1": "3D ResNet-18 on 150 x 192 x 192 voxels of 1 mm, 512 features, brain T1"}

    @classmethod
    def build(
        cls,
        model: str,
        weights: str = "default",
        sha256: str | None = None,
        img_size: Sequence[int] = SIZE,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder of volumes ``[1, D, H, W]``.

        Args:
            model: ``"t1"``.
            weights: ``"default"`` (the authors' release), ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of the local file.
            img_size: Depth, height and width of a prepared volume; the network takes any.
            **options: Passed to MONAI's ResNet.

        Raises:
            UnknownNameError: No such model.
            ConfigError: An option does not fit.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        if model not in cls.models():
            raise UnknownNameError("neuro_simclr encoder", model, cls.models())
        name, source = f"neuro_simclr:{model}", origin(weights, sha256)
        size = volume_size(name, img_size)
        common: dict[str, Any] = {"shortcut_type": "B", "bias_downsample": True, "conv1_t_stride": 1}
        if source == "default":
            demand(name, URL)
        with seeded(), options_of(name):
            network = build_resnet("resnet18", False, **{**common, **options})
        release = Release(
            fetch=lambda: url_file(name, URL),
            files=(FILE,),
            drop=(*NOT_ENCODER, r"^projector\."),
            licence="MIT",
            cohorts=("ADNI",),
            local_cohorts=("ADNI",),
        )
        release.load(network, source, sha256)
        facts: dict[str, Any] = {"input_size": size, "spacing": 1.0, "intensity": INTENSITIES["znorm"]}
        spec = release.spec(name, source, dim=network.in_planes, **facts)
        return finish(NeuroSimClr(spec, network, "znorm"), source)
