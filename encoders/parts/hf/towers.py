"""Towers around transformers models: where their attention lies, and vision and text models run as encoders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.encoder import EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders.parts.loading import LazyTokenizer, LibraryText, StagedEncoder, intensity, raw_image, real_until
from medgraft.errors import ConfigError
from medgraft.features import Features

QUERY_KEY_VALUE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))


def find_layers(model: nn.Module) -> str:
    """Path of the list of transformer layers; its place differs between families and versions of the library."""
    for path in ("layers", "encoder.layers", "encoder.layer"):
        try:
            model.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise ConfigError(f"{type(model).__name__} keeps its transformer layers at a place that medgraft does not know")


def split_layouts(model: nn.Module, layers: str, heads: int, root: str = "model") -> list[AttentionLayout]:
    """Layouts of attentions with three linears, which the library calls either ``q_proj`` or ``query``.

    Args:
        model: The library's model.
        layers: Path of the list of layers inside it.
        heads: Number of heads.
        root: Path of the model inside the encoder.

    Returns:
        One per layer, or none at all if one layer's attention is of another kind.
    """
    layouts = []
    stack = model.get_submodule(layers)
    for index, layer in enumerate(stack.children()):
        split = [
            (path, names)
            for path, module in layer.named_modules()
            for names in QUERY_KEY_VALUE
            if all(isinstance(getattr(module, name, None), nn.Linear) for name in names)
        ]
        if len(split) != 1:
            return []
        inner, (q, k, v) = split[0]
        attn: Any = layer.get_submodule(inner)
        width, keys, values = (getattr(attn, name).out_features for name in (q, k, v))
        if keys != values:
            return []
        path, out = f"{root}.{layers}.{index}.{inner}", _output(layer, inner)
        layouts.append(
            AttentionLayout(
                "split",
                f"{path}.{q}",
                heads=heads,
                dim=width,
                key_path=f"{path}.{k}",
                value_path=f"{path}.{v}",
                out_path=f"{root}.{layers}.{index}.{out}" if out else "",
                kv_dim=None if keys == width else keys,
            )
        )
    return layouts


def _output(layer: nn.Module, attention: str) -> str:
    """Path of the output projection beside an attention's three linears."""
    modules = dict(layer.named_modules())
    above = attention.rpartition(".")[0]
    places = (f"{attention}.o_proj", f"{attention}.out_proj", f"{above}.output.dense")
    return next((path for path in places if isinstance(modules.get(path), nn.Linear)), "")


class PilProcessor:
    """A transformers image processor as a function from a PIL image to a prepared tensor ``[channels, H, W]``.

    Args:
        processor: The library's.
        channels: 1 or 3, those of the images; for one, the mean and deviation of three are averaged.
    """

    def __init__(self, processor: Any, channels: int = 3) -> None:
        self.processor = processor
        self.channels = channels
        self.output_shape: tuple[int, ...] | None = None
        if channels == 1:
            for name in ("image_mean", "image_std"):
                values = getattr(processor, name, None)
                if isinstance(values, list | tuple) and values:
                    setattr(processor, name, [sum(values) / len(values)])
            for name in ("do_convert_rgb", "do_grayscale"):
                if getattr(processor, name, None):
                    setattr(processor, name, False)

    def __call__(self, image: Any) -> Tensor:
        """Image -> ``float32 [channels, H, W]``, resized, cropped and scaled as the processor says."""
        if self.channels == 1:
            image = np.array(image)[None]  # the library takes channels of arrays at their word
            return self.processor(images=image, return_tensors="pt", input_data_format="channels_first")[
                "pixel_values"
            ][0]
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what it returns; ``None`` where it keeps the aspect of an image."""
        if self.output_shape is not None:
            return self.output_shape[0], self.output_shape[1]
        size = self.processor.crop_size if getattr(self.processor, "do_center_crop", False) else self.processor.size
        height, width = getattr(size, "height", None), getattr(size, "width", None)
        return (height, width) if height and width else None

    @property
    def intensity(self) -> str:
        """What the values of a prepared image mean."""
        return intensity(self.processor.image_mean, self.processor.image_std)


class VisionTower(StagedEncoder):
    """A ViT, DINOv2, CLIP or SigLIP vision model, layer by layer.

    CLIP's tokens go through the norm that the library applies to the CLS token alone, so that all of them can be
    projected.

    Args:
        spec: Facts.
        model: The library's vision model.
        transform: PIL image -> prepared tensor.
        projection: Into the space shared with text, if there is one.
    """

    def __init__(
        self, spec: EncoderSpec, model: Any, transform: Callable[[Any], Tensor], projection: nn.Module | None = None
    ) -> None:
        super().__init__(spec)
        self.model: Any = model
        self.transform = transform
        self.projection = projection
        self.has_cls = hasattr(model.embeddings, "cls_token") or hasattr(model.embeddings, "class_embedding")
        self.n_prefix = int(self.has_cls) + int(getattr(model.config, "num_register_tokens", 0))
        layers = find_layers(model)
        stack = list(model.get_submodule(layers).children())
        self.takes_mask = "attention_mask" in inspect.signature(stack[0].forward).parameters
        self.set_blocks([f"model.{layers}.{i}" for i in range(len(stack))])
        self.attention = split_layouts(model, layers, spec.heads)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` -> ``float32 [channels, H', W']`` by the model's image processor."""
        return self.transform(raw_image(raw, self.spec.channels))

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with text, ``[..., C] -> [..., E]``.

        The identity where pooling already ends there (SigLIP) or there is none.
        """
        return tokens if self.projection is None else self.projection(tokens)

    def embed(self, x: Tensor) -> Tensor:
        """Patches with prefix tokens and positions, ``[B, N, C]``."""
        x = self.model.embeddings(x)
        return self.model.pre_layrnorm(x) if hasattr(self.model, "pre_layrnorm") else x

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Runs layers ``first`` to ``stop - 1``, ``[B, N, C] -> [B, N, C]``."""
        for path in self._paths[first:stop]:
            layer = self.get_submodule(path)
            out = layer(x, attention_mask=None) if self.takes_mask else layer(x)
            x = out[0] if isinstance(out, tuple) else out
        return x

    def pool(self, x: Tensor) -> Features:
        """Final norm of ``[B, N, C]``; ``pooled``, ``[B, C]``, is CLS, SigLIP's attention pooling, or the mean."""
        model = self.model
        tokens = (model.layernorm if hasattr(model, "layernorm") else model.post_layernorm)(x)
        head = getattr(model, "head", None)
        if self.has_cls:
            pooled = tokens[:, 0]
        else:
            pooled = tokens.mean(dim=1) if head is None else head(tokens)
        height, width = pair(model.config.patch_size)
        grid = (self.spec.input_size[0] // height, self.spec.input_size[1] // width)
        return Features(tokens, pooled, self.n_prefix, grid)


class TextTower(LibraryText):
    """The text model of CLIP (pooled at the end-of-text token) or SigLIP (pooled at the last position)."""

    has_cls = False

    def __init__(self, spec: EncoderSpec, model: Any, projection: nn.Module | None, tokenizer: LazyTokenizer) -> None:
        config = model.config
        self.ends_at_last = projection is None  # SigLIP keeps its projection inside the text model
        super().__init__(spec, tokenizer, int(config.pad_token_id if self.ends_at_last else _end(config)))
        self.model: Any = model
        self.projection = projection
        self.any_length = not self.ends_at_last  # CLIP reads forwards; SigLIP's attention reads padding like words
        layers = find_layers(model)
        self.set_blocks(f"model.{layers}")
        self.attention = split_layouts(model, layers, spec.heads)

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with images, ``[..., C] -> [..., E]``."""
        return (self.model.head if self.projection is None else self.projection)(tokens)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; the mask covers the text up to its end token."""
        result = self.model(input_ids=self.checked(x))
        tokens = result.last_hidden_state
        grid = (tokens.shape[1],)
        mask = self.real_tokens(x)
        if self.ends_at_last:
            return Features(tokens, tokens[:, -1], 0, grid, mask=mask)
        return Features(tokens, result.pooler_output, 0, grid, mask=mask)

    def real_tokens(self, ids: Tensor) -> Tensor:
        """``[B, L]``, true up to the end token; the same token, or another one, fills up what is behind it."""
        if not self.ends_at_last and self.model.config.eos_token_id == 2:
            # As the library does for checkpoints that carry this wrong id.
            places = torch.arange(ids.shape[1], device=ids.device)
            return places <= ids.argmax(dim=-1, keepdim=True)
        return real_until(ids, self.pad_id)


def _end(config: Any) -> int:
    return config.eos_token_id[0] if isinstance(config.eos_token_id, list | tuple) else config.eos_token_id


def pair(size: Any) -> tuple[int, int]:
    """Height and width of a size that a configuration may give as one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
