"""The contract of an adapter plugin: configuration, parameters, and reversible attachment to an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.errors import ConfigError
from medgraft.features import Condenser, Features
from medgraft.hooks import (
    HALVES,
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
    add_rows,
    do_nothing,
)
from medgraft.options import Option, Options
from medgraft.portable import Portable, copied, portable, settle_functions
from medgraft.schedule import ONE_STAGE, Stage
from medgraft.sites import Site

API_VERSION = 1

__all__ = [
    "API_VERSION",
    "Adapter",
    "AdapterConfig",
    "Attachment",
    "Support",
    "add_rows",
    "all_or_nothing",
    "train_in_float32",
]


class AdapterConfig(Options):
    """Base of every adapter's configuration: unknown fields are errors, values are immutable, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Support(NamedTuple):
    """Whether an adapter fits an encoder, and if not, why, in words a person understands."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


Undo = Callable[[], None]

_made: ContextVar[list[Attachment] | None] = ContextVar("_made", default=None)


class Attachment(Portable):
    """What an adapter did to an encoder, and how to undo it.

    Everything is done with hooks and with instance attributes, so the encoder's module tree and its state dict stay
    exactly as they were, and :meth:`detach` leaves no trace. :meth:`pause` and :meth:`resume` take an adapter off the
    encoder and put it back, its parameters untouched.

    A copy or a pickle of the graft has an attachment of its own. Functions that are given here are copied with what
    they read (see :mod:`medgraft.portable`), lambdas too. They get tensors in the type of the adapter's parameters and
    may return any; the encoder goes on in its own type.

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
        if (made := _made.get()) is not None:
            made.append(self)

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

        For a projection inside a packed weight, ``delta`` returns only the rows of that projection; ``None`` (a
        merged adapter) adds nothing.
        """
        if site.in_mha:
            raise ConfigError(f"{site.name} lies in an nn.MultiheadAttention, which calls no submodule to add to")
        self._make(Hang(site.path, AddToOutput(self, delta, site.rows)))

    def map_output(self, site: Site, function: Callable[[Tensor], Tensor]) -> None:
        """``module(x)`` becomes ``function(module(x))`` at a ``block``, ``branch``, ``layer`` or ``norm`` site.

        Blocks that return a tuple have its first element mapped.
        """
        self._make(Hang(site.path, MapOutput(self, function)))

    def map_block_input(self, site: Site, function: Callable[[Tensor], Tensor]) -> None:
        """``block(x)`` becomes ``block(function(x))`` at a ``block`` site; other arguments stay as they are."""
        self._make(Hang(site.path, MapBlockInput(self, function), before=True))

    def add_to_branch(self, site: Site, delta: Callable[[Tensor], Tensor]) -> None:
        """``branch(x)`` becomes ``branch(x) + delta(x)`` at a ``branch`` site.

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
        paths = {sites[hit].path for found in self.hits.values() for hit in found if hit in sites}
        for path, module in self.encoder.named_modules():
            if isinstance(module, nn.TransformerEncoderLayer) and any(each.startswith(f"{path}.") for each in paths):
                self._make(Hang(module, do_nothing, before=True))

    def map_input(self, tower: Encoder, function: Callable[[Tensor], Tensor]) -> None:
        """The tower sees ``function(x)`` for a prepared batch ``x`` (stage 0 only)."""
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
        if not isinstance(value, nn.Parameter) or name not in module._parameters:
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
        made: list[Change] = []
        try:
            for change in self._changes:
                change.make(self.encoder)
                made.append(change)
        except BaseException:
            for change in reversed(made):
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
def all_or_nothing() -> Iterator[None]:
    """Detaches every attachment that was made inside if the block fails, half-made ones too."""
    made: list[Attachment] = []
    token = _made.set(made)
    try:
        yield
    except BaseException:
        for attachment in reversed(made):
            attachment.detach()
        raise
    finally:
        _made.reset(token)


def train_in_float32(parameters: Iterable[nn.Parameter]) -> None:
    """Widens what is trained in half precision, where most steps at a usual learning rate round to none."""
    for parameter in parameters:
        if parameter.requires_grad and parameter.dtype in HALVES:
            parameter.data = parameter.data.float()


class Adapter(nn.Module):
    """Base class of adapter plugins.

    A plugin declares a nested ``Config`` (pydantic, ``extra="forbid"``), says in :meth:`supports` what it fits, and
    in :meth:`attach` builds its parameters as its own submodules and connects them to the encoder through an
    :class:`Attachment`. It never stores the encoder or its weights among its own parameters, so ``state_dict()`` is
    the whole and only content of its checkpoint. What it trains is float32, also on an encoder in half precision, and a
    module that it makes later takes its mode.

    Attributes:
        api_version: Version of this contract that the plugin was written for. A subclass that leaves it alone
            inherits the version of the medgraft it runs with and is never refused for it; one that sets it is refused
            by a medgraft that is older, or that no longer speaks that version.
        identity_at_init: A fresh graft changes nothing. ``False`` must be explained in the class docstring.
        mergeable: :meth:`merge` folds the adapter into the encoder's weights.
        Config: The plugin's options; a nested class of that name, see :class:`AdapterConfig`.
        variant_field: Option that ``name:variant`` sets, for families such as ``peft:vera``.
        title: One line for people, on boards and in ``medgraft describe``.
        paper: Where the method is from, as one would cite it.
        licence: Of the code.
        train_defaults: How it is trained unless the user says otherwise: fields of
            :class:`medgraft.registry.TrainDefaults`; what is not named keeps that class's default. A built-in adapter
            has these four in ``registry.yaml``.
        row_wise: Inside the encoder it treats each token by itself, and it reads no token of the features; a head on
            the CLS token may then leave the other rows of the last block out
            (:class:`medgraft.readout.ClsReadOut`).
    """

    api_version: ClassVar[int] = API_VERSION
    identity_at_init: bool = True
    mergeable: ClassVar[bool] = False
    variant_field: ClassVar[str | None] = None
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    train_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    row_wise: bool = False

    Config: ClassVar[type[AdapterConfig]] = AdapterConfig

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else self.Config()

    @classmethod
    def variant_options(cls, variant: str | None) -> Sequence[Option]:
        """What ``medgraft describe`` says of options that the ``Config`` only knows as a table, for a family.

        Args:
            variant: Which member of the family, ``vera`` of ``peft:vera``; ``None`` where none was named.
        """
        return ()

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter):
            train_in_float32([value])
        super().__setattr__(name, value)
        if isinstance(value, nn.Module) and value.training != self.training:
            value.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        return {name: portable(value) for name, value in self.__dict__.items()}

    def __reduce_ex__(self, protocol: Any) -> Any:
        settle_functions(self)
        return super().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapter:
        for module in self.modules():  # what one keeps of the last batch is copied without its graph
            kept = [value for value in module.__dict__.values() if isinstance(value, Tensor) and not value.is_leaf]
            memo.update({id(value): value.detach().clone() for value in kept})
        return copied(self, memo)

    @property
    def affine_projections(self) -> bool:
        """Whether all it adds to queries and values is an affine map of each token, without chance.

        A weighted mean of values is then the value of the weighted mean, which
        :class:`medgraft.cls_attention.OneQuery` makes use of.
        """
        return False

    @property
    def refit_head(self) -> bool:
        """Whether a harness may replace the linear head that training left by one whose strength of L2 it chooses.

        ``False`` where the head's own training is what is to be measured.
        """
        return True

    def supports(self, encoder: Encoder) -> Support:
        """Says whether this adapter, as configured, can attach to ``encoder``; must not change anything."""
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Builds the parameters for ``encoder`` and connects them.

        Args:
            encoder: The frozen encoder.
            sites: ``encoder.sites()``.

        Returns:
            The reversible attachment, with every target pattern's hits recorded.
        """
        raise TypeError(f"{type(self).__name__} must implement attach()")

    def condenser(self, tower: Encoder) -> Condenser | None:
        """What can be computed once of a frozen tower's features, which this adapter alone reads; see the class.

        Args:
            tower: One of the encoder's, the adapter attached.

        Returns:
            ``None`` where the first thing that touches the features is trained.
        """
        return None

    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor | None:
        """A loss term of the method itself, added to the task's; ``None`` for most.

        Args:
            outputs: Features of each tower that ran, by modality, adapter included.
        """
        return None

    def schedule(self) -> tuple[Stage, ...]:
        """Stages of training; asked for after :meth:`attach`, so that parameters can be named.

        One stage that trains everything, for most. Heads train in every stage. A method with several stages may be
        trained jointly all the same: nothing but a harness that runs the schedule ever calls :meth:`enter_stage`.
        """
        return ONE_STAGE

    def enter_stage(self, stage: str | None) -> None:
        """Called where a stage of :meth:`schedule` begins, and with ``None`` when training is over.

        Whoever runs the schedule sets ``requires_grad``; the adapter switches parts of itself on or off here.
        """
        return

    def tell_tasks(self, tasks: Tensor | None) -> None:
        """Which task each sample of the next batch belongs to, ``int64 [B]``; ``None`` where that is not known.

        For training and for diagnostics; a prediction must never depend on it.
        """
        return

    def after_step(self) -> None:
        """Called behind each optimisation step, for what a method adjusts without a gradient."""
        return

    def reset_report(self) -> None:
        """Forgets what :meth:`report` has gathered."""
        return

    def report(self) -> dict[str, Any]:
        """Diagnostics, as JSON, of the samples that ran in evaluation mode since :meth:`reset_report`."""
        return {}

    def hung_tensors(self) -> Sequence[Tensor]:
        """Tensors of its own that hang among the encoder's modules, besides its parameters; none for most.

        They keep their type where the encoder alone is moved to another.
        """
        return ()

    def learning_rate_scale(self, parameter: str) -> float:
        """Factor on the learning rate of one of the adapter's parameters, by its name in ``state_dict()``."""
        return 1.0

    def logit_scale(self) -> Tensor | None:
        """A trained multiplier of the image-text similarity, where the method has one."""
        return None

    def joining_prompts(self, count: int) -> AbstractContextManager[None] | None:
        """Inside it, the text tower makes one embedding of every ``count`` consecutive texts, a class's prompts.

        ``None``, for most methods, leaves the averaging of prompts to the caller.
        """
        return None

    def merge(self) -> None:
        """Folds the adapter into the encoder's weights, where the maths allows it."""
        raise ConfigError(f"{type(self).__name__} cannot be merged into the encoder's weights")

    def unmerge(self) -> None:
        """Restores the weights that :meth:`merge` changed, bit for bit."""
        raise ConfigError(f"{type(self).__name__} cannot be merged into the encoder's weights")
