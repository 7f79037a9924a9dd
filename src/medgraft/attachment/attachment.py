"""What an adapter did to an encoder, and how to undo it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medgraft.attachment.hooks import (
    AddToOutput,
    AskScores,
    Callback,
    Change,
    EnterBranch,
    FitSubstitutes,
    Hang,
    LeaveBranch,
    MapBlockInput,
    MapFeatures,
    MapInput,
    MapOutput,
    MhaForward,
    Project,
    Shadow,
    Substitute,
    do_nothing,
)
from medgraft.attachment.portable import Portable
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.typed.pytorch import named_modules, own_parameters

if TYPE_CHECKING:
    from medgraft.adapter import Adapter

Undo = Callable[[], None]

_made: ContextVar[list[Attachment] | None] = ContextVar("_made", default=None)


class Attachment(Portable):
    """What an adapter did to an encoder, and how to undo it.

    Everything is done with hooks and with instance attributes, so the encoder's module tree and its state dict stay
    exactly as they were, and :meth:`detach` leaves no trace. :meth:`pause` and :meth:`resume` take an adapter off the
    encoder and put it back, its parameters untouched.

    A copy or a pickle of the graft has an attachment of its own. Functions that are given here are copied with what
    they read (see :mod:`medgraft.attachment.portable`), lambdas too. They get tensors in the type of the adapter's
    parameters and may return any; the encoder goes on in its own type.

    Attributes:
        encoder: The encoder.
        name: The adapter's name in its graft; empty before it has one.
        adapter: The adapter, once it is in a graft.
        hits: Target pattern -> names of the sites it hit.
        stage: First stage of each tower that the adapter changes, by tower name (``""`` for a single tower).
        first: Names of towers that must run before the others, since what they give is read there.
        on_call: Called before each run of a graft, so that an adapter forgets what it kept of the last one.
        gone: Detached for good.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name = ""
        self.adapter: Adapter | None = None
        self.hits: dict[str, list[str]] = {}
        self.stage: dict[str, int] = {}
        self.first: set[str] = set()
        self.on_call: list[Callable[[], None]] = []
        self.gone = False
        self._changes: list[Change] = []
        self._paused = False
        if (attachments := _made.get()) is not None:
            attachments.append(self)

    @property
    def kind(self) -> torch.dtype | None:
        """Type that the adapter computes in: that of its parameters; ``None`` without any."""
        if self.adapter is None:
            return None
        return next((p.dtype for p in self.adapter.parameters() if p.is_floating_point()), None)

    def record(self, hits: Mapping[str, Sequence[Site]]) -> None:
        """Notes which sites each pattern hit, for the coverage report and the frozen prefix."""
        for pattern, sites in hits.items():
            self.hits.setdefault(pattern, []).extend(site.name for site in sites)
            for site in sites:
                self.stage[site.tower] = min(self.stage.get(site.tower, site.stage), site.stage)

    def add_to_output(self, site: Site, delta: Callable[[Tensor], Tensor | None]) -> None:
        """``module(x)`` becomes ``module(x) + delta(x)`` at a ``layer`` or ``projection`` site.

        ``delta`` maps ``[..., in] -> [..., out]``, or feature maps at a convolution. For a projection inside a packed
        weight, it returns only the rows of that projection; ``None`` (a merged adapter) adds nothing.
        """
        if site.in_mha:
            raise ConfigError(f"{site.name} lies in an nn.MultiheadAttention, which calls no submodule to add to")
        self._make(Hang(site.path, AddToOutput(self, delta, site.rows)))

    def map_output(self, site: Site, function: Callable[[Tensor], Tensor]) -> None:
        """``module(x)`` becomes ``function(module(x))`` at a ``block``, ``branch``, ``layer`` or ``norm`` site.

        Tokens are ``[B, N, C]`` for most libraries, feature maps ``[B, C, *size]``; ``function`` keeps the shape. Of a
        tuple that a block returns, the first element is mapped.
        """
        self._make(Hang(site.path, MapOutput(self, function)))

    def map_block_input(self, site: Site, function: Callable[[Tensor], Tensor]) -> None:
        """``block(x)`` becomes ``block(function(x))`` at a ``block`` site; other arguments stay as they are.

        Tokens are ``[B, N, C]`` for most libraries, feature maps ``[B, C, *size]``.
        """
        self._make(Hang(site.path, MapBlockInput(self, function), before=True))

    def add_to_branch(self, site: Site, delta: Callable[[Tensor], Tensor]) -> None:
        """``branch(x)`` becomes ``branch(x) + delta(x)`` at a ``branch`` site, ``[..., C] -> [..., C]``.

        Libraries that keep the parts of a branch in the block itself offer no module to hook as a whole, so what
        enters the first part is kept until the last one has run.
        """
        enter = EnterBranch(self, delta)
        self._make(Hang(site.entry, enter, before=True))
        self._make(Hang(site.path, LeaveBranch(self, delta, enter)))

    def map_projection(self, path: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        """``[q | k | v]`` becomes ``function(x, [q | k | v])`` in an ``nn.MultiheadAttention``.

        The module multiplies by ``in_proj_weight`` itself, so its forward is replaced as a whole.

        Args:
            path: Module path of the attention.
            function: Takes the attention's input ``[B, N, C]`` and its packed projections ``[B, N, 3C]``.
        """
        module = self.encoder.get_submodule(path)
        assert isinstance(module, nn.MultiheadAttention)
        project = Project(self, function, module)
        self.set_attribute(module, "medgraft_projection", project)
        self.set_attribute(module, "forward", MhaForward(module, path, project))

    def keep_called(self, sites: Mapping[str, Site]) -> None:
        """Has every ``nn.TransformerEncoderLayer`` around a recorded site call its modules.

        Its fused form, which evaluation of a frozen layer takes, reads their weights instead and calls none of them; a
        hook anywhere inside turns that off.
        """
        paths = {sites[hit].path for names in self.hits.values() for hit in names if hit in sites}
        for path, module in named_modules(self.encoder):
            if isinstance(module, nn.TransformerEncoderLayer) and any(each.startswith(f"{path}.") for each in paths):
                self._make(Hang(module, do_nothing, before=True))

    def map_input(self, tower: Encoder, function: Callable[[Tensor], Tensor]) -> None:
        """The tower sees ``function(x)`` for a prepared batch ``x``, ``[B, ...]`` (stage 0 only)."""
        self._make(Hang(tower, MapInput(self, function), before=True, keywords=True))

    def map_features(self, tower: Encoder, function: Callable[[Features], Features], *, scores: bool = False) -> None:
        """The tower returns ``function(features)``; ``scores`` asks for the CLS attention row."""
        if scores:
            self._make(Hang(tower, AskScores(), before=True, keywords=True))
        self._make(Hang(tower, MapFeatures(self, function)))

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Shadows an attribute of one module instance (for example ``forward``) until :meth:`detach`.

        A parameter in the place of one of the module's own is read in that one's type.
        """
        if not isinstance(value, nn.Parameter) or name not in own_parameters(module):
            self._make(Shadow(module, name, value))
            return
        if not self.substitutes():
            for tower in self.encoder.towers().values():
                self._make(Hang(tower, FitSubstitutes(self), before=True))
        self._make(Substitute(module, name, value))

    def substitutes(self) -> list[Substitute]:
        """What stands in the place of parameters of the encoder."""
        return [change for change in self._changes if isinstance(change, Substitute)]

    def on_detach(self, undo: Undo, redo: Undo | None = None) -> None:
        """Registers what else :meth:`detach` and :meth:`pause` must do, for adapters that replace modules themselves.

        Args:
            undo: Restores the encoder.
            redo: Brings the change back on :meth:`resume`; ``None`` if nothing has to be brought back.
        """
        self._make(Callback(undo, redo))

    def absorb(self, other: Attachment) -> None:
        """Takes over another attachment to the same encoder, for adapters made of adapters."""
        for pattern, names in other.hits.items():
            self.hits.setdefault(pattern, []).extend(names)
        for tower, stage in other.stage.items():
            self.stage[tower] = min(self.stage.get(tower, stage), stage)
        self.first |= other.first
        self.on_call += other.on_call
        for change in other._changes:
            change.belong_to(self)
        self._changes += other._changes
        other._changes = []

    def pause(self) -> None:
        """Undoes everything, last change first; the encoder's outputs are bit-equal to before."""
        if not self._paused:
            for change in reversed(self._changes):
                change.undo()
        self._paused = True

    def resume(self) -> None:
        """Makes every change again, in the order in which they were made; all of them or none."""
        if not self._paused:
            return
        applied: list[Change] = []
        try:
            for change in self._changes:
                change.make(self.encoder)
                applied.append(change)
        except BaseException:
            for change in reversed(applied):
                change.undo()
            raise
        self._paused = False

    def detach(self) -> None:
        """Undoes everything for good."""
        self.pause()
        self._changes, self.gone = [], True
        self.encoder.forget(self)

    def _make(self, change: Change) -> None:
        change.make(self.encoder)
        self._changes.append(change)


@contextmanager
def all_or_nothing() -> Generator[None]:
    """Detaches every attachment that was made inside if the block fails, half-made ones too."""
    attachments: list[Attachment] = []
    token = _made.set(attachments)
    try:
        yield
    except BaseException:
        for attachment in reversed(attachments):
            attachment.detach()
        raise
    finally:
        _made.reset(token)
