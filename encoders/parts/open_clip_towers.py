"""Towers around open_clip models: its own ViT and text transformer, and the transformers text models it embeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import EncoderSpec
from medgraft.encoder.attention import AttentionLayout, attend
from medgraft.encoders.parts.hf.text import reads_any_length
from medgraft.encoders.parts.hf.towers import find_layers, split_layouts
from medgraft.encoders.parts.loading import LazyTokenizer, LibraryText, StagedEncoder, real_until, rgb_image
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
        """Into the space shared with text, ``[..., C] -> [..., E]``.

        Where attention pooling changes the width, a token goes the way that a sample of that token alone goes: with one
        key, every query gets its value.
        """
        pooler = self.model.attn_pool
        if pooler is not None and tokens.shape[-1] == self.spec.dim != self._pooled_width:
            tokens = alone(pooler.attn, tokens if self._one_pooler else pooler.ln_k(tokens))
            if self._one_pooler:
                tokens = self.model.ln_post(tokens)
            elif self.model.attn_pool_type == "cascade":
                tokens = alone(self.model.attn_pool_contrastive.attn, self.model.attn_pool_contrastive.ln_k(tokens))
        return tokens if self.model.proj is None else tokens @ self.model.proj

    @property
    def _one_pooler(self) -> bool:
        """One attention pooling in front of the last norm, as in CoCa's published weights, or none at all."""
        return getattr(self.model, "attn_pool_contrastive", None) is None

    @property
    def _pooled_width(self) -> int:
        return int(self.model.ln_post.normalized_shape[0]) if self._one_pooler else self.model.output_dim

    def embed(self, x: Tensor) -> Tensor:
        """Patches with the CLS token and positions, ``[B, N, C]``."""
        return self.model._embeds(x)

    def pool(self, x: Tensor) -> Features:
        """The norm that the library gives the pooled token goes over all, so that all can be projected.

        ``[B, N, C]`` -> tokens ``[B, N, C]`` and ``pooled`` ``[B, C']``, which may have another width where attention
        pools. In front of an attention pooling, it is the norm that the pooling gives its keys.
        """
        model = self.model
        pooled = model._pool(x)[0]
        norm = model.ln_post if model.attn_pool is None or not self._one_pooler else model.attn_pool.ln_k
        return Features(norm(x), pooled.flatten(1), 1, tuple(model.grid_size))


def alone(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """What attention gives any query where ``x``, ``[..., C]``, is the only key."""
    width = attention.embed_dim
    weight = attention.v_proj_weight if attention.in_proj_weight is None else attention.in_proj_weight[-width:]
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[-width:]
    return attention.out_proj(F.linear(x, weight, bias))


class CalledPool(nn.Module):
    """Attention pooling of a feature map, the same as open_clip's, whose linears are called.

    The library hands their weights to a function, past every hook, and computes a row for each place to keep the first.

    Args:
        pool: ``open_clip.modified_resnet.AttentionPool2d``; its parameters keep their names.
    """

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.num_heads = pool.num_heads
        self.positional_embedding = pool.positional_embedding
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` -> ``[B, E]``."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding.to(x.dtype)
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        q, k, v = (each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for each in (q, k, v))
        return self.c_proj(attend(q, k, v).transpose(1, 2).flatten(2))[:, 0]


class ResNetTower(StagedEncoder):
    """open_clip's ResNet (RN50 and its kin) by its four stages; its feature map is pooled by attention.

    Args:
        spec: Facts.
        model: ``open_clip.modified_resnet.ModifiedResNet``.
        transform: PIL image -> prepared tensor.
    """

    has_cls = False

    def __init__(self, spec: EncoderSpec, model: Any, transform: Callable[[Any], Tensor]) -> None:
        super().__init__(spec)
        self.model: Any = model
        if not isinstance(model.attnpool, CalledPool):
            model.attnpool = CalledPool(model.attnpool)
        self.transform = transform
        self.set_blocks([f"model.layer{i}" for i in (1, 2, 3, 4)])

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` -> ``float32 [3, H', W']`` by open_clip's evaluation transform."""
        return self.transform(rgb_image(raw))

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with text: pooled features lie there; a cell goes as a map of that cell alone.

        ``[..., C] -> [..., E]`` for cells, ``[..., E]`` as it is.
        """
        pool = self.model.attnpool
        return pool.c_proj(pool.v_proj(tokens)) if tokens.shape[-1] == self.spec.dim else tokens

    def embed(self, x: Tensor) -> Tensor:
        """The stem of three convolutions and a pooling, ``[B, 3, H, W] -> [B, C, H / 4, W / 4]``."""
        return self.model.stem(x)

    def pool(self, x: Tensor) -> Features:
        """Cells of the last map ``[B, H W, C]``, and its attention pooling ``[B, E]``."""
        return Features(x.flatten(2).transpose(1, 2), self.model.attnpool(x), 0, tuple(x.shape[2:]))


class TextTower(LibraryText):
    """open_clip's own text transformer, pooled at the end-of-text token or at the last position."""

    def __init__(self, spec: EncoderSpec, model: Any, tokenizer: LazyTokenizer) -> None:
        super().__init__(spec, tokenizer, model.pad_id)
        self.model: Any = model
        # With a causal mask the first token sees itself only, so its attention says nothing.
        self.has_cls = model.pool_type == "first" and model.attn_mask is None and model.cls_emb is None
        # Causal, no token sees the padding behind it; read both ways, padding is read like words. CoCa's CLS has the
        # place behind the padding, and "last" pools there.
        self.any_length = (
            model.attn_mask is not None and model.cls_emb is None and model.pool_type in ("argmax", "eos", "first")
        )
        self.set_blocks("model.transformer.resblocks")
        self.attention = mha_layouts(model.transformer)

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with images, ``[..., C] -> [..., E]``."""
        projection = self.model.text_projection
        if projection is None:
            return tokens
        return projection(tokens) if isinstance(projection, nn.Module) else tokens @ projection

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; the mask covers the text up to its end token."""
        from open_clip.transformer import text_global_pool

        model = self.model
        tokens, attention_mask = model._embeds(self.checked(x))
        if attention_mask is not None:  # the library's causal one is as large as the context
            attention_mask = attention_mask[..., : tokens.shape[1], : tokens.shape[1]]
        tokens = model.ln_final(model.transformer(tokens, attn_mask=attention_mask))
        if model.cls_emb is not None:  # CoCa's CLS is the last token, behind the padding, and stands for no word
            return Features(tokens[:, :-1], tokens[:, -1], 0, (x.shape[1],), mask=self.real_tokens(x))
        pooled = text_global_pool(tokens, x, model.pool_type, eos_token_id=model.eos_id)
        n_prefix = int(self.has_cls)
        return Features(tokens, pooled, n_prefix, (tokens.shape[1] - n_prefix,), mask=self.real_tokens(x))

    def real_tokens(self, ids: Tensor) -> Tensor:
        """``[B, L]``, true for the text and its end token. CLIP's padding 0 is also the token of ``!``."""
        x = ids
        if self.model.cls_emb is not None:
            # What the attention reads: weights that were published have the mask one place too far to the right.
            real = x != self.model.pad_id
            first = torch.ones_like(real[:, :1])
            return real if self.model.correct_cls_mask else torch.cat([first, real[:, :-1]], dim=1)
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
        # The library's max pooling takes padding for words.
        pools = self.has_cls or type(model.pooler).__name__ == "MeanPooler"
        self.any_length = pools and reads_any_length(model.config)
        try:
            layers = find_layers(model.transformer)
            self.set_blocks(f"model.transformer.{layers}")
            self.attention = split_layouts(model.transformer, layers, spec.heads, "model.transformer")
        except ConfigError:  # T5 and its kind: features only
            self.attention = ()

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with images, ``[..., C] -> [..., E]``."""
        return self.model.proj(tokens)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; ``pooled`` by open_clip's pooler, before the projection."""
        mask = self.real_tokens(self.checked(x))
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
