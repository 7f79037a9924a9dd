"""Architectures of transformers: those with a line of their own, and all others by the library's tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from medgraft.errors import IncompatibleError, UnknownNameError

HUB_TOO = "A hub id (owner/name) is accepted too."


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model: Name of its class in transformers.
        config: Name of its configuration class.
        processor: Name of its image processor.
        line: What it is.
        example: A hub id.
        dual: It has a text tower.
        text: It reads text only: ``cls`` pooled at its first token, ``last`` at the last real one, or ``auto`` for
            whichever of them, or the mean, its attention and its pre-training suggest.
        any_size: It interpolates its positions, so the processor decides on the size of the input.
        crops: The processor cuts the centre out of an image whose short side was resized.
        key: What the library calls it, its configuration's ``model_type``.
        general: Known by the library's tables only, and found out by running it.
    """

    model: str
    config: str
    processor: str
    line: str
    example: str
    dual: bool = False
    text: str = ""
    any_size: bool = False
    crops: bool = False
    key: str = ""
    general: bool = False


FAMILIES = {
    "vit": Family("ViTModel", "ViTConfig", "ViTImageProcessor", "ViT", "google/vit-base-patch16-224"),
    "dinov2": Family(
        "Dinov2Model", "Dinov2Config", "BitImageProcessor", "DINOv2", "microsoft/rad-dino", any_size=True, crops=True
    ),
    "dinov2_with_registers": Family(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        "BitImageProcessor",
        "DINOv2 with registers",
        "facebook/dinov2-with-registers-base",
        any_size=True,
        crops=True,
    ),
    "clip": Family(
        "CLIPModel",
        "CLIPConfig",
        "CLIPImageProcessor",
        "CLIP, image and text",
        "openai/clip-vit-base-patch32",
        dual=True,
        crops=True,
    ),
    "clip_vision_model": Family(
        "CLIPVisionModel",
        "CLIPVisionConfig",
        "CLIPImageProcessor",
        "the image tower of CLIP alone",
        "openai/clip-vit-base-patch32",
        crops=True,
    ),
    "siglip_vision_model": Family(
        "SiglipVisionModel",
        "SiglipVisionConfig",
        "SiglipImageProcessor",
        "the image tower of SigLIP alone",
        "google/siglip-base-patch16-224",
    ),
    "siglip": Family(
        "SiglipModel", "SiglipConfig", "SiglipImageProcessor", "SigLIP, image and text", "google/medsiglip-448", True
    ),
    "bert": Family("BertModel", "BertConfig", "", "BERT, text", "bert-base-uncased", text="cls"),
    "roberta": Family("RobertaModel", "RobertaConfig", "", "RoBERTa, text", "FacebookAI/roberta-base", text="cls"),
    "llama": Family("LlamaModel", "LlamaConfig", "", "LLaMA, text", "meta-llama/Llama-2-7b-hf", text="last"),
    "mistral": Family("MistralModel", "MistralConfig", "", "Mistral, text", "mistralai/Mistral-7B-v0.1", text="last"),
    "qwen2": Family("Qwen2Model", "Qwen2Config", "", "Qwen2, text", "Qwen/Qwen2-0.5B", text="last"),
}

# Named so that lists and suggestions show them; how they are built is found out like that of every other.
OTHERS = {
    "dinov3_vit": "DINOv3, ViT; for example facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3_convnext": "DINOv3, ConvNeXt; for example facebook/dinov3-convnext-tiny-pretrain-lvd1689m",
    "siglip2": "SigLIP 2 NaFlex, image and text, at its square grid; for example google/siglip2-base-patch16-naflex",
    "vit_mae": "ViT of a masked autoencoder, nothing masked; for example facebook/vit-mae-base",
    "vit_msn": "ViT-MSN; for example facebook/vit-msn-base",
    "beit": "BEiT; for example microsoft/beit-base-patch16-224",
    "ijepa": "I-JEPA; for example facebook/ijepa_vith14_1k",
    "deit": "DeiT; for example facebook/deit-base-patch16-224",
    "convnext": "ConvNeXt, as a feature map; for example facebook/convnext-tiny-224",
    "qwen3": "Qwen3, text; for example Qwen/Qwen3-0.6B",
    "modernbert": "ModernBERT, text; for example answerdotai/ModernBERT-base",
    "distilbert": "DistilBERT, text; for example distilbert/distilbert-base-uncased",
    "deberta_v2": "DeBERTa v2 and v3, text; for example microsoft/deberta-v3-base",
    "electra": "ELECTRA, text; for example google/electra-base-discriminator",
}


def family_of(model_type: str, name: str) -> Family:
    """The family of a configuration's ``model_type``.

    Args:
        model_type: As ``config.json`` writes it, ``dinov3_vit``; ``-`` and ``_`` are the same here.
        name: Of the encoder, for errors.

    Raises:
        UnknownNameError: The library has no such architecture.
        IncompatibleError: It has, but no plain model of it.
    """
    if model_type in FAMILIES:
        return replace(FAMILIES[model_type], key=model_type)
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # pyright: ignore
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as ENCODERS
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    config_types = {key.replace("-", "_"): key for key in CONFIG_MAPPING_NAMES}
    key = config_types.get(model_type.replace("-", "_"))
    if key is None:
        near = {*FAMILIES, *(each.replace("-", "_") for each in CONFIG_MAPPING_NAMES)}
        raise UnknownNameError(
            "transformers family", model_type, near if _near(model_type, near) else FAMILIES, HUB_TOO
        )
    config: Any = getattr(transformers, CONFIG_MAPPING_NAMES[key])
    model = ENCODERS.get(key) if getattr(config(), "is_encoder_decoder", False) else None
    model = model or MODEL_MAPPING_NAMES.get(key)
    if not isinstance(model, str):
        raise IncompatibleError(f"encoder {name}: transformers has no model of {key} that gives features")
    kind: Any = getattr(transformers, model)
    dual = hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features")
    reads = getattr(kind, "main_input_name", "")
    if not dual and reads not in ("pixel_values", "input_ids"):
        raise IncompatibleError(f"encoder {name}: {model} reads {reads or 'nothing'}, not an image or a text")
    text = "" if dual or reads == "pixel_values" else "auto"
    return Family(model, config.__name__, _processor(key), key, "", dual, text, key=key, general=True)


def _near(name: str, names: Any) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, names, n=1, cutoff=0.6)


def _processor(key: str) -> str:
    """Name of an architecture's image processor; that of ViT where the library names none."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as NAMES  # pyright: ignore

    names = NAMES.get(key) or NAMES.get(key.removesuffix("_vision_model")) or {}
    if key.startswith("dinov3"):
        return "DINOv3ViTImageProcessor"
    return (names.get("torchvision") or names.get("pil") if isinstance(names, dict) else names) or "ViTImageProcessor"
