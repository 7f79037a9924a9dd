"""``inflate3d``: a frozen 2D ViT reads volumes, slice by slice below and across slices above, without a new parameter.

Yu et al., "TGH-MoE" (arXiv 2604.10233), turn a 2D vision encoder into a 3D one: the volume becomes a sequence of
slices, only the higher blocks attend in 3D, slices get rotary positions (Su et al., 2021, arXiv 2104.09864), and every
pre-trained parameter is reused. The paper's text gives no formula; the following is our definition of it.

- Blocks ``l < depth_2d`` attend within a slice. Blocks ``l >= depth_2d`` attend over the tokens of all slices, or of
  ``window`` neighbouring ones, with the same projections.
- There, behind whatever the library does to queries and keys, both are turned by the index ``s`` of their slice: pair
  ``(2i, 2i + 1)`` of a head of width ``d`` by the angle ``s * 10000 ** (-2 i / d)``.
- Positions in the plane and the prefix tokens (CLS, registers) of each slice stay as they are.

A single slice thus gives the 2D model's output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.checkpoints.weights import read_weights
from medgraft.encoder import DualEncoder, Encoder, EncoderSpec
from medgraft.encoder.attention import capture_cls_rows
from medgraft.encoders.parts.loading import origin
from medgraft.encoders.parts.slice_attention import Inflation, SliceAttention, Turned
from medgraft.encoders.slices import pad_slices, take_slices
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.features import Features
from medgraft.options import as_text, checked, from_text
from medgraft.sources import Source


class InflatedEncoder(Encoder):
    """A 2D ViT on volumes ``[B, C, S, H, W]``; use :func:`inflate` to make one.

    Blocks run on slices, ``[B * S, N, C]`` with the slices of a sample one after another, and so do adapters inside
    them. Features hold the prefix tokens of all slices, then the patches on a grid ``(S, h, w)``; ``pooled`` is the
    mean over slices of the 2D encoder's own. A slice that is NaN all over is padding: it is masked, no other token
    depends on it, and it takes no part in ``pooled``.

    ``cls_scores`` are averaged over the CLS tokens that see a place, and ``cls_probs`` over all, as ``pooled`` is.

    Args:
        plane: The 2D encoder; its modules become part of this one.
        options: See :class:`Inflation`.
    """

    def __init__(self, plane: Encoder, options: Inflation) -> None:
        blocks = len(plane.attention)
        depth_2d = blocks // 2 if options.depth_2d is None else options.depth_2d
        self.options = options = options.model_copy(update={"depth_2d": depth_2d})
        super().__init__(_spec_of(plane, options))
        self.plane = plane
        self.depth_2d = depth_2d
        self.sliced = options.slices
        self.real_slices = None  # an attribute from the start, so that a run leaves no trace in the encoder
        self.n_stages, self.block_stages = plane.n_stages, plane.block_stages
        self.has_cls, self.rotary = plane.has_cls, plane.rotary
        paths = ("path", "key_path", "value_path", "out_path")
        self.attention = [
            dataclasses.replace(each, **{name: _inside(getattr(each, name)) for name in paths})
            for each in plane.attention
        ]

    def block_paths(self) -> Sequence[str]:
        """Module path of each block."""
        return [_inside(path) for path in self.plane.block_paths()]

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space that the 2D encoder shares with text, where there is one, ``[..., C] -> [..., E]``."""
        return self.plane.project(tokens)

    def prepare(self, raw: Any) -> Tensor:
        """Volume ``float32 [D, H, W]`` -> ``float32 [C, S, H', W']``: grey slices through the 2D encoder's own steps.

        Raises:
            DataError: It is no volume, or has no slice; see :func:`medgraft.encoders.slices.take_slices`.
        """
        options = self.options
        images = take_slices(raw, options.axis, options.slices, options.slice_spacing)
        return pad_slices(torch.stack([self.plane.prepare(image) for image in images], dim=1), options.slices)

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """The 2D encoder's hidden state of every slice, ``[B, S, N, C]``, NaN in padded slices."""
        if stop == 0:
            return x
        slices, real = self._slices(x, 0)
        with self._across(real):
            hidden = self.plane.prefix(slices, stop).unflatten(0, (-1, self.sliced))
        return hidden if real is None else hidden.masked_fill(~real[:, :, None, None], float("nan"))

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of a prepared batch ``[B, C, S, H, W]``, or of what :meth:`prefix` gave."""
        slices, real = self._slices(x, start)
        with self._across(real):
            return self._gather(self.plane.encode(slices, start=start), real)

    def forward(self, x: Tensor | Features, *, scores: bool = False, start: int = 0) -> Features:
        """Encodes a batch; see :meth:`medgraft.encoder.Encoder.forward`."""
        if isinstance(x, Features) or not scores:
            return super().forward(x, start=start)
        if not (self.has_cls and self.attention):
            raise ConfigError(f"encoder {self.spec.name} has no CLS token, so it has no CLS attention scores")
        with capture_cls_rows(self, self.attention[-1]) as capture:
            features = self.encode(x, start=start)
        assert capture.query is not None and capture.key is not None
        real = (
            None if features.mask is None else features.mask[:, : features.n_prefix : features.n_prefix // self.sliced]
        )
        logits, probs = self._cls_rows(capture.query, capture.key, features.n_prefix // self.sliced, real)
        return features.replace(cls_scores=logits, cls_probs=probs)

    @property
    def visible(self) -> Tensor:
        """``[S, S]``, true where a token of the last block's slice ``s`` sees slice ``t``."""
        places = torch.arange(self.sliced, device=self.device)
        if self.depth_2d >= len(self.attention):
            return torch.eye(self.sliced, dtype=torch.bool, device=self.device)
        reach = self.sliced if self.options.window is None else self.options.window // 2
        return (places[:, None] - places).abs() <= reach

    def _cls_rows(self, q: Tensor, k: Tensor, n_prefix: int, real: Tensor | None) -> Turned:
        layout = self.plane.attention[-1]
        options = (
            self.options if self.depth_2d < len(self.attention) else self.options.model_copy(update={"rotary": False})
        )
        q, k = SliceAttention(layout, options, None).queries_and_keys(q, k)
        scale = layout.scale if layout.scale is not None else q.shape[-1] ** -0.5
        rows = torch.einsum("bhsd,bhtnd->bhstn", q[:, :, :, 0] * scale, k)
        real = torch.ones(len(q), self.sliced, dtype=torch.bool, device=q.device) if real is None else real
        seen = (self.visible & real[:, None] & real[:, :, None])[:, None, :, :, None]
        empty = ~real[:, None, :, None, None]
        rows_seen = rows.masked_fill(~seen, float("-inf")).masked_fill(empty, 0.0)
        probs = torch.softmax(rows_seen.flatten(3), dim=-1).view_as(rows).masked_fill(empty, 0.0)
        probs = probs.sum(dim=2) / real.sum(dim=1)[:, None, None, None]
        count = seen.sum(dim=2)
        logits = rows.masked_fill(~seen, 0.0).sum(dim=2) / count.clamp(min=1)
        logits = logits.masked_fill(count == 0, float("-inf"))
        return logits[..., n_prefix:].flatten(2), probs[..., n_prefix:].flatten(2)

    def _slices(self, x: Tensor, start: int) -> tuple[Tensor, Tensor | None]:
        """Slices ``[B * S, ...]`` with padding set to 0, and which are real, ``[B, S]`` or ``None`` for all."""
        spec = self.spec
        if start == 0:
            if x.ndim != 5 or tuple(x.shape[1:]) != (spec.channels, *spec.input_size):
                expected = ", ".join(map(str, ("B", spec.channels, *spec.input_size)))
                remedy = "use its prepare(), or pad_slices() for volumes of fewer slices"
                raise ConfigError(f"encoder {spec.name} takes [{expected}], got {list(x.shape)}; {remedy}")
            x = x.transpose(1, 2)
        elif x.ndim != 4 or x.shape[1] != self.sliced:
            raise ConfigError(f"encoder {spec.name} takes hidden states [B, {self.sliced}, N, C], got {list(x.shape)}")
        slices = x.flatten(0, 1)
        empty = slices.flatten(1)[:, 0].isnan()
        if self.options.slice_spacing is None and not bool(empty.any()):
            return slices, None
        real = ~empty.view(-1, self.sliced)
        if not bool(real.any(dim=1).all()):
            raise ConfigError(f"a volume has no slice at all: all {self.sliced} are padding")
        return slices.masked_fill(empty.view(-1, *[1] * (slices.ndim - 1)), 0.0), real

    @contextmanager
    def _across(self, real: Tensor | None) -> Iterator[None]:
        """Inside, the upper blocks of the 2D encoder attend across slices."""
        upper = [] if self.sliced == 1 else self.plane.attention[self.depth_2d :]
        self.real_slices = real
        try:
            with ExitStack() as stack:
                for layout in upper:
                    stack.enter_context(SliceAttention(layout, self.options, real).on(self.plane))
                yield
        finally:
            self.real_slices = None

    def _gather(self, flat: Features, real: Tensor | None) -> Features:
        tokens = flat.tokens.unflatten(0, (-1, self.sliced))
        pooled = flat.pooled.unflatten(0, (-1, self.sliced))
        if real is None:
            pooled, mask = pooled.mean(dim=1), None
        else:
            tokens = tokens.masked_fill(~real[:, :, None, None], 0.0)
            pooled = pooled.masked_fill(~real[:, :, None], 0.0).sum(dim=1) / real.sum(dim=1)[:, None]
            per_slice = [flat.n_prefix, tokens.shape[2] - flat.n_prefix]
            mask = torch.cat([real.repeat_interleave(n, dim=1) for n in per_slice], dim=1)
        ordered = [tokens[:, :, : flat.n_prefix].flatten(1, 2), tokens[:, :, flat.n_prefix :].flatten(1, 2)]
        grid = (self.sliced, *flat.grid)
        return Features(torch.cat(ordered, dim=1), pooled, self.sliced * flat.n_prefix, grid, mask=mask)


def _inside(path: str) -> str:
    return f"plane.{path}" if path else ""


def _spec_of(plane: Encoder, options: Inflation) -> EncoderSpec:
    return plane.spec.model_copy(
        update={
            "name": f"inflate3d:{describe(options)}:{plane.spec.name}",
            "modality": "volume",
            "input_size": (options.slices, *plane.spec.input_size),
            "spacing": options.slice_spacing,
            "intensity": f"slices of 8 bit grey, then {plane.spec.intensity}" if plane.spec.intensity else "",
            "pooling": f"{plane.spec.pooling}, mean over slices",
        }
    )


def describe(options: Inflation) -> str:
    """The options as they stand in an encoder's name.

    Example:
        >>> describe(Inflation(slices=8, rotary=False, depth_2d=2))
        'slices=8,depth_2d=2,rotary=false,axis=2'
    """
    values = options.model_dump(mode="json", exclude_none=True)
    return ",".join(f"{name}={str(value).lower()}" for name, value in values.items())


def inflate(encoder: Encoder, **options: Any) -> Encoder:
    """Makes a frozen 2D ViT read volumes; every parameter is the 2D encoder's own.

    Args:
        encoder: An image encoder, or a dual encoder of image and text, whose text tower stays as it is.
        **options: Fields of :class:`Inflation`.

    Returns:
        An encoder of volumes (and text); it holds the modules of ``encoder``, which also still works on images.

    Raises:
        ConfigError: An option does not exist or is out of range.
        IncompatibleError: It is no image encoder, or one whose attention cannot be taken apart.

    Example:
        >>> from medgraft.registry import build_encoder
        >>> volume = inflate(build_encoder("embedded:chest@random"), slices=4)
        >>> volume.spec.modality, volume.towers()["volume"].spec.input_size
        ('volume+text', (4, 128, 128))
    """
    inflation = checked(Inflation, options, "options of inflate3d")
    towers = encoder.towers()
    plane = towers.get("image")
    if plane is None:
        raise IncompatibleError(f"encoder {encoder.spec.name} reads {' and '.join(towers)}; inflate3d needs images")
    _check_parts(plane, inflation)
    volume = InflatedEncoder(plane, inflation)
    _check_attention(volume)
    if not isinstance(encoder, DualEncoder):
        return volume.freeze()
    others = {name: tower for name, tower in towers.items() if name != "image"}
    joined: Any = "+".join(["volume", *others])
    spec = volume.spec.model_copy(update={"modality": joined})
    return DualEncoder(spec, {"volume": volume, **others}, encoder.logit_scale).freeze()


def _check_parts(plane: Encoder, options: Inflation) -> None:
    name, layouts, upper = plane.spec.name, plane.attention, options.depth_2d
    if not layouts:
        raise IncompatibleError(f"encoder {name} has no attention that can be taken apart; inflate3d needs a ViT")
    if upper is not None and upper > len(layouts):
        raise ConfigError(f"depth_2d is {upper}, and encoder {name} has {len(layouts)} blocks")
    if any(layout.style != "mha" and not layout.out_path for layout in layouts):
        raise IncompatibleError(f"encoder {name} has attention without an output projection; it cannot be inflated")
    if any(not layout.scored or layout.kv_dim is not None for layout in layouts):
        raise IncompatibleError(
            f"encoder {name} has attention with biases by position or fewer keys than queries; it cannot be inflated"
        )
    if options.rotary and any(layout.dim // layout.heads % 2 for layout in layouts):
        raise ConfigError(f"heads of encoder {name} have an odd width, which has no pairs to turn; set rotary=False")


@torch.no_grad()
def _check_attention(volume: InflatedEncoder) -> None:
    """What is put in the place of the attention must be the library's own where there is one slice."""
    plane, upper = volume.plane.freeze(), volume.plane.attention[volume.depth_2d :]
    size = (1, plane.spec.channels, *plane.spec.input_size)
    dtype = next(p.dtype for p in plane.parameters())
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(plane.device, dtype)
    flat = Inflation(slices=1, rotary=False)
    expected = plane.encode(x).tokens
    with ExitStack() as stack:
        for layout in upper:
            stack.enter_context(SliceAttention(layout, flat, None).on(plane))
        actual = plane.encode(x).tokens
    if not torch.allclose(actual, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())):
        raise IncompatibleError(
            f"encoder {plane.spec.name} does more in its attention than multiply queries, keys and values (a bias by "
            "position, or a norm behind it); inflate3d would change what it computes"
        )


# -- the source -------------------------------------------------------------------------------------------------------


def parse(model: str) -> tuple[dict[str, str], str]:
    """Options and 2D encoder of a name.

    Example:
        >>> parse("slices=8,window=3:timm:vit_tiny_patch16_224")
        ({'slices': '8', 'window': '3'}, 'timm:vit_tiny_patch16_224')
    """
    first, _, rest = model.partition(":")
    if "=" not in first:
        return {}, model
    options = {}
    for part in first.split(","):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"{part!r} in 'inflate3d:{model}' is no option; write name=value, joined by commas")
        options[name.strip()] = value.strip()
    return options, rest


def _value(name: str, text: str) -> Any:
    """A text of a name as the value of that option."""
    field = Inflation.model_fields.get(name)
    return text if field is None else from_text(field.annotation, text)


class Inflate3dSource(Source):
    """Entry point ``inflate3d``: ``inflate3d:timm:vit_small_patch16_224@random``, options in front of the 2D name."""

    name, hub_ids = "inflate3d", True
    Config = Inflation

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for options that cannot be read, and for a 2D encoder that there is not."""
        from medgraft.registry import check_encoder

        inner = parse(model)[1]
        if not inner:
            raise ConfigError(f"'inflate3d:{model}' names no 2D encoder; write inflate3d:timm:vit_small_patch16_224")
        check_encoder(inner if weights == "default" else f"{inner}@{weights}")

    @staticmethod
    def with_options(model: str, options: Mapping[str, Any]) -> str:
        """The name of a model with options in it, in place of those that it holds.

        Example:
            >>> Inflate3dSource.with_options("slices=8,window=3:phantom_chest", {"slices": 4})
            'slices=4,window=3:phantom_chest'
        """
        texts, inner = parse(model)
        values = {name: _value(name, text) for name, text in texts.items()} | dict(options)
        checked(Inflation, values, "options of inflate3d")
        front = ",".join(f"{name}={as_text(value)}" for name, value in values.items())
        return f"{front}:{inner}" if front else inner

    @classmethod
    def models(cls) -> dict[str, str]:
        """Examples; ``build`` takes the name of every encoder of images."""
        return {
            "timm:vit_small_patch16_224": "16 slices, the lower half of the blocks in the plane",
            "slices=32,window=5:timm:vit_small_patch14_dinov2": "32 slices, of which a token sees five",
            "slices=24,depth_2d=8:transformers:microsoft/rad-dino": "24 slices, eight blocks in the plane",
            "phantom_chest": "the shipped encoder of radiographs, with its text tower",
        }

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None, **options: Any) -> Encoder:
        """Builds an encoder.

        Args:
            model: Name of a 2D encoder, options in front: ``slices=8,rotary=false:timm:vit_tiny_patch16_224``.
            weights: Of the 2D encoder: ``"default"``, ``"random"``, or a local file or folder.
            sha256: Expected digest of the local file.
            **options: Fields of :class:`Inflation`, in place of those in the name.

        Raises:
            UnknownNameError: There is no such 2D encoder.
            ConfigError: An option does not exist or is out of range, or a digest is given for what is no file.
            IncompatibleError: The 2D encoder cannot be inflated.
        """
        from medgraft.registry import build_encoder

        texts, inner = parse(model)
        values = {name: _value(name, text) for name, text in texts.items()}
        if not inner:
            raise ConfigError(f"'inflate3d:{model}' names no 2D encoder; write inflate3d:timm:vit_small_patch16_224")
        source = origin(weights, sha256)
        if sha256 is not None and isinstance(source, Path):
            read_weights(source, sha256)  # the 2D encoder's source is asked by name, which carries no digest
        return inflate(build_encoder(inner if weights == "default" else f"{inner}@{weights}"), **{**values, **options})
