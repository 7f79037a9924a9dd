"""SwinUNETR-SSL: the 3D Swin transformer that was pre-trained on 5,050 CT volumes by self-supervision.

Tang et al., "Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis", CVPR 2022
(arXiv 2111.14791). The published ``model_swinvit.pt`` has every key under ``module.``, MLPs named as in the original
Swin (``mlp.fc1``), and the heads of the pre-training tasks beside the transformer; all of that is accepted, and so are
``swinViT.`` of a whole SwinUNETR and MONAI's own names.

``swin_unetr:ssl`` scales Hounsfield units from -1000..1000 to 0..1 and cuts what lies outside, as in pre-training.
``swin_unetr:ssl_unit`` scales a volume's own range, for MRI, which has no such units and which the weights never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.monai import NOT_ENCODER
from medgraft.encoders.parts.loading import url_file
from medgraft.encoders.parts.monai_networks import build_swin, rename_swin
from medgraft.encoders.parts.monai_towers import INTENSITIES, VolumeSwin
from medgraft.encoders.parts.published import PublishedSource, Release
from medgraft.errors import DataError

SIZE = (96, 96, 96)
HU = (-1000.0, 1000.0)
FILE = "model_swinvit.pt"
URL = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{FILE}"
# Heads of rotation, contrast and inpainting, and a norm that the transformer does without.
HEADS = (*NOT_ENCODER, r"^conv", r"^rotation", r"^contrastive", r"^norm\.")


class HounsfieldSwin(VolumeSwin):
    """The transformer on CT in Hounsfield units."""

    def prepare(self, raw: Any) -> Tensor:
        """CT ``float32 [D, H, W]`` in Hounsfield units -> ``float32 [1, *input_size]`` in 0..1."""
        values = torch.as_tensor(np.ascontiguousarray(raw), dtype=torch.float32)
        if values.ndim != 3:
            raise DataError(f"a volume must be [D, H, W], got {list(values.shape)}")
        volume = ((values - HU[0]) / (HU[1] - HU[0])).clamp(0, 1)[None, None]
        if tuple(values.shape) == self.spec.input_size:
            return volume[0]
        return F.interpolate(volume, size=self.spec.input_size, mode="trilinear", align_corners=False)[0]


class SwinUnetrSource(PublishedSource):
    """Entry point ``swin_unetr``; its options are of MONAI's class: ``feature_size``, ``depths``, ``num_heads``."""

    name, size, multiple = "swin_unetr", SIZE, 32

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "ssl": "Swin encoder of SwinUNETR on 96 x 96 x 96, CT in Hounsfield units, 768 features",
            "ssl_unit": "the same on volumes without such units, scaled to 0..1 (MRI)",
        }

    @classmethod
    def release(cls, model: str) -> Release:
        """See :class:`PublishedSource`."""
        return Release(
            place=URL,
            fetch=lambda: url_file(f"swin_unetr:{model}", URL),
            files=(FILE,),
            drop=HEADS,
            licence="Apache-2.0",
            cohorts=("HNSCC", "LIDC-IDRI", "LUNA16", "TCIA Colon", "TCIA COVID-19"),
            convert=rename_swin,
        )

    @classmethod
    def network(cls, model: str, size: tuple[int, int, int], **options: Any) -> nn.Module:
        """The network takes volumes of any size in multiples of 32; see :class:`PublishedSource`."""
        return build_swin("swin_unetr", False, **options)

    @classmethod
    def encoder(cls, model: str, network: Any, facts: Callable[..., EncoderSpec]) -> Encoder:
        """See :class:`PublishedSource`."""
        hounsfield = model == "ssl"
        intensity = "Hounsfield units of -1000..1000 scaled to 0..1" if hounsfield else INTENSITIES["unit"]
        spec = facts(intensity=intensity, dim=16 * network.embed_dim)
        return (HounsfieldSwin if hounsfield else VolumeSwin)(spec, network, "unit")
