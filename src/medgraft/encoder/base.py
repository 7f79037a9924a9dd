"""Frozen encoders: architecture, weights, preprocessing, and the named sites where adapters attach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.attachment.portable import copied, settle_functions
from medgraft.encoder.attention import AttentionLayout, capture_cls_rows
from medgraft.encoder.block_tokens import BlockTokens
from medgraft.encoder.sites import Site, attention_sites, block_roots, branch_sites, is_norm, layer_sites, norm_sites
from medgraft.encoder.spec import Carried, EncoderSpec
from medgraft.encoder.stored import is_packed, twin
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.modality import check_modalities

if TYPE_CHECKING:
    from medgraft.checkpoints.weights import Matched


class Encoder(nn.Module):
    """A frozen backbone. Subclasses implement :meth:`encode` and describe their attention in :attr:`attention`.

    The encoder runs in *stages* so that everything before an adapter can be computed once and kept: stage 0 takes
    the prepared input, stage ``s`` the hidden state that :meth:`prefix` returned for ``s``. An encoder that can only
    be run whole leaves :attr:`n_stages` at 1.

    Attributes:
        spec: The encoder's facts.
        attention: One layout per block, first to last; empty for a CNN.
        block_stages: Stage whose hidden state is the input of block ``i``; empty where stages are not supported.
        n_stages: Number of stages that ``start`` may name.
        has_cls: Token 0 is a CLS token that attends to the others, so its attention row means something.
        rotary: Attention turns queries and keys by their place, or adds a bias by it, so no token can be put between
            the others.
        sliced: Slices ``S`` that its blocks run on as if they were samples, ``[B * S, N, C]``, the slices of a sample
            one after another; 1 where blocks see whole samples.
        real_slices: While a batch runs, which slices are not padding, ``[B, S]``; ``None`` for all.
        network_size: Size that the network itself runs on, where a prepared input may be larger and the encoder brings
            it there by :meth:`resize`; ``None`` where it is the spec's ``input_size``.
        block_grid: Prefix tokens and grid of the tokens inside the blocks, where pooling leaves others; ``None`` where
            they are those of the features.
        loaded: What of which files its weights are, where they were read from files.
    """

    spec: EncoderSpec
    attention: Sequence[AttentionLayout] = ()
    block_stages: Sequence[int] = ()
    n_stages: int = 1
    has_cls: bool = True
    rotary: bool = False
    sliced: int = 1
    real_slices: Tensor | None = None
    network_size: tuple[int, ...] | None = None
    block_grid: tuple[int, tuple[int, ...]] | None = None
    loaded: tuple[Matched, ...] = ()

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        check_modalities(spec.modality.split("+"), f"encoder {spec.name}")
        self.spec = spec
        self._attachments: list[Any] = []

    # -- to implement -------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Runs from stage ``start`` to the features, without CLS scores.

        Args:
            x: Prepared input ``[B, ...]`` for ``start == 0``, else what ``prefix(x, start)`` returned.
            start: First stage to run.
        """
        raise TypeError(f"{type(self).__name__} must implement encode()")

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """Runs the stages before ``stop`` and returns the hidden state there; ``stop == 0`` returns ``x``.

        Args:
            x: Prepared input ``[B, ...]``.
            stop: First stage that is not run.

        Returns:
            ``[B, ...]``, such as ``[B, N, C]`` where blocks run on tokens and ``[B, C, *size]`` where they run on maps.
        """
        if stop == 0:
            return x
        raise ConfigError(f"encoder {self.spec.name} can only be run whole; it has no stage {stop}")

    def prepare(self, raw: Any) -> Tensor:
        """One raw sample as an input tensor.

        Args:
            raw: A sample as the modality says, such as an image ``uint8 [H, W]`` or a text ``str``.

        Returns:
            ``float32 [channels, *input_size]``, ``int64 [L]`` of a text, or what else the modality says.
        """
        raise TypeError(f"{type(self).__name__} must implement prepare()")

    def project(self, tokens: Tensor) -> Tensor:
        """Maps ``[..., C]`` into the space shared with another modality; the identity where there is none."""
        return tokens

    def block_paths(self) -> Sequence[str]:
        """Module path of each transformer block or CNN stage, first to last."""
        return ()

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens | None:
        """How the tokens lie that a block reads, for adapters that convolve over them in space and time.

        ``None``, unless overridden: what is known of an image or a volume then holds. A tower whose blocks differ in
        width or grid, or whose tokens lie along time, says it here.

        Args:
            index: Number of the block.
            count: Tokens that it is given, where a sample may have more or fewer; unless given, those of a whole one.
        """
        return None

    def resize(self, x: Tensor) -> Tensor:
        """Inputs ``[B, channels, *any]`` of one to three axes at the size that the network runs on, interpolated.

        The interpolation is linear; an encoder whose published preprocessing resizes in another way overrides this.

        Raises:
            ConfigError: They have more axes.
        """
        size = self.network_size or self.spec.input_size
        if tuple(x.shape[2:]) == size:
            return x
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}.get(len(size))
        if mode is None:
            raise ConfigError(f"encoder {self.spec.name} must override resize() for inputs of {len(size)} axes")
        return F.interpolate(x, size=size, mode=mode, align_corners=False)

    # -- provided -----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor | Features, *, scores: bool = False, start: int = 0) -> Features:
        """Encodes a batch.

        Args:
            x: Prepared batch ``[B, ...]``, a hidden state with its ``start``, or features that were computed before
                (returned as they are, so that an adapter on the features can run from a cache).
            scores: Also return the CLS row of the last block's attention.
            start: Stage that ``x`` belongs to.

        Returns:
            The features, ``tokens`` ``[B, N, C]`` and ``pooled`` ``[B, C']``; ``cls_scores`` and ``cls_probs``,
            ``[B, heads, N - n_prefix]``, are set if ``scores``.

        Raises:
            ConfigError: ``x`` is neither a tensor nor features, or the encoder has no scores.
        """
        if isinstance(x, Features):
            return x
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers need not be typed
            raise ConfigError(
                f"encoder {self.spec.name} takes a prepared batch, got a {type(x).__name__}; make one with prepare(), "
                "or of texts with tokenize()"
            )
        if not scores:
            return self.encode(x, start=start)
        if not self.attention:
            raise ConfigError(f"encoder {self.spec.name} has no attention, so it has no CLS attention scores")
        if not self.has_cls:
            raise ConfigError(f"encoder {self.spec.name} has no CLS token, so it has no CLS attention scores")
        if not self.attention[-1].scored:
            raise ConfigError(
                f"encoder {self.spec.name} has no CLS attention scores that queries and keys alone give: its attention "
                "adds a bias by position or looks at a part of the tokens"
            )
        with capture_cls_rows(self, self.attention[-1]) as capture:
            features = self.encode(x, start=start)
        logits, probs = capture.rows(features.n_prefix, features.mask)
        return features.replace(cls_scores=logits, cls_probs=probs)

    @property
    def has_scores(self) -> bool:
        """Whether :meth:`forward` can give CLS scores."""
        return bool(self.attention) and self.has_cls and self.attention[-1].scored

    def towers(self) -> dict[str, Encoder]:
        """The single-modality encoders inside, by modality; for most encoders just itself."""
        return {self.spec.modality: self}

    def sites(self) -> Mapping[str, Site]:
        """Every place an adapter may attach to, by canonical name.

        Names do not depend on the library: ``input``, ``blocks.{i}``, ``blocks.{i}.attn.{q,k,v,out}``, the branches
        ``blocks.{i}.{attn,mlp}``, ``features``; every other linear or convolution and every norm has its module path
        as its name. Where blocks have canonical projections, the ``q`` of another attention, such as a pooling head's,
        is spelled ``query``, so that ``q`` and ``*.q`` mean the blocks'.
        """
        blocks = self.block_paths() or block_roots(self.attention)
        sites = {"input": Site("input", "input", "", stage=0)}
        sites.update(attention_sites(self.attention, self.block_stages))
        claimed = {site.path for site in sites.values()}
        for index, path in enumerate(self.block_paths()):
            stage = self.block_stages[index] if self.block_stages else 0
            sites[f"blocks.{index}"] = Site(f"blocks.{index}", "block", path, block=index, stage=stage)
        sites.update(layer_sites(self, claimed, blocks, self.block_stages, spelled=bool(self.attention)))
        sites.update(branch_sites(self, self.attention, blocks, self.block_stages))
        sites.update(norm_sites(self, blocks, self.block_stages))
        sites["features"] = Site("features", "features", "", stage=self.n_stages)
        return sites

    def freeze(self) -> Encoder:
        """Turns off every gradient and puts the encoder in evaluation mode for good."""
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> Encoder:
        """A frozen encoder never leaves evaluation mode: dropout and batch statistics stay off, whatever ``mode``.

        Adapters keep the mode of their graft, also where their layers hang among the encoder's modules.
        """
        super().train(False)
        for attachment in self.carried():
            if attachment.adapter is not None:
                attachment.adapter.train(attachment.adapter.training)
        return self

    # -- what is attached to it ---------------------------------------------------------------------------------------

    def carried(self) -> list[Carried]:
        """Attachments of grafts of this encoder, of its towers and of encoders that it lies in, oldest first.

        Adapters that are switched off or merged are among them; those of a graft that was let go of are, too.
        """
        inside = [module for module in self.modules() if isinstance(module, Encoder)]
        return list(
            {id(each): each for encoder in inside for each in encoder.__dict__.get("_attachments", ())}.values()
        )

    def carry(self, attachment: Carried) -> None:
        """Notes an attachment, here and in every encoder inside."""
        for module in self.modules():
            if isinstance(module, Encoder):
                module.__dict__.setdefault("_attachments", []).append(attachment)

    def forget(self, attachment: Carried) -> None:
        """Forgets one that is detached."""
        for module in self.modules():
            if isinstance(module, Encoder):
                kept = [each for each in module.__dict__.get("_attachments", ()) if each is not attachment]
                module._attachments = kept

    def __reduce_ex__(self, protocol: Any) -> Any:
        settle_functions(self)
        for attachment in self.carried():
            for substitute in attachment.substitutes():
                substitute.settle()
        return super().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        """A copy of the encoder alone is bare; one inside a copy of its graft, or of whatever holds it, is grafted."""
        alone = not memo
        for parameter in self.parameters():
            if is_packed(parameter) and id(parameter) not in memo and hasattr(parameter, "__tensor_flatten__"):
                memo[id(parameter)] = nn.Parameter(twin(parameter.detach()), requires_grad=False)
        other = copied(self, memo)
        if alone:
            for attachment in reversed(other.carried()):
                attachment.detach()
        return other

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Encoder:
        """Moves or casts the encoder; parameters of adapters that hang among its modules keep their own type."""
        trained = {id(p) for p in self._adapters_tensors()}
        trained |= {id(p.grad) for p in self._adapters_tensors() if p.grad is not None}

        def applied(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return tensor.to(result.device) if id(tensor) in trained and result.dtype != tensor.dtype else result

        return super()._apply(applied if trained else fn, recurse)  # pyright: ignore[reportUnknownMemberType]

    def _adapters_tensors(self) -> list[Tensor]:
        adapters = [attachment.adapter for attachment in self.carried() if attachment.adapter is not None]
        return [tensor for adapter in adapters for tensor in (*adapter.parameters(), *adapter.hung_tensors())]

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU where there are none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; float32 where there are none."""
        return next((p.dtype for p in self.parameters() if p.dim() > 1 and not is_packed(p)), torch.float32)

    def hold_in_bf16(self) -> None:
        """Keeps the weights in bfloat16, but for norms, whose few numbers the libraries multiply in full precision.

        What adapters train stays as it is, and so does what is quantised.
        """
        kept = {id(p) for module in self.modules() if is_norm(module) for p in module.parameters()}
        kept |= {id(p) for p in self._adapters_tensors()}
        for parameter in self.parameters():
            if parameter.is_floating_point() and id(parameter) not in kept and not is_packed(parameter):
                parameter.data = parameter.data.to(torch.bfloat16)
