"""Frozen encoders: architecture, weights, preprocessing, and the named sites where adapters attach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medgraft.attachment.portable import copied, settle_functions
from medgraft.attention import PROJECTIONS, AttentionLayout, capture_cls_rows
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.modality import check_modalities
from medgraft.sites import Site, attention_sites, block_roots, branch_sites, is_norm, layer_sites, norm_sites
from medgraft.stored import is_packed, twin

if TYPE_CHECKING:
    from medgraft.checkpoints.weights import Matched


class EncoderSpec(BaseModel):
    """Facts about an encoder that a result must carry.

    Attributes:
        name: Full name as the registry resolves it, ``source:model``.
        modality: What a sample is, by the name of a :class:`medgraft.modality.Modality`; an encoder of several
            joins them with ``+``.
        input_size: Size of a prepared input without its channels: ``(H, W)`` or ``(D, H, W)``, ``(L,)`` tokens for
            text, ``(T,)`` for a signal.
        channels: Input channels.
        spacing: Voxel size in mm that the weights expect, or ``None`` where they carry no such fact.
        intensity: What a prepared input's values mean, in words.
        dim: Width ``C`` of the tokens.
        heads: Attention heads, 0 for a CNN.
        pooling: Rule that makes ``pooled`` from the tokens. An encoder that says ``cls`` itself, and does not leave
            it to the default, may be run for its CLS token alone (:mod:`medgraft.fast.cls_block`).
        licence: Licence of the weights.
        cohorts: Cohorts seen in pre-training, for leakage checks (``"ADNI"``, ``"CheXpert"``).
        weights: ``"random"``, ``"none"`` (nothing to train) or ``"pretrained:<sha256 of the parameters>"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modality: str
    input_size: tuple[int, ...]
    channels: int = 1
    spacing: float | None = None
    intensity: str = ""
    dim: int
    heads: int = 0
    pooling: str = "cls"
    licence: str = "unknown"
    cohorts: tuple[str, ...] = Field(default=())
    weights: str


class Carried(Protocol):
    """What an encoder knows of an adapter that is attached to it; see :class:`medgraft.Attachment`."""

    name: str
    adapter: Any

    def detach(self) -> None:
        """Takes the adapter off for good."""
        ...

    def substitutes(self) -> Sequence[Any]:
        """What stands in the place of parameters of the encoder."""
        ...


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


class TextEncoder(Encoder):
    """An encoder whose prepared input is ``int64 [L]`` token ids, padded with :attr:`pad_id`.

    Attributes:
        pad_id: Token that fills up short texts.
        any_length: :meth:`encode` takes ids ``[B, L]`` of any ``L`` from 1 to the context length, and columns behind
            the last real token change nothing of what it gives for the others, ``pooled`` included; the mask of its
            features is then :meth:`real_tokens`. Batches may be cut to their longest text
            (:mod:`medgraft.fast.short_texts`). An encoder that does not say so gets its whole context.
    """

    pad_id: int = 0
    any_length: bool = False

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of several texts, ``int64 [B, L]``."""
        return torch.stack([self.prepare(text) for text in texts])

    def real_tokens(self, ids: Tensor) -> Tensor:
        """``[B, L]``, true for the tokens of the text and false for padding."""
        return ids != self.pad_id


class MultimodalEncoder(Encoder):
    """Any number of towers, one per modality, of which some may share an embedding space.

    Args:
        spec: Facts of the whole; its modality joins those of the towers with ``+``.
        towers: Modality -> tower; the first one is run where the encoder is called.
        logit_scale: Multiplier of the cosine similarity, already exponentiated; ``None`` without a shared space.
        shared: Modalities that share the space; ``None`` for all.

    Attributes:
        logit_scale: See above.
        shared: Modalities that share a space; empty without one.
    """

    logit_scale: float | None = None
    _shared: tuple[str, ...] | None = None

    def __init__(
        self,
        spec: EncoderSpec,
        towers: Mapping[str, Encoder],
        logit_scale: float | None = None,
        shared: Sequence[str] | None = None,
    ) -> None:
        super().__init__(spec)
        self.tower = nn.ModuleDict(dict(towers))
        self.logit_scale = logit_scale
        self._shared = None if shared is None else tuple(shared)

    @property
    def shared(self) -> tuple[str, ...]:
        """Modalities that share a space; empty without one."""
        if self.logit_scale is None:
            return ()
        return tuple(name for name in self.tower if self._shared is None or name in self._shared)

    def only(self, modalities: Sequence[str]) -> MultimodalEncoder:
        """An encoder of some of the towers, which are the same modules under the same paths.

        Args:
            modalities: Those to keep; their order stays this encoder's.

        Raises:
            ConfigError: There is no such tower.
        """
        if missing := [name for name in modalities if name not in self.tower]:
            raise ConfigError(f"encoder {self.spec.name} has no {' or '.join(missing)} tower")
        kept = {name: tower for name, tower in self.towers().items() if name in modalities}
        shared = [name for name in self.shared if name in kept]
        spec = next(iter(kept.values())).spec
        facts = {"name": self.spec.name, "modality": "+".join(kept), "weights": self.spec.weights}
        facts |= {"licence": self.spec.licence, "cohorts": self.spec.cohorts}
        scale = self.logit_scale if len(shared) > 1 else None
        part = MultimodalEncoder(spec.model_copy(update=facts), kept, scale, shared)
        part.train(False)
        return part

    def towers(self) -> dict[str, Encoder]:
        """The towers by modality, as they were given; of image and text, the image first."""
        return {name: tower for name, tower in self.tower.items() if isinstance(tower, Encoder)}

    def forward(self, x: Tensor | Features, *, scores: bool = False, start: int = 0) -> Features:
        """Encodes with the first tower, so that the whole serves wherever an encoder of that modality does.

        See :meth:`Encoder.forward`.
        """
        return next(iter(self.towers().values()))(x, scores=scores, start=start)

    def block_paths(self) -> Sequence[str]:
        """Blocks of all towers, the first tower's first; paths begin at the whole, ``tower.image.blocks.0``."""
        return [f"tower.{name}.{path}" for name, tower in self.towers().items() for path in tower.block_paths()]

    def sites(self) -> Mapping[str, Site]:
        """The sites of all towers; names and paths carry the tower, ``image.blocks.0.attn.q``."""
        sites: dict[str, Site] = {}
        for tower_name, tower in self.towers().items():
            for name, site in tower.sites().items():
                sites[f"{tower_name}.{name}"] = site.within(tower_name, f"tower.{tower_name}")
        return sites


DualEncoder = MultimodalEncoder
"""The name of the time when there were two towers at most."""

__all__ = ["PROJECTIONS", "DualEncoder", "Encoder", "EncoderSpec", "MultimodalEncoder", "TextEncoder"]
