"""Encoders from transformers: the ViT, DINOv2, CLIP and SigLIP families, and text models from BERT to LLaMA.

``transformers:microsoft/rad-dino`` (a hub id), ``transformers:/path/to/folder``, or a bare family
(``transformers:dinov2@random``, ``transformers:llama@/path``) with the library's default configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.checkpoint import read_weights
from medgraft.encoder import DualEncoder, Encoder, EncoderSpec
from medgraft.encoders.hf_text import TextModel, spec_of_text
from medgraft.encoders.hf_towers import PilProcessor, TextTower, VisionTower, pair
from medgraft.encoders.loading import REMEDY, LazyTokenizer, fetching, finish, options_of, origin, seeded, unwrap
from medgraft.errors import CheckpointError, ConfigError, UnknownNameError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# Cohorts that the authors name as training data, so that a benchmark can see a leak.
COHORTS = {
    "microsoft/rad-dino": ("BRAX", "CheXpert", "MIMIC-CXR", "NIH ChestX-ray14", "PadChest"),
    "google/medsiglip-448": ("MIMIC-CXR",),
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
# Parts that a checkpoint may hold beside the encoder: classifiers, pre-training heads, buffers of older versions.
HEADS = {"classifier", "pooler", "decoder", "lm_head", "cls", "mask_token", "position_ids"}


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
        text: It reads text only, ``cls`` pooled at its first token or ``last`` at the last real one.
        any_size: It interpolates its positions, so the processor decides on the size of the input.
        crops: The processor cuts the centre out of an image whose short side was resized.
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
    "siglip": Family(
        "SiglipModel", "SiglipConfig", "SiglipImageProcessor", "SigLIP, image and text", "google/medsiglip-448", True
    ),
    "bert": Family("BertModel", "BertConfig", "", "BERT, text", "bert-base-uncased", text="cls"),
    "roberta": Family("RobertaModel", "RobertaConfig", "", "RoBERTa, text", "FacebookAI/roberta-base", text="cls"),
    "llama": Family("LlamaModel", "LlamaConfig", "", "LLaMA, text", "meta-llama/Llama-2-7b-hf", text="last"),
    "mistral": Family("MistralModel", "MistralConfig", "", "Mistral, text", "mistralai/Mistral-7B-v0.1", text="last"),
    "qwen2": Family("Qwen2Model", "Qwen2Config", "", "Qwen2, text", "Qwen/Qwen2-0.5B", text="last"),
}


# -- building ---------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's progress bars and load reports off the terminal; what they say is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # logging.CRITICAL
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _fresh_config(family: Family, name: str, overrides: Mapping[str, Any]) -> Any:
    import transformers

    kind = getattr(transformers, family.config)
    with _quiet(), options_of(name):
        known = kind().to_dict()
        for key, value in overrides.items():
            nested = known[key] if key in known and isinstance(value, Mapping) else {}
            unknown = [key] if key not in known else [k for k in value if k not in nested] if nested else []
            if unknown:
                raise UnknownNameError(f"option of {family.config}", unknown[0], nested or known)
        return kind(**overrides)


def _find_config(model: str, name: str, source: str | Path, overrides: Mapping[str, Any]) -> tuple[Family, Any]:
    """Family and configuration: from the options, beside the weights, from the hub, or the library's default."""
    from transformers import AutoConfig

    folder = _folder(source)
    if overrides:
        if model not in FAMILIES or folder == source:
            raise ConfigError(f"encoder {name}: config is for a bare family ({', '.join(FAMILIES)}) without a folder")
        return FAMILIES[model], _fresh_config(FAMILIES[model], name, overrides)
    beside = folder is not None and (folder / "config.json").is_file()
    place = folder if beside else model if "/" in model else None
    if place is None:
        if model not in FAMILIES:
            raise UnknownNameError("transformers family", model, FAMILIES, "A hub id (owner/name) is accepted too.")
        if source == "default" or folder == source:
            missing = f"{source} holds no config.json" if folder else "a bare family has no pre-trained weights"
            example = FAMILIES[model].example
            raise CheckpointError(f"encoder {name}: {missing}; name a hub id (transformers:{example}), or {REMEDY}")
        return FAMILIES[model], _fresh_config(FAMILIES[model], name, {})
    with fetching(name), _quiet():
        config = AutoConfig.from_pretrained(place)
    if config.model_type not in FAMILIES or (model in FAMILIES and config.model_type != model):
        raise UnknownNameError(
            "transformers family", config.model_type, [model] if model in FAMILIES else FAMILIES, f"{place} is of it."
        )
    return FAMILIES[config.model_type], config


def _folder(source: str | Path) -> Path | None:
    """The local folder that the weights are, or lie in."""
    if isinstance(source, str):
        return None
    return source if source.is_dir() else source.parent


def _load(family: Family, name: str, model: str, source: str | Path, config: Any, sha256: str | None) -> Any:
    """The library's model with its weights, through the library's loader and its conversions of older layouts."""
    import transformers

    kind = getattr(transformers, family.model)
    poolers = ("ViTModel", "BertModel", "RobertaModel")
    extra: dict[str, Any] = {"add_pooling_layer": False} if family.model in poolers else {}
    if source == "random":
        with seeded(), _quiet(), options_of(name):
            return kind(config, **extra)
    dtype = "auto" if family.text == "last" else torch.float32  # in float32, seven billion weights take 28 GB
    extra |= {"config": config, "dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with fetching(name), _quiet():
        if isinstance(source, Path) and source.is_file():
            state = read_weights(source, sha256)
            wanted = kind(config, **{k: v for k, v in extra.items() if k == "add_pooling_layer"}).state_dict()
            network, report = kind.from_pretrained(None, state_dict=unwrap(state, wanted), **extra)
        else:
            network, report = kind.from_pretrained(source if isinstance(source, Path) else model, **extra)
    _check_report(report, source if isinstance(source, Path) else model)
    return network


def _check_report(report: Mapping[str, Any], where: object) -> None:
    """The library only warns where weights are missing or do not fit; here that is an error."""
    found = {
        "missing": report["missing_keys"],
        "unexpected": [key for key in report["unexpected_keys"] if not HEADS & set(key.split("."))],
        "of another shape": report["mismatched_keys"],
    }
    problems = [f"{label}: {', '.join(map(_key, sorted(keys)[:6]))}" for label, keys in found.items() if keys]
    if problems:
        raise CheckpointError(f"{where} does not fit: {'; '.join(problems)}")


def _key(entry: Any) -> str:
    """One entry of the library's report: a key, or a key with its shapes in the file and in the model."""
    return entry if isinstance(entry, str) else f"{entry[0]} is {tuple(entry[1])}, expected {tuple(entry[2])}"


def _processor(family: Family, name: str, model: str, source: str | Path, config: Any) -> PilProcessor:
    """The model's own image processor, or its family's usual one where the weights come without."""
    import transformers

    folder, files = _folder(source), ("preprocessor_config.json", "processor_config.json")
    beside = folder is not None and any((folder / file).is_file() for file in files)
    with _quiet():
        if beside or source == "default":
            with fetching(name):
                return PilProcessor(transformers.AutoImageProcessor.from_pretrained(folder if beside else model))
        height, width = pair(getattr(config, "vision_config", config).image_size)
        settings: dict[str, Any] = {"size": {"height": height, "width": width}}
        if family.crops:
            settings = {"size": {"shortest_edge": max(height, width)}, "crop_size": settings["size"]}
        if family.any_size:
            settings |= {**IMAGENET, "resample": 3}
        return PilProcessor(getattr(transformers, family.processor)(**settings))


def _read_tokenizer(place: str | None, length: int) -> Callable[[str], Tensor]:
    from transformers import AutoTokenizer

    if place is None:
        raise CheckpointError("a bare family has none of its own")
    return partial(_tokenize, AutoTokenizer.from_pretrained(place), length)


def _tokenize(tokenizer: Any, length: int, text: str) -> Tensor:
    settings = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return tokenizer(text, **settings)["input_ids"][0]


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a local folder holds a tokenizer's files."""
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


class TransformersSource:
    """Entry point ``transformers``."""

    api_version = 1

    @staticmethod
    def models() -> dict[str, str]:
        """The families, with a line each; ``build`` also takes hub ids and local folders."""
        return {name: f"{family.line}; for example {family.example}" for name, family in FAMILIES.items()}

    @classmethod
    def build(
        cls,
        model: str,
        weights: str = "default",
        sha256: str | None = None,
        config: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
    ) -> Encoder:
        """Builds an encoder.

        Args:
            model: A family, a hub id (``owner/name``), or a local folder.
            weights: ``"default"`` for the hub's, ``"random"``, or a local file or folder. Beside a file, a
                ``config.json`` and a ``preprocessor_config.json`` are used if they lie there.
            sha256: Expected digest of the local file.
            config: Options of the family's configuration class, for a bare family.
            tokenizer: Hub id or local folder of the tokenizer, for models that read text.

        Raises:
            UnknownNameError: No such family or configuration option.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        source = origin(model if weights == "default" and Path(model).is_dir() else weights, sha256)
        name = f"transformers:{model}"
        family, settings = _find_config(model, name, source, config or {})
        network = _load(family, name, model, source, settings, sha256)
        candidates = [tokenizer, source if isinstance(source, Path) and has_tokenizer(source) else None]
        folder = model if "/" in model else None
        place = next((str(each) for each in candidates if each), folder)
        if family.text:
            return finish(TextModel(spec_of_text(name, source, settings, family.text), network, place), source)
        transform = _processor(family, name, model, source, settings)
        facts = _facts(family, name, source, settings, transform)
        if not family.dual:
            return finish(VisionTower(facts, network, transform), source)
        return finish(_dual(facts, network, transform, place), source)


def _facts(family: Family, name: str, source: str | Path, config: Any, transform: PilProcessor) -> EncoderSpec:
    vision = getattr(config, "vision_config", config)
    size = pair(vision.image_size)
    if transform.size is not None and transform.size != size:
        if not family.any_size:
            raise ConfigError(f"encoder {name} takes {size} images, but its image processor makes {transform.size}")
        size = transform.size
    return EncoderSpec(
        name=name,
        modality="image",
        input_size=size,
        channels=vision.num_channels,
        intensity=transform.intensity,
        dim=vision.hidden_size,
        heads=vision.num_attention_heads,
        pooling="attention pooling" if family.config == "SiglipConfig" else "cls",
        licence="Apache-2.0" if source == "random" else "see the model card",
        cohorts=() if source == "random" else COHORTS.get(name.removeprefix("transformers:"), ()),
        weights="random",
    )


def _dual(facts: EncoderSpec, network: Any, transform: PilProcessor, tokenizer: str | None) -> DualEncoder:
    config = network.text_model.config
    length = int(config.max_position_embeddings)
    clip = hasattr(network, "text_projection")
    changes = {
        "modality": "text",
        "input_size": (length,),
        "channels": 1,
        "intensity": "",
        "dim": config.hidden_size,
        "heads": config.num_attention_heads,
        "pooling": "end-of-text token" if clip else "last position",
    }
    words = LazyTokenizer(facts.name, partial(_read_tokenizer, tokenizer, length))
    towers: dict[str, Encoder] = {
        "image": VisionTower(facts, network.vision_model, transform, network.visual_projection if clip else None),
        "text": TextTower(
            facts.model_copy(update=changes), network.text_model, network.text_projection if clip else None, words
        ),
    }
    joined = facts.model_copy(update={"modality": "image+text"})
    return DualEncoder(joined, towers, float(network.logit_scale.detach().exp()))
