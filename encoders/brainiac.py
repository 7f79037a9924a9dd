"""BrainIAC, version 2: a 3D ViT-B/16 pre-trained on brain MRI by contrast.

Tak et al., "A generalizable foundation model for analysis of human brain MRI", Nature Neuroscience 2026
(doi 10.1038/s41593-026-02202-6). The network is MONAI's ViT (Cardoso et al., 2022, arXiv 2211.02701) without a CLS
token on 96 x 96 x 96 voxels; checkpoints are Lightning's, with the encoder under ``backbone.``, or safetensors of it.

The authors read the first patch token as the feature of a scan, although it stands for a corner of the volume;
``brainiac:v2`` does the same, ``brainiac:v2_mean`` averages all 216 tokens. Volumes are expected skull-stripped and
registered; they are resized trilinearly and z-scored over the voxels that are not 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.hub import demand
from medgraft.encoders.loading import file_in, finish, hub_file, load_file, options_of, origin, seeded
from medgraft.encoders.monai import NOT_ENCODER
from medgraft.encoders.monai_networks import build_vit
from medgraft.encoders.monai_towers import INTENSITIES, VolumeViT
from medgraft.errors import UnknownNameError
from medgraft.features import Features

SIZE = (96, 96, 96)
HUB = ("eugenehp/brainiac", "backbone.safetensors")
FILES = ("backbone.safetensors", "BrainIAC.ckpt", "model.safetensors")
# Reported among the training data, which are more; listed so that a benchmark on it can warn.
COHORTS = ("ADNI",)


class FirstPatchViT(VolumeViT):
    """The ViT with the first patch token as ``pooled``."""

    def pool(self, x: Tensor) -> Features:
        """Final norm; ``pooled`` is token 0, that of a corner."""
        features = super().pool(x)
        return features.replace(pooled=features.tokens[:, 0])


class BrainIacSource:
    """Entry point ``brainiac``."""

    api_version = 1

    @staticmethod
    def models() -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "v2": "3D ViT-B/16 on 96 x 96 x 96, brain MRI; reads the first patch token, as its authors do",
            "v2_mean": "the same, the mean of its 216 tokens",
        }

    @classmethod
    def build(cls, model: str, weights: str = "default", sha256: str | None = None, **options: Any) -> Encoder:
        """Builds an encoder of volumes ``[1, 96, 96, 96]``.

        Args:
            model: A key of :meth:`models`.
            weights: ``"default"`` (a mirror on the hub), ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of the local file.
            **options: Passed to MONAI's ViT, for encoders of one's own: ``img_size``, ``hidden_size``, ``num_layers``.

        Raises:
            UnknownNameError: No such model.
            ConfigError: An option does not fit.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        if model not in cls.models():
            raise UnknownNameError("brainiac encoder", model, cls.models())
        name, source = f"brainiac:{model}", origin(weights, sha256)
        size = tuple(int(n) for n in options.pop("img_size", SIZE))
        if source == "default":
            demand(name, HUB[0])
        with seeded(), options_of(name):
            network = build_vit("vit", False, img_size=size, **options)
        if source != "random":
            path = hub_file(name, *HUB) if source == "default" else file_in(Path(source), FILES)
            load_file(network, path, sha256, drop=NOT_ENCODER)
        spec = EncoderSpec(
            name=name,
            modality="volume",
            input_size=size,
            intensity=INTENSITIES["znorm"],
            dim=network.norm.normalized_shape[0],
            heads=network.blocks[0].attn.num_heads,
            pooling="first patch token" if model == "v2" else "mean",
            licence="Apache-2.0" if source == "random" else "academic, non-commercial; see the authors' repository",
            cohorts=() if source == "random" else COHORTS,
            weights="random",
        )
        return finish((FirstPatchViT if model == "v2" else VolumeViT)(spec, network, "znorm"), source)
