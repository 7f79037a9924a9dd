"""Encoders from transformers: the ViT, DINOv2, CLIP and SigLIP families, and text models from BERT to LLaMA.

``transformers:microsoft/rad-dino`` (a hub id), ``transformers:/path/to/folder``, or a bare family
(``transformers:dinov2@random``, ``transformers:llama@/path``) with the library's default configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.checkpoints.weights import Matched, partial_allowed, read_weights
from medgraft.encoder import DualEncoder, Encoder, EncoderSpec
from medgraft.encoders.parts.hf.families import FAMILIES, OTHERS, Family, family_of
from medgraft.encoders.parts.hf.layers import heads_of
from medgraft.encoders.parts.hf.processors import image_processor, processor_place
from medgraft.encoders.parts.hf.sentences import read_sentences
from medgraft.encoders.parts.hf.text import TextModel, reads_forwards, spec_of_text
from medgraft.encoders.parts.hf.towers import PilProcessor, TextTower, VisionTower, pair
from medgraft.encoders.parts.hf.vision import CALLS, LibraryVision, reads_pooler
from medgraft.encoders.parts.hub import REMEDY, demand, fetching
from medgraft.encoders.parts.loading import LazyTokenizer, check_channels, finish, options_of, origin, seeded
from medgraft.encoders.parts.matching import note_match, unwrap
from medgraft.encoders.parts.positions import fitted, recorded_grid
from medgraft.encoders.parts.quiet import quiet
from medgraft.errors import CheckpointError, ConfigError, IncompatibleError, UnknownNameError
from medgraft.sources import Source, check_hub_id, check_weights

# Cohorts that the authors name as training data, so that a benchmark can see a leak.
COHORTS = {
    "microsoft/rad-dino": ("BRAX", "CheXpert", "MIMIC-CXR", "NIH ChestX-ray14", "PadChest"),
    "google/medsiglip-448": ("MIMIC-CXR",),
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
# Parts that a checkpoint may hold beside the encoder: classifiers, pre-training heads, buffers of older versions.
HEADS = {"classifier", "pooler", "decoder", "lm_head", "cls", "mask_token", "position_ids"}
# The same as modules of their own beside the encoder, where the encoder has none of that name.
BESIDE = {
    *("head", "predictions", "discriminator_predictions", "generator_predictions", "generator_lm_head", "score"),
    *("vocab_transform", "vocab_layer_norm", "vocab_projector", "lm_predictions", "mask_predictions", "qa_outputs"),
    *("sop_classifier", "cls_classifier", "distillation_classifier", "text_model", "logit_scale", "logit_bias"),
    *("text_projection", "visual_projection"),
}


# -- building ---------------------------------------------------------------------------------------------------------


def _fresh_config(family: Family, name: str, overrides: Mapping[str, Any]) -> Any:
    import transformers

    kind = getattr(transformers, family.config)
    with quiet(), options_of(name):
        defaults = kind().to_dict()
        for key, value in overrides.items():
            nested = defaults[key] if key in defaults and isinstance(value, Mapping) else {}
            unknown = (
                [key] if not _reads(family, defaults, key) else [k for k in value if k not in nested] if nested else []
            )
            if unknown:
                raise UnknownNameError(f"option of {family.config}", unknown[0], nested or defaults)
        return kind(**overrides)


def _reads(family: Family, options: Mapping[str, Any], key: str) -> bool:
    """Whether a configuration has an option, or the model's code asks for it, as DeBERTa's for ``share_att_key``."""
    import inspect

    import transformers

    if key in options:
        return True
    code = inspect.getsource(inspect.getmodule(getattr(transformers, family.model)))  # pyright: ignore
    return bool(re.search(rf"config\.{re.escape(key)}\b|\(config, \"{re.escape(key)}\"", code))


def _find_config(model: str, name: str, source: str | Path, overrides: Mapping[str, Any]) -> tuple[Family, Any]:
    """Family and configuration: from the options, beside the weights, from the hub, or the library's default."""
    from transformers import AutoConfig

    folder = _folder(source)
    beside = folder is not None and (folder / "config.json").is_file()
    place = folder if beside else model if "/" in model else None
    if overrides:
        if "/" in model or folder == source:
            raise ConfigError(f"encoder {name}: config is for a bare family ({', '.join(FAMILIES)}) without a folder")
        family = family_of(model, name)
        return family, _fresh_config(family, name, overrides)
    if place is None:
        family = family_of(model, name)
        if source == "default" or folder == source:
            missing = f"{source} holds no config.json" if folder else "a bare family has no pre-trained weights"
            example = f"transformers:{family.example or 'owner/name'}"
            raise CheckpointError(f"encoder {name}: {missing}; name a hub id ({example}), or {REMEDY}")
        return family, _fresh_config(family, name, {})
    with fetching(name, what="configuration", local=Path(place).exists()):
        config = AutoConfig.from_pretrained(place)
    if "/" not in model and (expected := family_of(model, name)).key != config.model_type:
        tower: Any = getattr(config, "vision_config", None)  # the image tower of a pair
        if tower is None or tower.model_type != expected.key:
            raise UnknownNameError("transformers family", config.model_type, [model], f"{place} is of it.")
        config = tower
    return family_of(config.model_type, name), config


def _folder(source: str | Path) -> Path | None:
    """The local folder that the weights are, or lie in."""
    if isinstance(source, str):
        return None
    return source if source.is_dir() else source.parent


def _cached(model: str, source: str | Path) -> Path | None:
    """The hub's snapshot of a model, with the files that say how sentences are pooled; ``None`` where it has none."""
    if source != "default" or "/" not in model:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["modules.json", "sentence_bert_config.json", "*_Pooling/config.json", "*_Dense/*", "*_Normalize/*"]
    try:
        folder = Path(snapshot_download(model, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):  # the weights came from a cache that holds nothing else
        return None
    return folder if (folder / "modules.json").is_file() else None


def _load(
    family: Family,
    name: str,
    model: str,
    source: str | Path,
    config: Any,
    sha256: str | None,
    grid: Sequence[int] | None = None,
) -> Any:
    """The library's model with its weights, through the library's loader and its conversions of older layouts."""
    import transformers

    kind = getattr(transformers, family.model)
    poolers = ("ViTModel", "BertModel", "RobertaModel")
    extra: dict[str, Any] = {"add_pooling_layer": False} if family.model in poolers else {}
    if source == "random":
        with seeded(), quiet(), options_of(name):
            return kind(config, **extra)
    dtype = "auto" if reads_forwards(family) else torch.float32  # in float32, seven billion weights take 28 GB
    extra |= {"config": config, "dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with fetching(name, local=isinstance(source, Path)), seeded():  # what a file has not is fresh
        if isinstance(source, Path) and source.is_file():
            state = read_weights(source, sha256)
            expected = kind(config, **{k: v for k, v in extra.items() if k == "add_pooling_layer"}).state_dict()
            state = _refit(unwrap(state, expected), config, source, grid)
            network, report = kind.from_pretrained(None, state_dict=state, **extra)
        else:
            network, report = kind.from_pretrained(source if isinstance(source, Path) else model, **extra)
    where = source if isinstance(source, Path) else model
    _check_report(report, network, where)
    note_match(network, _match_of(report, network, str(where)))
    return network


def _refit(
    state: dict[str, torch.Tensor], config: Any, path: Path, grid: Sequence[int] | None
) -> dict[str, torch.Tensor]:
    """Brings learned positions of images to the model's grid, see :mod:`medgraft.encoders.parts.positions`."""
    vision = getattr(config, "vision_config", config)
    patch, size = getattr(vision, "patch_size", None), getattr(vision, "image_size", None)
    if not isinstance(patch, int | list | tuple) or not isinstance(size, int | list | tuple):
        return state
    steps = pair(patch)
    target = tuple(length // step for length, step in zip(pair(size), steps, strict=True))
    for key, table in state.items():
        places = key.endswith(("embeddings.position_embeddings", "embeddings.position_embedding.weight"))
        if places and "text_model" not in key and 0 <= (before := table.shape[-2] - target[0] * target[1]) <= 2:
            stored = tuple(grid) if grid else recorded_grid(path, steps)
            state[key] = fitted(table, target, before, stored, str(path))
    return state


def _check_report(report: Mapping[str, Any], network: Any, where: object) -> None:
    """The library only warns where weights are missing or do not fit; here that is an error.

    What a checkpoint holds for a module that the encoder does not have is a head. Mask tokens and the poolers of a
    pre-training are not run.
    """
    mismatches = {
        "missing": _missing(report, network),
        "unexpected": _unexpected(report, network),
        "of another shape": report["mismatched_keys"],
    }
    problems = [f"{label}: {', '.join(map(_key, sorted(keys)[:6]))}" for label, keys in mismatches.items() if keys]
    if problems and not partial_allowed():
        raise CheckpointError(f"{where} does not fit: {'; '.join(problems)}; {where}?partial takes what fits")


def _missing(report: Mapping[str, Any], network: Any) -> list[str]:
    unused = {"mask_token", "position_ids", *(() if reads_pooler(network) else ("pooler",))}
    return [key for key in report["missing_keys"] if not unused & set(key.split("."))]


def _unexpected(report: Mapping[str, Any], network: Any) -> list[str]:
    parts = {*dict(network.named_children()), *dict(network.named_parameters(recurse=False))}
    return [
        key
        for key in report["unexpected_keys"]
        if not HEADS & set(key.split(".")) and (_first(key, network) not in BESIDE or _first(key, network) in parts)
    ]


def _match_of(report: Mapping[str, Any], network: Any, where: str) -> Matched:
    """What of the weights the library took, by its own report."""
    misshapen = [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
    fresh = sorted({*_missing(report, network), *misshapen})
    needed = len(network.state_dict())
    if needed == len(fresh):
        raise CheckpointError(f"{where} does not fit: it has none of the {needed} tensors of {type(network).__name__}")
    return Matched(
        where, needed - len(fresh), needed, tuple(fresh), tuple(sorted({*report["unexpected_keys"], *misshapen}))
    )


def _first(key: str, network: Any) -> str:
    return key.removeprefix(f"{network.base_model_prefix}.").partition(".")[0]


def _key(entry: Any) -> str:
    """One entry of the library's report: a key, or a key with its shapes in the file and in the model."""
    return entry if isinstance(entry, str) else f"{entry[0]} is {tuple(entry[1])}, expected {tuple(entry[2])}"


def _read_tokenizer(place: str | None, length: int) -> Callable[[str], Tensor]:
    from transformers import AutoTokenizer

    if place is None:
        raise LookupError("a bare family has none of its own")
    return partial(_tokenize, AutoTokenizer.from_pretrained(place), length)


def _tokenize(tokenizer: Any, length: int, text: str) -> Tensor:
    settings = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return tokenizer(text, **settings)["input_ids"][0]


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a local folder holds a tokenizer's files."""
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


class TransformersSource(Source):
    """Entry point ``transformers``."""

    name, hub_ids = "transformers", True

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for no family, hub id or folder, and for weights that are neither a keyword nor on this disk."""
        name = f"transformers:{model}"
        if "/" in model or "\\" in model:
            check_hub_id("transformers", model, prefixed=True)
        elif model not in (*FAMILIES, *OTHERS):
            family_of(model, name)
        check_weights(name, weights)

    @classmethod
    def models(cls) -> dict[str, str]:
        """Families, with a line each; ``build`` also takes the library's others, hub ids and local folders."""
        families = {name: f"{family.line}; for example {family.example}" for name, family in FAMILIES.items()}
        return {**families, **OTHERS}

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        config: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
        weights_grid: Sequence[int] | None = None,
    ) -> Encoder:
        """Builds an encoder.

        Args:
            model: A family, a hub id (``owner/name``), or a local folder.
            weights: ``"default"`` for the hub's, ``"random"``, or a local file or folder. Beside a file, a
                ``config.json`` and a ``preprocessor_config.json`` are used if they lie there.
            sha256: Expected digest of the local file.
            config: Options of the family's configuration class, for a bare family.
            tokenizer: Hub id or local folder of the tokenizer, for models that read text.
            weights_grid: Rows and columns of patches that the positions of a local file were trained on, where they
                are not the model's and neither the file nor a ``config.json`` beside it says so.

        Raises:
            UnknownNameError: No such family or configuration option.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        source = origin(model if weights == "default" and Path(model).is_dir() else weights, sha256)
        name = f"transformers:{model}"
        if source == "default" and "/" in model:
            demand(name, model)
        family, settings = _find_config(model, name, source, config or {})
        network = _load(family, name, model, source, settings, sha256, weights_grid)
        candidates = [tokenizer, source if isinstance(source, Path) and has_tokenizer(source) else None]
        folder = model if "/" in model else None
        place = next((str(each) for each in candidates if each), folder)
        if family.text:
            here = Path(model) if Path(model).is_dir() else _folder(source)
            sentences = read_sentences(here or _cached(model, source))
            text = TextModel(spec_of_text(name, source, settings, family.text), network, place, sentences)
            return finish(text, source, "" if sentences is None else sentences.told)
        transform = image_processor(family, name, processor_place(model, source, _folder(source)), settings)
        facts = _facts(family, name, source, settings, transform)
        if family.dual:
            return finish(_dual(facts, network, transform, place), source)
        if family.general:
            return finish(LibraryVision(facts, network, transform), source)
        return finish(VisionTower(facts, network, transform), source)


def _facts(family: Family, name: str, source: str | Path, config: Any, transform: PilProcessor) -> EncoderSpec:
    vision = getattr(config, "vision_config", config)
    channels = int(getattr(vision, "num_channels", 3))
    check_channels(name, channels)
    size = transform.size
    if not family.general:
        image_size = pair(vision.image_size)
        if size is not None and size != image_size and not family.any_size:
            raise ConfigError(f"encoder {name} takes {image_size} images, but its image processor makes {size}")
        size = size if family.any_size and size is not None else image_size
    return EncoderSpec(
        name=name,
        modality="image",
        input_size=size or pair(getattr(vision, "image_size", 224)),
        channels=channels,
        intensity=transform.intensity,
        dim=getattr(vision, "hidden_size", None) or getattr(vision, "hidden_sizes", [1])[-1],
        heads=heads_of(vision),
        pooling="attention pooling" if family.config.startswith("Siglip") else "cls",
        licence="Apache-2.0" if source == "random" else "see the model card",
        cohorts=() if source == "random" else COHORTS.get(name.removeprefix("transformers:"), ()),
        weights="random",
    )


def _dual(facts: EncoderSpec, network: Any, transform: PilProcessor, tokenizer: str | None) -> DualEncoder:
    if not all(hasattr(network, part) for part in ("vision_model", "text_model", "logit_scale")):
        kind = type(network).__name__
        raise IncompatibleError(f"encoder {facts.name}: {kind} is no pair of an image and a text tower as CLIP's")
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
    remote = tokenizer is not None and not Path(tokenizer).exists()
    words = LazyTokenizer(facts.name, partial(_read_tokenizer, tokenizer, length), remote=remote)
    kind = LibraryVision if network.vision_model.config.model_type in CALLS else VisionTower
    towers: dict[str, Encoder] = {
        "image": kind(facts, network.vision_model, transform, network.visual_projection if clip else None),
        "text": TextTower(
            facts.model_copy(update=changes), network.text_model, network.text_projection if clip else None, words
        ),
    }
    joined = facts.model_copy(update={"modality": "image+text"})
    return DualEncoder(joined, towers, float(network.logit_scale.detach().exp()))
