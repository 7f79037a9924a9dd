"""Encoders from timm: every model as a feature extractor, its ViT and EVA families block by block.

``timm:vit_base_patch16_224``, with a tag (``timm:vit_base_patch14_dinov2.lvd142m``) or by hub id
(``timm:hf-hub:timm/...``). Grey images are repeated over the three channels and go through the model's own
evaluation transform.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders.parts.hub import demand, fetching
from medgraft.encoders.parts.loading import (
    StagedEncoder,
    check_channels,
    finish,
    intensity,
    options_of,
    origin,
    raw_image,
    seeded,
)
from medgraft.encoders.parts.timm_files import OtherPadding, grey, load, quick_gelu, reshape_published
from medgraft.errors import CheckpointError, ConfigError, UnknownNameError
from medgraft.features import Features
from medgraft.sources import Source, check_hub_id, check_weights

logger = logging.getLogger(__name__)


class TimmFeatures(StagedEncoder):
    """Any timm model, run whole: ``forward_features`` for the tokens, its own pooling for ``pooled``.

    Args:
        spec: Facts.
        model: The timm model, without a classifier.
        transform: PIL image -> prepared tensor.
        head: Projection into a shared space, where a CLIP model adds one behind the trunk.
    """

    has_cls = False

    def __init__(
        self, spec: EncoderSpec, model: nn.Module, transform: Callable[[Any], Tensor], head: nn.Module | None = None
    ) -> None:
        super().__init__(spec)
        _fold_biases(model)
        _keep_no_biases(model)
        self.model: Any = model
        self.transform = transform
        self.head = head

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` -> ``float32 [channels, H', W']`` by the model's evaluation transform."""
        return self.transform(raw_image(raw, self.spec.channels))

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with text, ``[..., C] -> [..., E]``; the identity without one."""
        if self.head is None:
            return tokens
        # open_clip may let the trunk's classifier be the projection, and have nothing behind it.
        return self.head(self.model.get_classifier()(tokens) if self.model.num_classes else tokens)

    def embed(self, x: Tensor) -> Tensor:
        """Runs the whole trunk on ``[B, channels, H, W]``.

        Returns:
            Tokens ``[B, N, C]`` or a feature map ``[B, C, H', W']`` or ``[B, H', W', C]``, as the model lays them out.
        """
        features = self.model.forward_features(x)
        if not isinstance(features, Tensor):
            raise ConfigError(
                f"encoder {self.spec.name}: forward_features returns a {type(features).__name__}, not one tensor"
            )
        return features

    def pool(self, x: Tensor) -> Features:
        """Flattens a feature map ``[B, C, H, W]`` or ``[B, H, W, C]``; tokens ``[B, N, C]`` stay as they are."""
        pooled = self.model.forward_head(x, pre_logits=True)
        if x.ndim == 3:
            n_prefix = int(getattr(self.model, "num_prefix_tokens", 0))
            return Features(x, pooled, n_prefix, _grid(self.model, x.shape[1] - n_prefix))
        first = getattr(self.model, "output_fmt", "NCHW" if x.shape[1] == self.spec.dim else "NHWC") == "NCHW"
        tokens = x.flatten(2).transpose(1, 2) if first else x.flatten(1, 2)
        return Features(tokens, pooled, 0, tuple(x.shape[2:] if first else x.shape[1:3]))


def _grid(model: Any, n_tokens: int) -> tuple[int, ...]:
    grid = tuple(getattr(getattr(model, "patch_embed", None), "grid_size", None) or ())
    side = round(n_tokens**0.5)
    if len(grid) == 2 and grid[0] * grid[1] == n_tokens:
        return grid
    return (side, side) if side * side == n_tokens else (n_tokens,)


class TimmViT(TimmFeatures):
    """timm's ``VisionTransformer`` and ``Eva`` families, block by block."""

    def __init__(
        self, spec: EncoderSpec, model: nn.Module, transform: Callable[[Any], Tensor], head: nn.Module | None = None
    ) -> None:
        super().__init__(spec, model, transform, head)
        self.has_cls = getattr(model, "cls_token", None) is not None
        self.rotary = getattr(model, "rope", None) is not None
        self.set_blocks([f"model.blocks.{i}" for i in range(len(self.model.blocks))])
        self.attention = _layouts(self)

    def rope(self, index: int) -> Tensor | None:
        """Rotation of queries and keys in block ``index``; ``None`` where positions are only added.

        Sines, then cosines, of ``N`` patches: ``[N, 2 head_dim]``, or ``[heads, N, 2 head_dim]`` if heads differ.
        """
        if not self.rotary:
            return None
        embedding = self._rope()
        return embedding[index] if getattr(self.model, "rope_mixed", False) else embedding

    def _rope(self) -> Tensor:
        grid = list(self.grid)
        cached = not self.model.dynamic_img_size and hasattr(self.model.rope, "feat_shape")
        return self.model.rope.get_embed() if cached else self.model.rope.get_embed(shape=grid)

    def embed(self, x: Tensor) -> Tensor:
        """Patches with prefix tokens and positions, ``[B, N, C]``."""
        x = self.model._pos_embed(self.model.patch_embed(x))
        return self.model.norm_pre(x[0] if isinstance(x, tuple) else x)

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Blocks ``first`` to ``stop - 1``, ``[B, N, C] -> [B, N, C]``; a rotation that all share is made once."""
        blocks = self.model.blocks
        if not self.rotary:
            for i in range(first, stop):
                x = blocks[i](x)
            return x
        rope, mixed = self._rope(), getattr(self.model, "rope_mixed", False)
        for i in range(first, stop):
            x = blocks[i](x, rope=rope[i] if mixed else rope)
        return x

    def pool(self, x: Tensor) -> Features:
        """Final norm of ``[B, N, C]`` and the model's own pooling, ``[B, C]``."""
        tokens = self.model.norm(x)
        pooled = self.model.forward_head(tokens, pre_logits=True)
        return Features(tokens, pooled, self.model.num_prefix_tokens, self.grid)

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of patches in a prepared image; a model may take images of other sizes than its own."""
        patches = self.model.patch_embed
        if getattr(self.model, "dynamic_img_size", False):
            return tuple(patches.dynamic_feat_size(self.spec.input_size))
        return tuple(patches.grid_size)


def is_staged(model: nn.Module) -> bool:
    """Whether the model runs exactly as :class:`TimmViT` runs it."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    families = (VisionTransformer.forward_features, Eva.forward_features)
    return isinstance(model, VisionTransformer | Eva) and type(model).forward_features in families


def _fold_biases(model: nn.Module) -> None:
    """Moves the separate ``q_bias`` and ``v_bias`` of BEiT, EVA and Swin V2 into their packed linears.

    timm then applies ``F.linear`` to the weight of ``qkv`` and never calls the module, so an adapter there would be
    dead and no hook would see a query. With the bias in the module, timm calls it; the function is the same.
    """
    for module in model.modules():
        attn: Any = module
        if getattr(attn, "q_bias", None) is None or not isinstance(getattr(attn, "qkv", None), nn.Linear):
            continue
        if attn.qkv.bias is None:
            bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]).detach()
            attn.qkv.bias = nn.Parameter(bias)
            attn.q_bias = attn.k_bias = attn.v_bias = None


def _keep_no_biases(model: nn.Module) -> None:
    """Lets LeViT and its kin read their position biases anew in each run.

    In evaluation mode timm keeps the gathered ones, which are then those of the weights before: an adapter that trains
    them would train nothing, and they would outlive ``ungraft()``.
    """
    for module in model.modules():
        if hasattr(module, "attention_bias_cache"):
            module.register_forward_pre_hook(_forget_biases)


def _forget_biases(module: Any, args: Any) -> None:
    module.attention_bias_cache = {}


class QueryKey:
    """What a timm attention does to ``q`` and ``k``, ``[B, heads, N, head_dim]``, before it multiplies them."""

    def __init__(self, encoder: TimmViT, index: int) -> None:
        self.encoder = encoder
        self.index = index

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Per-head norms of ``[B, heads, N, head_dim]``, then the rotation of all but the prefix tokens."""
        attn: Any = self.encoder.model.blocks[self.index].attn
        q, k = attn.q_norm(q), attn.k_norm(k)
        rope = self.encoder.rope(self.index)
        return (q, k) if rope is None else (_rotate(attn, q, rope), _rotate(attn, k, rope))


def _rotate(attn: Any, x: Tensor, rope: Tensor) -> Tensor:
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    prefix, rest = x[:, :, : attn.num_prefix_tokens], x[:, :, attn.num_prefix_tokens :]
    half = getattr(attn, "rotate_half", False)
    return torch.cat([prefix, apply_rot_embed_cat(rest, rope, half=half)], dim=2).type_as(x)


def _layouts(encoder: TimmViT) -> list[AttentionLayout]:
    """One layout per block, or none at all if one block's attention is of a kind that a layout cannot describe."""
    from timm.layers.attention import Attention, AttentionRope
    from timm.models.eva import EvaAttention

    layouts = []
    for index, block in enumerate(encoder.model.blocks):
        attn: Any = getattr(block, "attn", None)
        supported = type(attn) in (Attention, AttentionRope, EvaAttention)
        if not supported or getattr(attn, "num_kv_groups", 1) > 1:
            return []
        plain = not encoder.rotary and isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)
        path = f"model.blocks.{index}.attn"
        common: dict[str, Any] = {
            "heads": attn.num_heads,
            "dim": attn.num_heads * attn.head_dim,
            "out_path": f"{path}.proj",
            "scale": attn.scale,
            "transform": None if plain else QueryKey(encoder, index),
        }
        if attn.qkv is not None:
            layouts.append(AttentionLayout("packed", f"{path}.qkv", **common))
        else:
            keys = {"key_path": f"{path}.k_proj", "value_path": f"{path}.v_proj"}
            layouts.append(AttentionLayout("split", f"{path}.q_proj", **keys, **common))
    return layouts


def wrap(
    name: str,
    model: Any,
    transform: Callable[[Any], Tensor],
    size: Sequence[int],
    meaning: str,
    licence: str,
    head: nn.Module | None = None,
    channels: int = 3,
) -> TimmFeatures:
    """A timm model as an encoder.

    Args:
        name: Full name of the encoder.
        model: The model, without a classifier.
        transform: PIL image -> prepared tensor ``float32 [channels, H, W]``.
        size: Height and width of a prepared image.
        meaning: What the values of a prepared image mean.
        licence: Licence of the weights.
        head: Projection into a shared space, if there is one.
        channels: Of a prepared image, 1 or 3.
    """
    staged = is_staged(model)
    pooling = _pooling(model)
    if pooling == "none":
        raise ConfigError(f"encoder {name} pools nothing; give global_pool='avg' or another rule of timm's")
    heads = int(getattr(getattr(model.blocks[0], "attn", None), "num_heads", 0)) if staged else 0
    spec = EncoderSpec(
        name=name,
        modality="image",
        input_size=tuple(size),
        channels=channels,
        intensity=meaning,
        dim=int(model.num_features),
        heads=heads,
        pooling=pooling,
        licence=licence,
        weights="random",
    )
    if staged:
        return TimmViT(spec, model, transform, head)
    encoder = TimmFeatures(spec, model, transform, head)
    encoder.any_size = not model.pretrained_cfg.get("fixed_input_size", False)
    return encoder


def _pooling(model: Any) -> str:
    if hasattr(model, "dist_token"):  # two heads, whose inputs are averaged where there is no head
        return "mean of CLS and distillation token"
    kind = getattr(model, "global_pool", None)
    if not isinstance(kind, str):  # CNN heads keep it deeper
        kind = getattr(getattr(getattr(model, "head", None), "global_pool", kind), "pool_type", "avg")
    names = {"token": "cls", "avg": "mean", "map": "attention pooling", "": "none"}
    return names.get(kind, kind)


def _near(name: str, names: Sequence[str]) -> list[str]:
    """Names worth suggesting; the families if none is near, since timm knows more than a thousand."""
    import difflib

    return difflib.get_close_matches(name, names, n=3, cutoff=0.5) or list(TimmSource.models())


def _check_name(model: str) -> None:
    import timm

    if ":" in model:
        return
    architecture, _, tag = model.partition(".")
    remedy = "Every name of timm.list_models() and every hub id behind 'hf-hub:' is accepted."
    if not timm.is_model(architecture):
        raise UnknownNameError("timm model", model, _near(architecture, timm.list_models()), remedy)
    tagged = timm.list_pretrained(f"{architecture}.*") if tag else []
    if tag and model not in tagged:
        raise UnknownNameError("timm model", model, tagged or [architecture], "The part after the dot names weights.")


def _url(model: str) -> str | None:
    """Where a model's weights lie, if not on the hub."""
    import timm

    pretrained_cfg = None if ":" in model else timm.get_pretrained_cfg(model)
    url = None if pretrained_cfg is None or pretrained_cfg.hf_hub_id else pretrained_cfg.url
    return url[0] if isinstance(url, tuple) else url  # a tuple ends in the name that the file is kept by


class TimmSource(Source):
    """Entry point ``timm``."""

    name, hub_ids = "timm", True

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for a name that timm does not know, and for weights that are neither a keyword nor on this disk."""
        check_hub_id("timm", model.removeprefix("hf-hub:").removeprefix("hf_hub:"), prefixed=":" in model)
        if model not in TimmSource.models():
            _check_name(model)
        check_weights(f"timm:{model}", weights)

    @classmethod
    def models(cls) -> dict[str, str]:
        """A few families, with a line each; ``build`` takes every name of ``timm.list_models()``."""
        return {
            "vit_base_patch16_224": "ViT-B/16 and its sizes (tiny, small, base, large), patches and tags",
            "vit_base_patch14_dinov2": "DINOv2 at 518 x 518, also with registers (vit_base_patch14_reg4_dinov2)",
            "vit_base_patch16_dinov3": "DINOv3 with rotary positions at 256 x 256",
            "eva02_tiny_patch14_224": "EVA-02 with rotary positions and split projections",
            "deit3_base_patch16_224": "DeiT III",
            "resnet50": "ResNet and every other CNN of timm, as a feature map",
            "convnext_tiny": "ConvNeXt, as a feature map",
            "swin_tiny_patch4_window7_224": "Swin, as a feature map",
        }

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        weights_grid: Sequence[int] | None = None,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder.

        Args:
            model: Name of a timm model, with or without a tag, or ``hf-hub:owner/name``.
            weights: ``"default"`` for timm's pre-trained ones, ``"random"``, or a local file.
            sha256: Expected digest of the local file.
            weights_grid: Rows and columns of patches that the positions of a local file were trained on, where they
                are not the model's and neither the file nor a ``config.json`` beside it says so.
            **options: Passed to ``timm.create_model``, for example ``img_size``, or ``in_chans=1`` for grey images.

        Raises:
            UnknownNameError: timm has no such model or tag.
            ConfigError: An option does not fit the model.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        if model.partition(":")[0] in ("hf-hub", "hf_hub"):
            demand(f"timm:{model}", model.partition(":")[2])
        import timm
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform

        name, source = f"timm:{model}", origin(weights, sha256)
        _check_name(model)
        channels = int(options.get("in_chans", 3))
        check_channels(name, channels)
        quick = quick_gelu(model, source, sha256, options)
        create = partial(timm.create_model, model, num_classes=0, **options, **quick)
        remote = source == "default" or ":" in model
        if source == "default" and ":" not in model and (url := _url(model)):
            demand(name, url)
        with seeded(), fetching(name, url=_url(model)) if remote else options_of(name):
            network: Any = create(pretrained=source == "default")
        if isinstance(source, Path):
            try:
                load(network, source, sha256, weights_grid)
            except CheckpointError as error:
                model = f"tf_{model}"
                if not isinstance(error.__cause__, OtherPadding) or not timm.is_model(model):
                    raise
                logger.info("%s was trained with TensorFlow's padding, so the network is timm's %s", source, model)
                name, network = f"timm:{model}", timm.create_model(model, num_classes=0, **options)
                load(network, source, sha256, weights_grid)
        elif source == "default":
            reshape_published(network)
        facts = network.pretrained_cfg
        size = options.get("img_size") or getattr(getattr(network, "patch_embed", None), "img_size", None)
        size = (size, size) if isinstance(size, int) else tuple(size or facts["input_size"][1:])
        data = resolve_data_config({"input_size": (3, *size)}, model=network)
        if channels == 1:
            data = grey(data | {"input_size": (1, *size)})
        transform: Any = create_transform(**data, is_training=False)
        licence = {"default": facts.get("license") or "unknown", "random": "Apache-2.0"}.get(str(source), "unknown")
        meaning = intensity(data["mean"], data["std"])
        return finish(wrap(name, network, transform, size, meaning, licence, channels=channels), source)
