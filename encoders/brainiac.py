"""BrainIAC, version 2: a 3D ViT-B/16 pre-trained on brain MRI by contrast.

Tak et al., "A generalizable foundation model for analysis of human brain MRI", Nature Neuroscience 2026
(doi 10.1038/s41593-026-02202-6). The network is MONAI's ViT (Cardoso et al., 2022, arXiv 2211.02701) without a CLS
token on 96 x 96 x 96 voxels; checkpoints are Lightning's, with the encoder under ``backbone.``, or safetensors of it.

The authors read the first patch token as the feature of a scan, although it stands for a corner of the volume;
``brainiac:v2`` does the same, ``brainiac:v2_mean`` averages all 216 tokens. Volumes are expected skull-stripped and
registered; they are resized trilinearly and z-scored over the voxels that are not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.monai import NOT_ENCODER
from medgraft.encoders.parts.loading import hub_file
from medgraft.encoders.parts.monai_networks import build_vit
from medgraft.encoders.parts.monai_towers import INTENSITIES, VolumeViT
from medgraft.encoders.parts.published import PublishedSource, Release
from medgraft.features import Features

SIZE = (96, 96, 96)
HUB = ("eugenehp/brainiac", "backbone.safetensors")
FILES = ("backbone.safetensors", "BrainIAC.ckpt", "model.safetensors")
# Reported among the training data, which are more; listed so that a benchmark on it can warn.
COHORTS = ("ADNI",)


class FirstPatchViT(VolumeViT):
    """The ViT with the first patch token as ``pooled``."""

    def pool(self, x: Tensor) -> Features:
        """Final norm of ``[B, N, C]``; ``pooled``, ``[B, C]``, is token 0, that of a corner."""
        features = super().pool(x)
        return features.replace(pooled=features.tokens[:, 0])


class BrainIacSource(PublishedSource):
    """Entry point ``brainiac``; its options are those of MONAI's ViT: ``hidden_size``, ``num_layers``."""

    name, size = "brainiac", SIZE

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "v2": "3D ViT-B/16 on 96 x 96 x 96, brain MRI; reads the first patch token, as its authors do",
            "v2_mean": "the same, the mean of its 216 tokens",
        }

    @classmethod
    def release(cls, model: str) -> Release:
        """A mirror on the hub; see :class:`PublishedSource`."""
        licence = "academic, non-commercial; see the authors' repository"
        return Release(
            place=HUB[0],
            fetch=lambda: hub_file(f"brainiac:{model}", *HUB),
            files=FILES,
            drop=NOT_ENCODER,
            licence=licence,
            cohorts=COHORTS,
            local_licence=licence,
            local_cohorts=COHORTS,
        )

    @classmethod
    def network(cls, model: str, size: tuple[int, int, int], **options: Any) -> nn.Module:
        """See :class:`PublishedSource`."""
        return build_vit("vit", False, img_size=size, **options)

    @classmethod
    def encoder(cls, model: str, network: Any, facts: Callable[..., EncoderSpec]) -> Encoder:
        """See :class:`PublishedSource`."""
        first = model == "v2"
        sizes = {"dim": network.norm.normalized_shape[0], "heads": network.blocks[0].attn.num_heads}
        spec = facts(intensity=INTENSITIES["znorm"], pooling="first patch token" if first else "mean", **sizes)
        return (FirstPatchViT if first else VolumeViT)(spec, network, "znorm")
