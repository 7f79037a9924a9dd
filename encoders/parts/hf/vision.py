"""Vision models of transformers that run as the library runs them, found out by one run on noise.

The library's own forward is the only description of an architecture here, so tokens are its ``last_hidden_state``. A
run from the hidden state before a block is its forward too, with the blocks before it passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import EncoderSpec
from medgraft.encoders.parts.hf.layers import (
    BIASES,
    Stack,
    find_attention,
    find_stack,
    heads_of,
    resumed,
    rotation_noted,
    run_to,
    with_scores,
)
from medgraft.encoders.parts.hf.towers import pair
from medgraft.encoders.parts.loading import StagedEncoder, raw_image, reason
from medgraft.errors import IncompatibleError, MedgraftError
from medgraft.features import Features

Call = Callable[[Any, Tensor], Any]


def call_plain(model: Any, x: Tensor) -> Any:
    """Runs a model on pixels ``[B, channels, H, W]``."""
    return model(pixel_values=x, return_dict=True)


def call_unmasked(model: Any, x: Tensor) -> Any:
    """Runs a masked autoencoder on every patch of pixels ``[B, channels, H, W]``, in order.

    Its masking sorts by noise, and nothing is left out.
    """
    height, width = pair(model.config.patch_size)
    places = torch.arange((x.shape[2] // height) * (x.shape[3] // width), device=x.device)
    return model(pixel_values=x, noise=places.expand(x.shape[0], -1).float(), return_dict=True)


def call_patches(model: Any, x: Tensor) -> Any:
    """Runs a NaFlex model, which takes patches ``[B, N, P P channels]``, on images of one size."""
    side = model.config.patch_size
    rows, columns = x.shape[2] // side, x.shape[3] // side
    patches = x.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 3, 5, 1).flatten(3)
    shapes = torch.tensor([[rows, columns]], device=x.device).expand(x.shape[0], 2)
    whole = torch.ones(x.shape[0], rows * columns, dtype=torch.long, device=x.device)
    return model(pixel_values=patches.flatten(1, 2), pixel_attention_mask=whole, spatial_shapes=shapes)


CALLS: dict[str, Call] = {"vit_mae": call_unmasked, "siglip2_vision_model": call_patches}


class LibraryVision(StagedEncoder):
    """A vision model of the library: tokens, or a feature map, as its ``last_hidden_state``.

    ``pooled`` is the library's ``pooler_output`` unless a dense layer of the pre-training makes it; else the CLS token,
    or the mean where there is none.

    Args:
        spec: Facts; ``dim``, ``heads`` and ``pooling`` are set to what is found.
        model: The library's model.
        transform: PIL image -> prepared tensor.
        projection: Into the space shared with text, if there is one.

    Raises:
        IncompatibleError: It does not run on an image of the spec's size, or gives no grid of tokens.
    """

    rotation: Any = None

    def __init__(
        self, spec: EncoderSpec, model: Any, transform: Callable[[Any], Tensor], projection: nn.Module | None = None
    ) -> None:
        super().__init__(spec)
        self.model: Any = as_encoder(model)
        self.transform = transform
        self.projection = projection
        self.call = CALLS.get(model.config.model_type, call_plain)
        self.extra: tuple[Any, ...] = ()
        self.grid: tuple[int, ...] = ()
        self.n_prefix = 0
        self.eval()
        x = torch.randn(2, spec.channels, *spec.input_size, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        try:
            output = self._find(x)
        except MedgraftError as error:
            raise IncompatibleError(f"encoder {spec.name} ({type(model).__name__}): {error}") from error
        except Exception as error:  # each architecture refuses a size in its own way
            raise IncompatibleError(
                f"encoder {spec.name}: {type(model).__name__} does not run on an image of {spec.input_size} "
                f"({reason(error)})"
            ) from error
        self._describe(output, x)

    @torch.no_grad()
    def _find(self, x: Tensor) -> Any:
        """Blocks and prefix; the library's output on ``x``."""
        run = partial(self.call, self.model, x)
        stack = find_stack(self.model, run)
        stack = Stack(f"model.{stack.path}", stack.names, stack.extra, stack.repeated)
        output = run()
        tokens = self.tokens_of(output)
        names = [name.rpartition(".")[2] for name, _ in self.model.named_parameters()]
        self.has_cls = any(name in ("cls_token", "class_embedding") for name in names)
        self.rotary = any(part in name for name, _ in self.model.named_parameters() for part in BIASES)
        last = output.last_hidden_state
        if last.ndim == 4:
            channels_first = last.shape[1] == tokens.shape[-1]
            self.grid = tuple(last.shape[2:] if channels_first else last.shape[1:3])
        else:
            self.n_prefix, self.grid = _places(tokens.shape[1], self.spec.input_size, self.model.config)
            self.has_cls = self.has_cls and self.n_prefix > 0
        self._stage(stack, x, tokens)
        return output

    def _stage(self, stack: Stack, x: Tensor, tokens: Tensor) -> None:
        """Declares the blocks, and the stages before them if the run can be taken up at each kind of them."""
        self.extra = stack.extra
        self.set_blocks(stack.paths)
        if not stack.repeated:
            try:
                for stage in {1, self.n_stages // 2, self.n_stages - 1} - {0}:
                    again = self.tokens_of(self._resume(self.prefix(x, stage), stage))
                    if not torch.equal(again, tokens):
                        raise ValueError("another result")
                return
            except Exception as error:  # blocks that hand on more than one hidden state
                self.unstaged = reason(error)
        self.block_stages, self.n_stages = (), 1

    @torch.no_grad()
    def _describe(self, output: Any, x: Tensor) -> None:
        tokens = self.tokens_of(output)
        heads = heads_of(self.model.config) if output.last_hidden_state.ndim == 3 else 0
        run = partial(self.call, self.model, x)
        layouts = find_attention(self, list(self.block_paths()), heads, run)
        if layouts and self.has_cls:
            layouts = with_scores(self, layouts, x)
        self.attention = layouts
        pooled = "cls" if self.has_cls else "mean"
        if (pooler_output := self.pooler(output)) is not None:
            first = self.has_cls and torch.equal(pooler_output, tokens[:, 0])
            pooled = "cls" if first else "attention pooling" if hasattr(self.model, "head") else "the library's pooler"
        changes = {"dim": tokens.shape[-1], "heads": heads if layouts else 0, "pooling": pooled}
        self.spec = self.spec.model_copy(update=changes)

    @staticmethod
    def pooler(output: Any) -> Tensor | None:
        """The library's pooled output ``[B, C]``, if it gives one."""
        pooled = getattr(output, "pooler_output", None)
        return None if pooled is None else pooled.flatten(1)

    def tokens_of(self, output: Any) -> Tensor:
        """``last_hidden_state`` as tokens ``[B, N, C]``.

        Raises:
            IncompatibleError: It is none that tokens could be made of.
        """
        last = getattr(output, "last_hidden_state", None)
        if not isinstance(last, Tensor) or last.ndim not in (3, 4):
            raise IncompatibleError("it gives no last_hidden_state of tokens or of a feature map")
        if last.ndim == 3:
            return last
        width = {
            getattr(self.model.config, "hidden_size", 0),
            *(getattr(self.model.config, "hidden_sizes", None) or ()),
        }
        first = last.shape[1] in width or last.shape[3] not in width
        return last.flatten(2).transpose(1, 2) if first else last.flatten(1, 2)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` -> ``float32 [channels, H', W']`` by the model's image processor."""
        return self.transform(raw_image(raw, self.spec.channels))

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with text, ``[..., C] -> [..., E]``; the identity where there is none."""
        return tokens if self.projection is None else self.projection(tokens)

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """Stage 0 is the prepared batch, ``[B, channels, H, W]``; stage ``1 + i`` precedes block ``i``."""
        self._check_stage(stop)
        if stop == 0:
            return x
        x = self.checked(x)
        return run_to(self.get_submodule(self._paths[stop - 1]), partial(self.call, self.model, x))

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of a prepared batch, ``[B, channels, H, W]``, or of a hidden state and its stage."""
        self._check_stage(start)
        if self.attention and self.attention[-1].transform is not None:
            with rotation_noted(self):
                return self._features(x, start)
        return self._features(x, start)

    def _features(self, x: Tensor, start: int) -> Features:
        output = self.call(self.model, self.checked(x)) if start == 0 else self._resume(x, start)
        tokens, pooled = self.tokens_of(output), self.pooler(output)
        if pooled is None:
            pooled = tokens[:, 0] if self.has_cls else tokens[:, self.n_prefix :].mean(dim=1)
        return Features(tokens, pooled, self.n_prefix, self.grid)

    def _resume(self, hidden: Tensor, start: int) -> Any:
        """Output of a run from the hidden state before block ``start - 1``; the pixels give it its size only."""
        blocks = [self.get_submodule(path) for path in self._paths[:start]]
        pixels = hidden.new_zeros(hidden.shape[0], self.spec.channels, *self.spec.input_size)
        with resumed(blocks, self.extra, hidden):
            return self.call(self.model, pixels)


def as_encoder(model: Any) -> Any:
    """The model without a pooler of dense layers, which only its pre-training reads, and without random masking."""
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
    if not reads_pooler(model):
        model.pooler = None
    return model


def reads_pooler(model: Any) -> bool:
    """Whether a model's ``pooler`` is more than a dense layer of its pre-training, or it has none."""
    pooler = getattr(model, "pooler", None)
    return not (isinstance(pooler, nn.Module) and any(isinstance(each, nn.Linear) for each in pooler.modules()))


def _places(n_tokens: int, size: tuple[int, ...], config: Any) -> tuple[int, tuple[int, int]]:
    """Number of prefix tokens and grid of the rest, by the patches or by a power of two of them.

    Raises:
        IncompatibleError: No grid of square steps has so many tokens.
    """
    patch = getattr(config, "patch_size", None)
    steps = [pair(patch)] if isinstance(patch, int | list | tuple) else [(4, 4)]
    steps = [(h * 2**i, w * 2**i) for h, w in steps for i in range(6)]
    for height, width in steps:
        rows, columns = -(-size[0] // height), -(-size[1] // width)
        prefix = n_tokens - rows * columns
        if 0 <= prefix <= 16 and prefix < n_tokens:
            return prefix, (rows, columns)
    raise IncompatibleError(f"its {n_tokens} tokens are no grid over an image of {size}")
