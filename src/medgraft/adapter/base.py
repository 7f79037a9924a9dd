"""The contract of an adapter plugin: configuration, parameters, and reversible attachment to an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from pydantic import ConfigDict
from torch import Tensor, nn

from medgraft.adapter.knobs import SizeKnob
from medgraft.adapter.protocols import EarlierNames
from medgraft.attachment.attachment import Attachment, all_or_nothing
from medgraft.attachment.hooks import HALVES, add_rows
from medgraft.attachment.portable import copied, portable, settle_functions
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.features import Features
from medgraft.options import Option, Options

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


def train_in_float32(parameters: Iterable[nn.Parameter]) -> None:
    """Widens parameters of any shape that train in half precision, where most steps at a usual rate round to none."""
    for parameter in parameters:
        if parameter.requires_grad and parameter.dtype in HALVES:
            parameter.data = parameter.data.float()


class Adapter(EarlierNames, nn.Module):
    """Base class of adapter plugins.

    A plugin declares a nested ``Config`` (pydantic, ``extra="forbid"``), says in :meth:`select` or :meth:`supports`
    what it fits, and in :meth:`attach` builds its parameters as its own submodules and connects them to the encoder
    through an :class:`Attachment`. What else it may do, such as training in phases, is in
    :mod:`medgraft.adapter.protocols`.

    It never stores the encoder or its weights among its own parameters, so ``state_dict()`` is the whole and only
    content of its checkpoint. What it trains is float32, also on an encoder in half precision, and a module that it
    makes later takes its mode.

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
        formula: What it computes, in LaTeX and the paper's symbols, one equation on each line; the docstring of the
            module says what they are.
        formats: Files of other projects that it reads or writes beside its own folder, a phrase in Markdown each.
        train_defaults: How it is trained unless the user says otherwise: fields of
            :class:`medgraft.registry.TrainDefaults`; what is not named keeps that class's default.
        size_knob: The option that scales its trainable parameters, for comparisons at equal size; ``None`` where it
            has none, or none that a whole number turns.
        search: Options that are worth a search -> the values to try, the default among them. A row that trains
            searches the first two that have five values, and training; one that trains nothing all of them, however
            many values they have.
        token_wise: Inside the encoder it treats each token by itself, and it reads no token of the features; a head on
            the CLS token may then leave the other rows of the last block out
            (:class:`medgraft.fast.cls_block.ClsReadOut`).
        text_padding: Columns of padding that it needs behind the longest text of a batch: 0 where padding changes
            nothing that is read, ``None`` for all up to the encoder's context, which is right for every method. One
            that is ``token_wise`` needs none (:mod:`medgraft.fast.short_texts`).
        export_refusal: Why a trained one is not to be written as a file for other programs, though it could be; empty
            for most.
    """

    api_version: ClassVar[int] = API_VERSION
    identity_at_init: bool = True
    mergeable: ClassVar[bool] = False
    variant_field: ClassVar[str | None] = None
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    formats: ClassVar[tuple[str, ...]] = ()
    train_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    size_knob: SizeKnob | None = None
    search: Mapping[str, Sequence[Any]] = MappingProxyType({})
    token_wise: bool = False
    text_padding: int | None = None

    export_refusal: ClassVar[str] = ""

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
        if (other := {"row_wise": "token_wise", "token_wise": "row_wise"}.get(name)) is not None:
            super().__setattr__(other, value)
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
    def trained_by_steps(self) -> bool:
        """Whether learning rate and weight decay matter to it where the head is a linear regression.

        ``False`` for a method whose head is solved exactly, so that only its own options are worth a search.
        """
        return True

    @property
    def refit_head(self) -> bool:
        """Whether a harness may replace the linear head that training left by one whose strength of L2 it chooses.

        ``False`` where the head's own training is what is to be measured.
        """
        return True

    def supports(self, encoder: Encoder) -> Support:
        """Says whether this adapter, as configured, can attach to ``encoder``; must not change anything.

        An adapter that chooses its sites in :meth:`select` fits where that finds some, and need not say more.
        """
        try:
            self.select(encoder, encoder.sites())
        except IncompatibleError as error:
            return Support(False, str(error))
        return Support(True)

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Mapping[str, Sequence[Site]]:
        """Sites that it would change, by target pattern; none for an adapter that is bound to no site.

        Raises:
            IncompatibleError: A pattern has no site, or one that the adapter cannot sit at; the sentence says which.
        """
        return {}

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Builds the parameters for ``encoder`` and connects them.

        Args:
            encoder: The frozen encoder.
            sites: ``encoder.sites()``.

        Returns:
            The reversible attachment, with every target pattern's hits recorded.
        """
        raise TypeError(f"{type(self).__name__} must implement attach()")

    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor | None:
        """A loss term of the method itself, a scalar added to the task's; ``None`` for most.

        Args:
            outputs: Features of each tower that ran, by modality, adapter included.
        """
        return None

    def after_step(self) -> None:
        """Called behind each optimisation step, for what a method adjusts without a gradient."""
        return

    def hung_tensors(self) -> Sequence[Tensor]:
        """Tensors of its own that hang among the encoder's modules, besides its parameters; none for most.

        They may have any shape, and keep their type where the encoder alone is moved to another.
        """
        return ()

    def learning_rate_scale(self, parameter: str) -> float:
        """Factor on the learning rate of one of the adapter's parameters, by its name in ``state_dict()``."""
        return 1.0

    def logit_scale(self) -> Tensor | None:
        """A trained multiplier of the image-text similarity, a scalar, where the method has one."""
        return None

    def merge(self) -> None:
        """Folds the adapter into the encoder's weights, where the maths allows it."""
        raise ConfigError(f"{type(self).__name__} cannot be merged into the encoder's weights")

    def unmerge(self) -> None:
        """Restores the weights that :meth:`merge` changed, bit for bit."""
        raise ConfigError(f"{type(self).__name__} cannot be merged into the encoder's weights")
