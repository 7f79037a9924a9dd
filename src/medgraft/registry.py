"""The catalogue ``registry.yaml``, and names turned into encoders and adapters.

The catalogue describes (papers, licences, defaults, aliases, checksums); it never loads code. Code comes from entry
points only, see :mod:`medgraft.plugins`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medgraft import plugins, sources
from medgraft.errors import ConfigError, PluginError, UnknownNameError
from medgraft.files.documents import read_yaml
from medgraft.options import Options, checked

if TYPE_CHECKING:
    from medgraft.adapter import Adapter
    from medgraft.encoder import Encoder


logger = logging.getLogger(__name__)

BUILTIN_ADAPTERS = "medgraft.adapters."
RANDOM_SEED = 0
"""Of the weights that ``@random`` draws."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainDefaults(Options):
    """How an adapter is trained unless the user says otherwise.

    Attributes:
        epochs: Passes over the training samples; 0 trains nothing.
        lr: Peak learning rate of AdamW for the adapter, cosine schedule.
        head_lr: The same for the head. Every row has the same kind of head, on standardised features, so every row
            trains it at the rate of the linear probe.
        batch_size: Samples per step.
        weight_decay: Decoupled weight decay.
        warmup: Share of the steps with a linear warm-up.
        keep: Parameters after the ``last`` epoch, or those of the epoch with the ``lowest_loss`` on the training
            samples, which some published scripts keep and which favours over-fitting.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    epochs: int = Field(8, ge=0, le=100_000)
    lr: float = Field(1e-3, gt=0, le=100)
    head_lr: float = Field(3e-3, gt=0, le=100)
    batch_size: int = Field(32, ge=1, le=65_536)
    weight_decay: float = Field(0.01, ge=0, le=100)
    warmup: float = Field(0.1, ge=0, le=1)
    keep: Literal["last", "lowest_loss"] = "last"


class AdapterEntry(_Entry):
    """What the catalogue adds to a built-in adapter's class, which has paper, licence and training defaults.

    Attributes:
        title: One line for people, here so that a listing imports no adapter; empty for the class's own.
        tasks: Tasks that it is run on by default; empty for all default tasks.
        defaults: Options that take the place of the class's defaults.
    """

    title: str = ""
    tasks: tuple[str, ...] = ()
    defaults: dict[str, Any] = {}


class SourceEntry(_Entry):
    """What the catalogue says about a source of encoders."""

    title: str
    licence: str


class AliasEntry(_Entry):
    """A short name for an encoder, with the digest of its weights file where it is known."""

    name: str
    sha256: str | None = None


class EncoderEntries(_Entry):
    """Sources and aliases of encoders."""

    sources: dict[str, SourceEntry]
    aliases: dict[str, AliasEntry]


class BaselineEntry(_Entry):
    """A reference row of a task."""

    adapter: str
    encoder: str


class TaskEntry(_Entry):
    """What the catalogue says about a task, or about a variant of one (``family:variant``).

    Attributes:
        title: One line for people.
        encoders: Encoders it is run on by default.
        baselines: Rows that make its numbers mean something, besides the objective's baselines on every encoder.
        default: Part of a default sweep of foreign adapters.
        tags: Words that ``--tasks tag:WORD`` chooses it by.
        formerly: Name that it had before it became a variant. It is still accepted, and part of the keys of results,
            so that those of either name are one row.
    """

    title: str
    encoders: tuple[str, ...]
    baselines: tuple[BaselineEntry, ...] = ()
    default: bool = True
    tags: tuple[str, ...] = ()
    formerly: str = ""


class CohortEntry(_Entry):
    """A generated cohort of a preset: which writer, and its arguments."""

    writer: str
    options: dict[str, Any] = {}


class VariantEntry(_Entry):
    """A row that a preset runs without being asked for it by name.

    Attributes:
        adapter: Adapter name.
        label: What the plan calls it; the leaderboard tells variants apart by their options.
        options: Options of the adapter; they win over all others, or the label would be wrong.
        tasks: Tasks of this row, unless the user names some; empty for those of the preset.
        train: Hyper-parameters of this row; the user's win.
        encoders: Encoders of this row whatever the user names, for one that fits no other; empty for those of the task.
    """

    adapter: str
    label: str
    options: dict[str, Any] = {}
    tasks: tuple[str, ...] = ()
    train: dict[str, Any] = {}
    encoders: tuple[str, ...] = ()


class PresetEntry(_Entry):
    """A named size of a sweep.

    Attributes:
        title: One line for people.
        seeds: Seeds of each row.
        cohorts: Phantom cohort by name, for cohorts that the user gives no folder of.
        train: Hyper-parameters by adapter that take the place of the catalogue's.
        options: Options by adapter or task, where the user's are silent.
        precision: Of what is trained, unless the user says otherwise.
        tasks: Tasks, unless the user names some; empty for those of each adapter.
        variants: Rows that the preset brings along, besides those of the adapters that the user names.
        encoders: Encoders by task, where they are not those of the task.
    """

    title: str
    seeds: tuple[int, ...]
    cohorts: dict[str, CohortEntry]
    train: dict[str, dict[str, Any]] = {}
    options: dict[str, dict[str, Any]] = {}
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    tasks: tuple[str, ...] = ()
    variants: tuple[VariantEntry, ...] = ()
    encoders: dict[str, tuple[str, ...]] = {}

    @field_validator("variants")
    @classmethod
    def _labels_differ(cls, variants: tuple[VariantEntry, ...]) -> tuple[VariantEntry, ...]:
        labels = [variant.label for variant in variants]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"two variants have the label {sorted(twice)[0]!r}")
        return variants

    def variant(self, label: str) -> VariantEntry:
        """The variant of that label; one that changes nothing where there is none."""
        return next((each for each in self.variants if each.label == label), VariantEntry(adapter="", label=""))


class Catalogue(_Entry):
    """The whole of ``registry.yaml``."""

    version: int
    adapters: dict[str, AdapterEntry]
    encoders: EncoderEntries
    tasks: dict[str, TaskEntry]
    presets: dict[str, PresetEntry]


def catalogue_path() -> Path:
    """Where ``registry.yaml`` lies: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "registry.yaml", here.parents[1] / "registry.yaml"):
        if candidate.is_file():
            return candidate
    raise ConfigError("registry.yaml is missing from the installation; install medgraft again")


@functools.cache
def catalogue() -> Catalogue:
    """Reads and validates the catalogue, once."""
    path = catalogue_path()
    try:
        return Catalogue.model_validate(read_yaml(path))
    except (ConfigError, ValidationError) as error:
        raise ConfigError(f"{path} is not a valid catalogue: {error}") from error


class AdapterName(NamedTuple):
    """A parsed adapter name: the plugin, and the variant of a family (``peft:vera``)."""

    full: str
    plugin: plugins.Plugin
    variant: str | None


def resolve_adapter(name: str) -> AdapterName:
    """Finds the plugin of one adapter name, without importing it."""
    family, _, variant = name.partition(":")
    registered = plugins.discover("adapter")
    by_distribution = variant in registered and registered[variant].distribution == family
    if name not in registered and not by_distribution and variant and family in registered:
        return AdapterName(name, registered[family], variant)
    return AdapterName(name, plugins.find("adapter", name), None)


def adapter_class(name: AdapterName) -> type[Adapter]:
    """Imports an adapter plugin."""
    return plugins.load(name.plugin)


class AdapterFacts(NamedTuple):
    """What is known of an adapter besides its code.

    Attributes:
        title: One line for people; empty if nobody gave one.
        paper: Where the method is from; empty if nobody said.
        licence: Of the code; empty if nobody said.
        train: How it is trained unless the user says otherwise.
    """

    title: str
    paper: str
    licence: str
    train: TrainDefaults

    def to_dict(self) -> dict[str, str]:
        """What a result says of it: what somebody said."""
        facts = {"title": self.title, "paper": self.paper, "licence": self.licence}
        return {name: text for name, text in facts.items() if text}


def adapter_facts(name: AdapterName) -> AdapterFacts:
    """What an adapter's class says of it; the title of a built-in one may stand in the catalogue.

    Raises:
        ConfigError: The class's ``train_defaults`` have a field that does not exist or is out of range.
    """
    entry = catalogue().adapters.get(name.plugin.name) if name.plugin.builtin else None
    cls = adapter_class(name)
    train = checked(TrainDefaults, recipe(cls, "train_defaults", {}), f"train_defaults of adapter {name.plugin.name!r}")
    title = (entry.title if entry else "") or recipe(cls, "title", "")
    return AdapterFacts(title, recipe(cls, "paper", ""), recipe(cls, "licence", ""), train)


def recipe(cls: type, field: str, default: Any) -> Any:
    """A class's ``title``, ``paper``, ``licence`` or ``train_defaults``.

    A foreign adapter that derives from a built-in one is a method of its own and takes none of them from there.
    """
    builtin = cls.__module__.startswith(BUILTIN_ADAPTERS)
    for owner in cls.__mro__:
        if field in vars(owner) and (builtin or not owner.__module__.startswith(BUILTIN_ADAPTERS)):
            return vars(owner)[field]
    return default


def build_adapter(name: str, options: Mapping[str, Any] | None = None) -> Adapter:
    """Builds one adapter.

    Args:
        name: A registered name, with ``:variant`` for a family.
        options: Options by field name; the catalogue's defaults hold where they are silent.

    Raises:
        ConfigError: An option does not exist or has a value out of range.
    """
    parsed = resolve_adapter(name)
    cls = adapter_class(parsed)
    entry = catalogue().adapters.get(parsed.plugin.name)
    values = {**(entry.defaults if entry else {}), **(options or {})}
    if parsed.variant is not None:
        if cls.variant_field is None:
            raise UnknownNameError("adapter", name, plugins.discover("adapter"))
        if (options or {}).get(cls.variant_field, parsed.variant) != parsed.variant:
            raise ConfigError(f"adapter {name!r}: option {cls.variant_field!r} contradicts the name")
        values[cls.variant_field] = parsed.variant
    return cls(checked(cls.Config, values, f"options of adapter {name!r}"))


def build_adapters(names: str, options: Mapping[str, Any] | None = None) -> dict[str, Adapter]:
    """Builds the adapters of a ``+``-joined name.

    Args:
        names: ``"lora"`` or ``"lora+ace_hgnn"``.
        options: Options of the adapter, or, for several, one mapping of options per name.
    """
    parts = [part.strip() for part in names.split("+")]
    if len(set(parts)) != len(parts):
        raise ConfigError(f"adapter {names!r} names the same adapter twice")
    options = dict(options or {})
    if len(parts) == 1:
        return {parts[0]: build_adapter(parts[0], options)}
    if unknown := set(options) - set(parts):
        raise ConfigError(
            f"options of a composed adapter go by its parts ({', '.join(parts)}), and {sorted(unknown)[0]!r} is none"
        )
    for part, values in options.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"options of {part!r} in a composed adapter must be a table, not {values!r}")
    return {part: build_adapter(part, options.get(part)) for part in parts}


class EncoderName(NamedTuple):
    """A parsed encoder name ``source:model@weights``."""

    full: str
    plugin: plugins.Plugin
    model: str
    weights: str
    sha256: str | None
    partial: bool = False


PARTIAL = "?partial"
"""Behind the path of weights: take what fits, see :func:`medgraft.checkpoints.weights.partial_weights`."""


def resolve_encoder(name: str) -> EncoderName:
    """Parses an encoder name and finds its source, without importing it.

    ``@random`` gives fresh weights, ``@path`` a local file or folder, ``@path?partial`` what fits of it; without ``@``
    the source's default holds.
    """
    base, _, weights = name.partition("@")
    alias = catalogue().encoders.aliases.get(base)
    sha256 = alias.sha256 if alias and not weights else None
    source, _, model = (alias.name if alias else base).partition(":")
    registered = plugins.discover("encoder")
    if alias and base in registered:
        logger.warning(
            "encoder source %r of %s is hidden by the catalogue's short name", base, registered[base].distribution
        )
    inner, _, rest = model.partition(":")
    if source not in registered and (
        f"{source}:{inner}" in registered or (inner in registered and registered[inner].distribution == source)
    ):
        source, model = f"{source}:{inner}", rest  # dist:source:model
    try:
        plugin = plugins.find("encoder", source)
    except UnknownNameError as error:
        names = [*registered, *catalogue().encoders.aliases]
        raise UnknownNameError("encoder", base, names, "encoders are named source:model") from error
    partial = weights.endswith(PARTIAL)
    return EncoderName(name, plugin, model, weights.removesuffix(PARTIAL) or "default", sha256, partial)


def check_encoder(name: str) -> EncoderName:
    """Parses an encoder name and checks model and weights against what its source has, without building it.

    Raises:
        UnknownNameError: No such source, model or weights.
        ConfigError: The name is malformed: empty, with control characters, or a path where the source has names.
        CheckpointError: The weights are a path, and nothing is there.
        PluginError: The source cannot be loaded.
    """
    parsed = resolve_encoder(name)
    sources.check(plugins.load(parsed.plugin), parsed.plugin.name, parsed.model, parsed.weights)
    return parsed


@contextlib.contextmanager
def _random_weights() -> Generator[None]:
    """Random weights inside are always the same, whoever draws them; the caller's random state is untouched."""
    import torch

    from medgraft.typed.pytorch import fork_random

    with fork_random([]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        yield


def build_encoder(name: str) -> Encoder:
    """Builds a frozen encoder from its name.

    Raises:
        UnknownNameError: No such source or model.
        ConfigError: The name is malformed.
        CheckpointError: The weights cannot be read or fail their checksum.
    """
    from medgraft.encoder import Encoder

    parsed = check_encoder(name)
    source = plugins.load(parsed.plugin)
    extra = {"sha256": parsed.sha256} if parsed.sha256 else {}
    with contextlib.ExitStack() as stack:
        if parsed.weights == "random":
            stack.enter_context(_random_weights())
        if parsed.partial:
            from medgraft.checkpoints.weights import partial_weights

            stack.enter_context(partial_weights())
        encoder = source.build(parsed.model, parsed.weights, **extra)
    if not isinstance(encoder, Encoder):
        raise PluginError(f"encoder source {parsed.plugin.name!r} built {type(encoder)!r}, not a medgraft.Encoder")
    return encoder.freeze()
