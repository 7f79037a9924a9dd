"""Towers around open_clip models: its own ViT and text transformer, and the transformers text models it embeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.attention import AttentionLayout
from medgraft.encoder import EncoderSpec
from medgraft.encoders.hf_towers import find_layers, split_layouts
from medgraft.encoders.loading import LazyTokenizer, LibraryText, StagedEncoder, real_until, rgb_image
from medgraft.errors import ConfigError
from medgraft.features import Features


class VisionTower(StagedEncoder):
    """open_clip's own ViT, block by block; its attention is ``nn.MultiheadAttention``.

    Args:
        spec: Facts.
        model: ``open_clip.transformer.VisionTransformer``.
        transform: PIL image -> prepared tensor.
    """

    def __init__(self, spec: EncoderSpec, model: Any, transform: Callable[[Any], Tensor]) -> None:
        super().__init__(spec)
        self.model: Any = model
        self.transform = transform
        self.set_blocks([f"model.transformer.resblocks.{i}" for i in range(len(model.transformer.resblocks))])
        self.attention = mha_layouts(model.transformer)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` -> ``float32 [3, H', W']`` by open_clip's evaluation transform."""
        return self.transform(rgb_image(raw))

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with text, ``[..., C] -> [..., D]``."""
        return tokens if self.model.proj is None else tokens @ self.model.proj

    def embed(self, x: Tensor) -> Tensor:
        """Patches with the CLS token and positions, ``[B, N, C]``."""
        return self.model._embeds(x)

    def pool(self, x: Tensor) -> Features:
        """The norm that the library gives the pooled token goes over all, so that all can be projected."""
        return Features(self.model.ln_post(x), self.model._pool(x)[0], 1, tuple(self.model.grid_size))


class TextTower(LibraryText):
    """open_clip's own text transformer, pooled at the end-of-text token or at the last position."""

    def __init__(self, spec: EncoderSpec, model: Any, tokenizer: LazyTokenizer) -> None:
        super().__init__(spec, tokenizer, model.pad_id)
        self.model: Any = model
        # With a causal mask the first token sees itself only, so its attention says nothing.
        self.has_cls = model.pool_type == "first" and model.attn_mask is None
        self.set_blocks("model.transformer.resblocks")
        self.attention = mha_layouts(model.transformer)

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with images, ``[..., C] -> [..., D]``."""
        projection = self.model.text_projection
        if projection is None:
            return tokens
        return projection(tokens) if isinstance(projection, nn.Module) else tokens @ projection

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; the mask covers the text up to its end token."""
        from open_clip.transformer import text_global_pool

        model = self.model
        tokens, attention_mask = model._embeds(self.checked(x))
        tokens = model.ln_final(model.transformer(tokens, attn_mask=attention_mask))
        pooled = text_global_pool(tokens, x, model.pool_type, eos_token_id=model.eos_id)
        n_prefix = int(self.has_cls)
        return Features(tokens, pooled, n_prefix, (tokens.shape[1] - n_prefix,), mask=self.mask(x))

    def mask(self, x: Tensor) -> Tensor:
        """``[B, L]``, true for the text and its end token. CLIP's padding 0 is also the token of ``!``."""
        if self.model.pool_type == "argmax":
            return torch.arange(x.shape[1], device=x.device) <= x.argmax(dim=-1, keepdim=True)
        return real_until(x, self.model.eos_id if self.model.pool_type == "eos" else self.model.pad_id)


class BertTower(LibraryText):
    """A transformers text model inside open_clip, such as BiomedCLIP's PubMedBERT, with its projection.

    Padding is masked in the attention, so a padded token has probability 0 and score ``-inf``.
    """

    def __init__(self, spec: EncoderSpec, model: Any, tokenizer: LazyTokenizer) -> None:
        super().__init__(spec, tokenizer, int(model.config.pad_token_id))
        self.model: Any = model
        self.has_cls = hasattr(model.pooler, "cls_token_position")
        try:
            layers = find_layers(model.transformer)
            self.set_blocks(f"model.transformer.{layers}")
            self.attention = split_layouts(model.transformer, layers, spec.heads, "model.transformer")
        except ConfigError:  # T5 and its kind: features only
            self.attention = ()

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with images, ``[..., C] -> [..., D]``."""
        return self.model.proj(tokens)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; ``pooled`` by open_clip's pooler, before the projection."""
        mask = self.checked(x) != self.pad_id
        result = self.model.transformer(input_ids=x, attention_mask=mask.long())
        pooled = self.model.pooler(result, mask.long())
        n_prefix = int(self.has_cls)
        grid = (x.shape[1] - n_prefix,)
        return Features(result.last_hidden_state, pooled, n_prefix, grid, mask=mask)


def mha_layouts(transformer: Any) -> list[AttentionLayout]:
    """One layout per block, or none at all if the blocks use open_clip's own attention instead of PyTorch's."""
    layouts = []
    for index, block in enumerate(transformer.resblocks):
        attn = block.attn
        if not isinstance(attn, nn.MultiheadAttention):
            return []
        path = f"model.transformer.resblocks.{index}.attn"
        layouts.append(AttentionLayout("mha", path, attn.num_heads, attn.embed_dim, batch_first=attn.batch_first))
    return layouts
