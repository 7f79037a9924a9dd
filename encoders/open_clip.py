"""Encoders from open_clip: CLIP-like pairs of an image and a text tower that share a space.

``open_clip:ViT-B-32``, ``open_clip:ViT-B-32@laion2b_s34b_b79k`` (one of the library's tags), a hub id
(``open_clip:hf-hub:owner/name``), or a local folder with ``open_clip_config.json`` behind ``@``. The image tower is
open_clip's own ViT or a timm trunk, the text tower open_clip's own transformer or a BERT.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from medgraft.encoder import DualEncoder, Encoder, EncoderSpec
from medgraft.encoders.parts.hf.towers import pair
from medgraft.encoders.parts.hub import demand, fetching
from medgraft.encoders.parts.loading import LazyTokenizer, finish, intensity, options_of, origin, seeded
from medgraft.encoders.parts.open_clip_files import checkpoint_in, load, with_activation
from medgraft.encoders.parts.open_clip_towers import BertTower, ResNetTower, TextTower, VisionTower
from medgraft.encoders.timm import wrap
from medgraft.encoders.transformers import has_tokenizer
from medgraft.errors import CheckpointError, IncompatibleError, UnknownNameError
from medgraft.files.documents import read_json
from medgraft.sources import Source, check_hub_id, check_weights

BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
BIOMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
# BERTs whose configuration is transformers' default, so that none has to be fetched to build them.
PLAIN_BERTS = (BIOMEDBERT, "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract", "bert-base-uncased")
# Zhang et al., "BiomedCLIP: a multimodal biomedical foundation model", 2023 (arXiv 2303.00915).
BIOMEDCLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": BIOMEDBERT,
        "hf_tokenizer_name": BIOMEDBERT,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
LICENCES = {BIOMEDCLIP: "MIT"}
COHORTS = {BIOMEDCLIP: ("PMC-15M",)}
CONFIG_NAME = "open_clip_config.json"


def find_config(model: str, folder: Path | None, name: str, *, fetch: bool = True) -> dict[str, Any]:
    """open_clip's description of a model: ``model_cfg`` and ``preprocess_cfg``.

    Args:
        model: Name, or hub id behind ``hf-hub:``.
        folder: Local folder that may hold ``open_clip_config.json``.
        name: Name of the encoder, for errors.
        fetch: Ask the hub even for what is known without it.

    Raises:
        UnknownNameError: open_clip has no such model.
        CheckpointError: The file or the hub cannot be read.
    """
    import open_clip

    if folder is not None and (folder / CONFIG_NAME).is_file():
        config = read_json(folder / CONFIG_NAME, CheckpointError)
        if not isinstance(config, dict):
            raise CheckpointError(f"{folder / CONFIG_NAME} cannot be read: it holds no table of settings")
        return config if "model_cfg" in config else {"model_cfg": config}
    if model == BIOMEDCLIP and not fetch:
        return {"model_cfg": copy.deepcopy(BIOMEDCLIP_CONFIG)}
    if model.startswith("hf-hub:"):
        with fetching(name, what="configuration"):
            return {"model_cfg": open_clip.get_model_config(model)}
    config = open_clip.get_model_config(model)
    if config is None:
        remedy = "A hub id behind 'hf-hub:' is accepted too."
        raise UnknownNameError("open_clip model", model, _near(model, open_clip.list_models()), remedy)
    tags = open_clip.list_pretrained_tags_by_model(model)  # SigLIP's mean and deviation stand with its weights
    return {"model_cfg": config, "preprocess_cfg": open_clip.get_pretrained_cfg(model, tags[0]) if tags else {}}


def _near(model: str, names: list[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(model, names, n=3, cutoff=0.5) or list(OpenClipSource.models())


@contextmanager
def _local_bert(text: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The text configuration with a local folder in place of a BERT's hub id, where its configuration is known."""
    if text.get("hf_model_name") not in PLAIN_BERTS:
        yield text
        return
    from transformers import BertConfig

    with TemporaryDirectory(prefix="medgraft-bert-") as folder:
        (Path(folder) / "config.json").write_text(BertConfig().to_json_string(use_diff=False))
        yield {**text, "hf_model_name": folder}


def construct(config: Mapping[str, Any]) -> Any:
    """The library's model with fresh weights, image tower in ``visual`` and text tower in ``text``.

    Args:
        config: open_clip's ``model_cfg``.
    """
    from open_clip.model import CustomTextCLIP

    # CoCa's decoder writes captions from both towers; an encoder does without it.
    apart = ("vision_cfg", "text_cfg", "custom_text", "multimodal_cfg")
    rest = {key: value for key, value in config.items() if key not in apart}
    vision: dict[str, Any] = dict(config["vision_cfg"])
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    with _local_bert(dict(config["text_cfg"])) as text:
        if "hf_model_name" in text:
            text["hf_model_pretrained"] = False
        return CustomTextCLIP(vision_cfg=vision, text_cfg=text, **rest)  # pyright: ignore[reportArgumentType]


def _fetch(model: str, tag: str | None, name: str) -> Any:
    """The library's model with pre-trained weights, through the library's own loader."""
    import open_clip

    settings: dict[str, Any] = {"force_custom_text": True, "require_pretrained": True}
    url = None
    if not model.startswith("hf-hub:"):
        tags = open_clip.list_pretrained_tags_by_model(model)
        if not tags:
            raise CheckpointError(f"encoder {name}: open_clip has no pre-trained weights of it; use @random or @/path")
        tag = tag or tags[0]
        pretrained_cfg = open_clip.get_pretrained_cfg(model, tag) or {}
        url = None if pretrained_cfg.get("hf_hub") else pretrained_cfg.get("url")
        quick = bool(pretrained_cfg.get("quick_gelu", False))
        settings |= {"pretrained": tag, "force_quick_gelu": quick}
    with fetching(name, url=url):
        return open_clip.create_model(model, **settings)


def _tag(model: str, weights: str) -> str | None:
    """The library's tag that ``weights`` is, or ``None`` for a keyword or a path.

    Raises:
        UnknownNameError: It looks like a tag, and the model has others.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights in tags:
        return weights
    tag_like = weights not in ("default", "pretrained", "random") and not Path(weights).expanduser().exists()
    if tags and tag_like and "/" not in weights:
        raise UnknownNameError(f"weights of open_clip:{model}", weights, [*tags, "default", "random"])
    return None


class OpenClipSource(Source):
    """Entry point ``open_clip``."""

    name, hub_ids = "open_clip", True

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for a name that open_clip does not know, and for weights that are no tag of it nor on this disk."""
        import open_clip

        name = f"open_clip:{model}"
        check_hub_id("open_clip", model.removeprefix("hf-hub:"), prefixed=model.startswith("hf-hub:"))
        path = Path(weights).expanduser()
        described = path.exists() and ((path if path.is_dir() else path.parent) / CONFIG_NAME).is_file()
        if not model.startswith("hf-hub:") and not described and model not in open_clip.list_models():
            find_config(model, None, name)
        check_weights(name, weights, open_clip.list_pretrained_tags_by_model(model))

    @classmethod
    def models(cls) -> dict[str, str]:
        """A few models, with a line each; ``build`` takes every name of ``open_clip.list_models()`` and hub ids."""
        return {
            "ViT-B-32": "CLIP ViT-B/32, and its sizes up to ViT-bigG-14",
            "RN50": "CLIP ResNet-50, pooled by attention, and its sizes up to RN50x64",
            "ViT-B-16-SigLIP": "SigLIP on a timm trunk",
            "EVA02-B-16": "EVA-02 CLIP on a timm trunk",
            "coca_ViT-B-32": "CoCa without its decoder, pooled by attention",
            "roberta-ViT-B-32": "CLIP ViT-B/32 with a RoBERTa text tower",
            BIOMEDCLIP: "BiomedCLIP: ViT-B/16 and PubMedBERT, trained on figures of PubMed Central",
        }

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        config: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
        weights_grid: Sequence[int] | None = None,
    ) -> DualEncoder:
        """Builds a dual encoder with towers ``image`` and ``text``.

        Args:
            model: Name of an open_clip model, ``hf-hub:owner/name``, or any name where ``config`` is given.
            weights: ``"default"`` (the library's first tag, or the hub's), a tag of the library, ``"random"``, a
                local file, or a local folder with ``open_clip_config.json`` and weights.
            sha256: Expected digest of the local file.
            config: open_clip's ``model_cfg``, instead of the one that belongs to the name.
            tokenizer: Hub id or local folder of the tokenizer, for a transformers text tower.
            weights_grid: Rows and columns of patches that the positions of a local file were trained on, where they
                are not the model's and no configuration beside the file says so.

        Raises:
            UnknownNameError: open_clip has no such model.
            IncompatibleError: The architecture is no plain pair of an image and a text tower.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        name = f"open_clip:{model}"
        if weights in ("default", "pretrained") and model.startswith("hf-hub:"):
            demand(name, model.removeprefix("hf-hub:"))
        tag = _tag(model, weights)
        source = "default" if tag else origin(weights, sha256)
        folder = None if isinstance(source, str) else source if source.is_dir() else source.parent
        described = {"model_cfg": copy.deepcopy(dict(config))} if config else None
        described = described or find_config(model, folder, name, fetch=source == "default")
        file = checkpoint_in(source) if isinstance(source, Path) and source.is_dir() else source
        if source == "default":
            network = _fetch(model, tag, name)
        else:
            if isinstance(file, Path):
                described["model_cfg"] = with_activation(name, model, described["model_cfg"], file, sha256)
            remedy = "its text tower is described on the hub only; give a local folder as hf_model_name in config="
            text = described["model_cfg"]["text_cfg"].get("hf_model_name")
            remote = text is not None and text not in PLAIN_BERTS and not Path(text).exists()
            with seeded(), fetching(name, remedy, local=not remote) if config is None else options_of(name):
                network = construct(described["model_cfg"])
        if isinstance(file, Path):
            load(network, file, sha256, weights_grid)
        place = tokenizer or (str(folder) if folder is not None and has_tokenizer(folder) else None)
        return finish(_assemble(model, network, described, source, place), source)


def _transform(network: Any, described: Mapping[str, Any]) -> tuple[Callable[[Any], Tensor], Any]:
    """open_clip's evaluation transform and its settings."""
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    settings = merge_preprocess_dict(PreprocessCfg(), described.get("preprocess_cfg") or {})
    settings |= getattr(network.visual, "preprocess_cfg", None) or {"size": network.visual.image_size}
    chosen = PreprocessCfg(**settings)
    transform: Any = image_transform_v2(chosen, is_train=False)
    return transform, chosen


def _read_tokenizer(model: str, text: Mapping[str, Any], place: str | None) -> Callable[[str], Tensor]:
    import open_clip
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    length = int(text.get("context_length", 77))
    if place is not None or text.get("hf_tokenizer_name"):
        options: dict[str, Any] = {**text.get("tokenizer_kwargs", {}), "tokenizer_mode": text.get("tokenizer_mode")}
        tokenizer: Any = HFTokenizer(place or text["hf_tokenizer_name"], context_length=length, **options)
    elif model in open_clip.list_models():
        tokenizer = open_clip.get_tokenizer(model, context_length=length)
    else:
        tokenizer = SimpleTokenizer(context_length=length)
    return partial(_tokenize, tokenizer)


def _tokenize(tokenizer: Any, text: str) -> Tensor:
    return tokenizer([text])[0]


def _image_tower(facts: dict[str, Any], network: Any, transform: Callable[[Any], Tensor], chosen: Any) -> Encoder:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual, name = network.visual, str(facts["name"])
    size, meaning = pair(chosen.size), intensity(chosen.mean, chosen.std)
    if isinstance(visual, TimmModel) and "pool" not in dict(visual.head.named_children()):
        tower = wrap(name, visual.trunk, transform, size, meaning, facts["licence"], visual.head)
        tower.spec = tower.spec.model_copy(update={"cohorts": facts["cohorts"]})
        return tower
    settings: dict[str, Any] = {"input_size": size, "channels": 3, "intensity": meaning}
    if isinstance(visual, ModifiedResNet):
        last: Any = visual.layer4[-1]
        facts = {**facts, **settings, "dim": last.conv3.out_channels, "pooling": "attention pooling"}
        return ResNetTower(EncoderSpec(**facts, modality="image"), visual, transform)
    if not isinstance(visual, VisionTransformer) or (visual.attn_pool is None and visual.pool_type == "none"):
        kind = type(visual.trunk).__name__ if isinstance(visual, TimmModel) else type(visual).__name__
        raise IncompatibleError(
            f"encoder {name}: its image tower ({kind}) is neither a ViT or ResNet of open_clip that pools nor a timm "
            "trunk with a linear head"
        )
    tower = VisionTower(EncoderSpec(**facts, modality="image", **settings, **_vit_facts(visual)), visual, transform)
    if getattr(visual, "attn_pool_contrastive", None) is not None:  # the library itself runs those with one width only
        with options_of(str(name)), torch.no_grad():
            tower.project(tower.pool(tower.embed(torch.zeros(1, 3, *size))).pooled)
    return tower


def _vit_facts(visual: Any) -> dict[str, Any]:
    pooling = {"tok": "cls", "avg": "mean", "none": "attention pooling"}[visual.pool_type]
    if visual.attn_pool is not None:
        pooling = "attention pooling"
    return {"dim": visual.positional_embedding.shape[-1], "heads": _heads(visual.transformer), "pooling": pooling}


def _heads(transformer: Any) -> int:
    return int(transformer.resblocks[0].attn.num_heads)


def _text_tower(facts: dict[str, Any], network: Any, length: int, tokenizer: LazyTokenizer) -> Encoder:
    from open_clip.hf_model import HFTextEncoder

    text = network.text
    common: dict[str, Any] = {**facts, "modality": "text", "input_size": (length,)}
    if isinstance(text, HFTextEncoder):
        settings = text.config
        heads, width = getattr(settings, "num_attention_heads", 0), getattr(settings, "hidden_size", text.output_dim)
        pooling = "cls" if hasattr(text.pooler, "cls_token_position") else type(text.pooler).__name__
        return BertTower(EncoderSpec(**common, dim=width, heads=heads, pooling=pooling), text, tokenizer)
    rules = {"argmax": "end-of-text token", "eos": "end-of-text token", "first": "cls", "last": "last position"}
    if text.cls_emb is None and text.pool_type not in rules:
        raise IncompatibleError(f"encoder {facts['name']}: its text tower pools nothing")
    pooling = rules[text.pool_type] if text.cls_emb is None else "appended CLS"
    spec = EncoderSpec(**common, dim=text.width, heads=_heads(text.transformer), pooling=pooling)
    return TextTower(spec, text, tokenizer)


def _assemble(
    model: str, network: Any, described: Mapping[str, Any], source: str | Path, place: str | None
) -> DualEncoder:
    name = f"open_clip:{model}"
    facts: dict[str, Any] = {"name": name, "licence": "Apache-2.0", "cohorts": (), "weights": "random"}
    if source != "random":
        facts |= {"licence": LICENCES.get(model, "see the model card"), "cohorts": COHORTS.get(model, ())}
    transform, chosen = _transform(network, described)
    text = described["model_cfg"]["text_cfg"]
    hub = place or text.get("hf_tokenizer_name")
    remote = hub is not None and not Path(hub).exists()
    words = LazyTokenizer(name, partial(_read_tokenizer, model, text, place), remote=remote)
    towers = {
        "image": _image_tower(facts, network, transform, chosen),
        "text": _text_tower(facts, network, int(text.get("context_length", 77)), words),
    }
    joined = towers["image"].spec.model_copy(update={"modality": "image+text"})
    return DualEncoder(joined, towers, float(network.logit_scale.detach().exp()))
