"""From a request to cells: which adapters on which encoders for which tasks, and why some pairs are left out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medgraft import plugins
from medgraft.benchmarks.cache_entries import parse_size
from medgraft.benchmarks.cohorts import Cohort
from medgraft.benchmarks.results import Backend, CellSpec, Device, Precision
from medgraft.benchmarks.tasks import build_task, task_class
from medgraft.documents import read_yaml
from medgraft.errors import ConfigError, IncompatibleError, MedgraftError, UnknownNameError
from medgraft.registry import (
    PresetEntry,
    TaskEntry,
    TrainDefaults,
    adapter_class,
    build_adapters,
    build_encoder,
    catalogue,
    readable,
    resolve_adapter,
    resolve_encoder,
)

PROMPTED = ("contrastive", "prompted")
"""Objectives that know classes by their prompts."""


class Sweep(BaseModel):
    """A request; every field is an option of ``run`` or a line of ``--config``.

    Attributes:
        adapters: Adapter names; may be empty where the preset brings variants.
        encoders: Encoder names; by default those that the tasks name.
        tasks: Task names; by default the preset's, else those that the catalogue names for each adapter.
        seeds: Seeds of each row; the preset's by default.
        epochs: Takes the place of every adapter's own number.
        backend: How adapters run.
        precision: ``auto`` takes bf16 where the processor or GPU multiplies it natively, else fp32; ``bf16_frozen``
            is never taken unasked; the preset's by default.
        device: ``auto`` takes a GPU where PyTorch sees one.
        data: Cohort name -> folder.
        results: Folder of the results.
        jobs: Worker processes.
        preset: Named size of the sweep.
        limit: Largest number of samples per split.
        augment_views: Augmented views of each image or volume, one of which is drawn in each epoch; 0 for none.
        cache_size: What the cache may hold, such as ``20GB``; ``None`` leaves it to ``MEDGRAFT_CACHE_SIZE``.
        timeout: Seconds after which a cell is killed.
        threads: Threads per worker; part of what defines a number.
        baselines: Add the reference rows.
        verify: Read every file of the cohorts again to tell whether they are what they were.
        options: Adapter or task name -> its options.
        train: Adapter name -> training hyper-parameters.
    """

    model_config = ConfigDict(extra="forbid")

    adapters: tuple[str, ...] = ()
    encoders: tuple[str, ...] | None = Field(None, min_length=1)
    tasks: tuple[str, ...] | None = Field(None, min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    epochs: int | None = Field(None, ge=0)
    backend: Backend = "eager"
    precision: Literal["auto", "fp32", "bf16", "bf16_frozen"] | None = None
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    data: dict[str, Path] = {}
    results: Path = Path("results")
    jobs: int | None = Field(None, ge=1)
    preset: str = "quick"
    limit: int | None = Field(None, ge=4)
    augment_views: int = Field(0, ge=0)
    cache_size: str | None = None
    timeout: float = Field(3600.0, gt=0)
    threads: int = Field(1, ge=1)
    baselines: bool = True
    verify: bool = False
    options: dict[str, dict[str, Any]] = {}
    train: dict[str, dict[str, Any]] = {}

    @field_validator("adapters")
    @classmethod
    def _one_spelling(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("+".join(part.strip() for part in name.split("+")) for name in names)

    @field_validator("cache_size")
    @classmethod
    def _is_size(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                parse_size(text)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return text

    @model_validator(mode="after")
    def _something_to_run(self) -> Sweep:
        entry = catalogue().presets.get(self.preset)
        if not self.adapters and (entry is None or not entry.variants):
            raise ValueError("no adapter was named; choose some with --adapters (`medgraft ls adapters` lists them)")
        return self

    def preset_entry(self) -> PresetEntry:
        """The preset.

        Raises:
            UnknownNameError: There is none of that name.
        """
        presets = catalogue().presets
        if self.preset not in presets:
            raise UnknownNameError("preset", self.preset, presets)
        return presets[self.preset]


def read_sweep(path: Path | None, overrides: Mapping[str, Any]) -> Sweep:
    """A request from a YAML file and the command line, which wins.

    Raises:
        ConfigError: The file cannot be read, or a field does not exist or has a value out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_yaml(path, name=f"--config {path}") or {}
        if not isinstance(values, dict):
            raise ConfigError(f"--config {path} must hold a mapping of options, not {type(values).__name__}")
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Sweep.model_validate(values)
    except ValidationError as error:
        known = ", ".join(Sweep.model_fields)
        raise ConfigError(f"the sweep's options: {readable(error)}; they are: {known}") from error


@dataclass(frozen=True)
class Row:
    """A task, encoder and adapter, not yet a cell.

    Attributes:
        task: Task name.
        encoder: Encoder name.
        adapter: Adapter name.
        label: Variant of the preset that it is; empty for a row that was asked for by name.
    """

    task: str
    encoder: str
    adapter: str
    label: str = ""


@dataclass
class Plan:
    """What will run.

    Attributes:
        cells: In the order in which they start.
        cohorts: Cohort name -> where it is.
        skipped: Row -> why it is left out.
        labels: :meth:`CellSpec.row` of a variant's cells -> its label.
    """

    cells: list[CellSpec] = field(default_factory=list)
    cohorts: dict[str, Cohort] = field(default_factory=dict)
    skipped: dict[Row, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def asked_adapters(sweep: Sweep) -> tuple[str, ...]:
    """Adapters that were named, then those of the preset's variants."""
    return tuple(dict.fromkeys([*sweep.adapters, *(variant.adapter for variant in sweep.preset_entry().variants)]))


def adapter_options(sweep: Sweep, adapter: str, label: str = "") -> dict[str, Any]:
    """Options of a row: the preset's, then the request's, then those that make it the variant of that label."""
    preset = sweep.preset_entry()
    return {**preset.options.get(adapter, {}), **sweep.options.get(adapter, {}), **preset.variant(label).options}


def task_options(sweep: Sweep, task: str) -> dict[str, Any]:
    """Options of a task: the preset's, then the request's."""
    return {**sweep.preset_entry().options.get(task, {}), **sweep.options.get(task, {})}


def task_entry(name: str) -> TaskEntry:
    """The catalogue's entry, or an empty one for a foreign task."""
    return catalogue().tasks.get(name, TaskEntry(title=name, encoders=()))


def tasks_of(adapter: str) -> tuple[str, ...]:
    """Tasks that an adapter is run on by default: the catalogue's, joined for a composed name; all defaults else."""
    parts = [resolve_adapter(part.strip()).plugin for part in adapter.split("+")]
    entries = [catalogue().adapters.get(plugin.name) if plugin.builtin else None for plugin in parts]
    known = [entry.tasks for entry in entries if entry is not None]
    if known and len(known) == len(parts):
        return tuple(dict.fromkeys(task for tasks in known for task in tasks))
    return tuple(name for name, entry in catalogue().tasks.items() if entry.default)


def encoders_of(task: str) -> tuple[str, ...]:
    """Encoders that a task is run on by default: the catalogue's; for a foreign one those of tasks with its inputs."""
    if task in catalogue().tasks:
        return task_entry(task).encoders
    inputs = set(task_class(task).inputs)
    alike = [entry for name, entry in catalogue().tasks.items() if inputs <= set(task_class(name).inputs)]
    return tuple(dict.fromkeys(encoder for entry in alike for encoder in entry.encoders))


def check_names(sweep: Sweep) -> None:
    """Resolves every name, and imports every plugin that was asked for, before anything is made or trained.

    Raises:
        MedgraftError: A name is unknown or a plugin does not load.
    """
    preset = sweep.preset_entry()
    for adapter in asked_adapters(sweep):
        for part in adapter.split("+"):
            adapter_class(resolve_adapter(part.strip()))
    for encoder in sweep.encoders or ():
        plugins.load(resolve_encoder(encoder).plugin)
    for task in sweep.tasks or ():
        task_class(task)
    known = {*sweep.adapters, *plugins.discover("task"), *plugins.discover("adapter")}
    for name in [*sweep.options, *sweep.train]:
        if name not in known:
            raise UnknownNameError("adapter or task in the sweep's options", name, known)
    for adapter in sweep.adapters:
        build_adapters(adapter, adapter_options(sweep, adapter))
    for variant in preset.variants:
        build_adapters(variant.adapter, adapter_options(sweep, variant.adapter, variant.label))
    _check_options(sweep)


def _check_options(sweep: Sweep) -> None:
    """Validates options also of what is not asked for by name, such as the reference rows and default tasks."""
    tasks = plugins.discover("task")
    for name, options in sweep.options.items():
        if name in tasks:
            build_task(name, options)
        else:
            build_adapters(name, options)
    for name in sweep.train:
        if name in tasks:
            raise ConfigError(f"training options go by adapter, and {name!r} is a task")
        training(sweep, name)


def rows(sweep: Sweep) -> list[Row]:
    """All rows of a request, references included, cheap ones first within a task."""
    preset = sweep.preset_entry()
    chosen = [(adapter, "") for adapter in sweep.adapters]
    chosen += [(variant.adapter, variant.label) for variant in preset.variants]
    wanted: dict[Row, None] = {}
    for adapter, label in chosen:
        for task in sweep.tasks or preset.variant(label).tasks or preset.tasks or tasks_of(adapter):
            entry = task_entry(task)
            encoders = preset.variant(label).encoders or sweep.encoders or encoders_of(task)
            if not encoders:
                raise ConfigError(f"no default encoder reads what task {task!r} does; choose some with --encoders")
            if sweep.baselines:
                wanted.update(dict.fromkeys(_references(task, entry, encoders)))
            wanted.update(dict.fromkeys(Row(task, encoder, adapter, label) for encoder in encoders))
    return list(wanted)


def _references(task: str, entry: TaskEntry, encoders: Iterable[str]) -> Iterable[Row]:
    if task_class(task).objective not in PROMPTED:
        yield from (Row(task, encoder, "linear_probe") for encoder in encoders)
    elif not entry.baselines:
        yield from (Row(task, encoder, "zero_shot") for encoder in encoders)
    yield from (Row(task, baseline.encoder, baseline.adapter) for baseline in entry.baselines)


def training(sweep: Sweep, adapter: str, label: str = "") -> TrainDefaults:
    """Hyper-parameters of a row: catalogue, preset, the preset's variant, then the request, which has the last word."""
    parts = [resolve_adapter(part.strip()).plugin.name for part in adapter.split("+")]
    values: dict[str, Any] = {}
    for part in parts:
        entry = catalogue().adapters.get(part)
        values |= entry.train.model_dump() if entry else {}
    for part in [*parts, adapter]:
        values |= sweep.preset_entry().train.get(part, {})
    values |= {**sweep.preset_entry().variant(label).train, **sweep.train.get(adapter, {})}
    if sweep.epochs is not None and values.get("epochs") != 0:
        values["epochs"] = sweep.epochs
    try:
        return TrainDefaults.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"training options of {adapter!r}: {readable(error)}") from error


@functools.lru_cache(maxsize=64)
def weights_of(encoder: str) -> str:
    """Which weights a name stands for now: files, folders, hubs and shipped weights all change under one name."""
    return build_encoder(encoder).spec.weights


def native_precision(device: Device) -> Precision:
    """``bf16`` where the device multiplies it in hardware; emulated, it would be slower than fp32."""
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def _foreign(row: Row) -> dict[str, str]:
    found = [resolve_adapter(part.strip()).plugin for part in row.adapter.split("+")]
    found += [resolve_encoder(row.encoder).plugin, plugins.find("task", row.task)]
    return {plugin.distribution: plugin.version for plugin in found if not plugin.builtin}


def device_of(sweep: Sweep) -> Device:
    """What the sweep runs on.

    Raises:
        ConfigError: It asks for a GPU that PyTorch does not see.
    """
    if sweep.device == "cpu":
        return "cpu"
    import torch

    seen = torch.cuda.is_available()
    if sweep.device == "cuda" and not seen:
        raise ConfigError("device: cuda was asked for and PyTorch sees no GPU; use --device cpu")
    return "cuda" if seen else "cpu"


def cells_of(row: Row, sweep: Sweep, cohort: Cohort) -> list[CellSpec]:
    """The cells of a row, one per seed."""
    cls = task_class(row.task)
    parts = row.adapter.split("+")
    options = adapter_options(sweep, row.adapter, row.label)
    precision, device = sweep.precision or sweep.preset_entry().precision, device_of(sweep)
    resolved = {
        part: adapter.config.model_dump(mode="json") for part, adapter in build_adapters(row.adapter, options).items()
    }
    spec = CellSpec(
        task=row.task,
        task_options=build_task(row.task, task_options(sweep, row.task)).config.model_dump(mode="json"),
        task_version=cls.version,
        cohort=cohort.of(row.task),
        encoder=row.encoder,
        encoder_weights=weights_of(row.encoder),
        adapter=row.adapter,
        adapter_options=resolved[parts[0]] if len(parts) == 1 else resolved,
        seed=0,
        backend=sweep.backend,
        device=device,
        precision=native_precision(device) if precision == "auto" else precision,
        train=training(sweep, row.adapter, row.label),
        threads=sweep.threads,
        limit=sweep.limit,
        augment_views=sweep.augment_views,
        plugins=_foreign(row),
    )
    seeds = sweep.seeds if sweep.seeds is not None else sweep.preset_entry().seeds
    if spec.train.epochs == 0:
        seeds = seeds[:1]  # nothing is trained, so every seed gives the same numbers
    return [spec.model_copy(update={"seed": seed}) for seed in seeds]


def fit_check(row: Row, options: Mapping[str, Any], views: int = 0) -> str | None:
    """Why a row cannot run, or ``None``.

    Args:
        row: The row.
        options: Of its adapter.
        views: Augmented views of each sample.

    Raises:
        MedgraftError: The encoder cannot be built at all.
    """
    from medgraft.benchmarks.dense import DENSE
    from medgraft.benchmarks.worker import select_encoder
    from medgraft.classes import ClassAdapter
    from medgraft.encoder import DualEncoder

    cls = task_class(row.task)
    try:
        encoder = select_encoder(row.encoder, cls.modalities())
    except IncompatibleError as error:
        return str(error)
    shared = isinstance(encoder, DualEncoder) and encoder.logit_scale is not None
    if cls.objective in PROMPTED and not shared:
        return "the task compares image and text, and the encoder has no space that they share"
    if views and cls.objective in DENSE:
        return "augmented views move the image, and what is to be found in it would stay where it was"
    for name, adapter in build_adapters(row.adapter, options).items():
        support = adapter.supports(encoder)
        if not support:
            return f"adapter {name!r} does not fit encoder {row.encoder!r}: {support.reason}"
        if isinstance(adapter, ClassAdapter) and cls.objective != "prompted":
            return (
                f"adapter {name!r} learns classes by their prompts from images of one class each, and the task has "
                "none to train on; the tasks named *_few_shot have"
            )
    return None


def fits(sweep: Sweep, wanted: Iterable[Row], explicit: set[str]) -> tuple[list[Row], dict[Row, str]]:
    """Splits rows into those that can run and those that cannot, with the reason.

    An encoder that cannot be built stops the sweep if it was asked for by name, and is a reason otherwise.
    """
    good: list[Row] = []
    skipped: dict[Row, str] = {}
    for row in wanted:
        try:
            reason = fit_check(row, adapter_options(sweep, row.adapter, row.label), sweep.augment_views)
        except MedgraftError as error:
            if row.encoder in explicit:
                raise
            reason = str(error)
        if reason is None:
            good.append(row)
        else:
            skipped[row] = reason
    return good, skipped
