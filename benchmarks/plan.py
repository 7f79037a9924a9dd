"""From a request to cells: which adapters on which encoders for which tasks, and why some pairs are left out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medgraft import plugins
from medgraft.benchmarks.cohorts import Cohort
from medgraft.benchmarks.request import Sweep, known_encoder, merged, read_sweep
from medgraft.benchmarks.results import CellSpec, Device, Precision
from medgraft.benchmarks.tasks import build_task, task_class
from medgraft.errors import ConfigError, IncompatibleError, MedgraftError, UnknownNameError
from medgraft.options import checked
from medgraft.registry import (
    TaskEntry,
    TrainDefaults,
    adapter_class,
    adapter_facts,
    build_adapters,
    build_encoder,
    catalogue,
    check_encoder,
    resolve_adapter,
    resolve_encoder,
)

__all__ = ["Plan", "Row", "Sweep", "read_sweep"]
MOST_CELLS = 10_000
"""Cells of a sweep that need no ``--yes``."""
PROMPTED = ("contrastive", "prompted")
"""Objectives that know classes by their prompts."""


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
    """Options of a row: the preset's, then the request's, then those that make it the variant of that label.

    A composed adapter takes what the request says of its parts, then what it says of the whole.
    """
    preset, parts = sweep.preset_entry(), adapter.split("+")
    of_parts = {part: sweep.options[part] for part in parts if part in sweep.options} if len(parts) > 1 else {}
    own = merged(of_parts, sweep.options.get(adapter, {}))
    return {**preset.options.get(adapter, {}), **own, **preset.variant(label).options}


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
        check_encoder(encoder)
    for task in sweep.tasks or ():
        task_class(task)
    known = {*sweep.adapters, *plugins.discover("task"), *plugins.discover("adapter")}
    tables = [name for name, own in sweep.train.items() if isinstance(own, dict)]
    for name in [*sweep.options, *tables]:
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
    for name, own in sweep.train.items():
        if not isinstance(own, dict) and name not in TrainDefaults.model_fields:
            known = [*TrainDefaults.model_fields, *plugins.discover("adapter")]
            raise UnknownNameError("training option or adapter in the sweep's train table", name, known)
        if isinstance(own, dict) and name in tasks:
            raise ConfigError(f"training options go by adapter, and {name!r} is a task")
        if isinstance(own, dict):
            training(sweep, name)
    for adapter in asked_adapters(sweep):
        training(sweep, adapter)


def rows(sweep: Sweep) -> list[Row]:
    """All rows of a request, references included, cheap ones first within a task."""
    preset = sweep.preset_entry()
    chosen = [(adapter, "") for adapter in sweep.adapters]
    chosen += [(variant.adapter, variant.label) for variant in preset.variants]
    wanted: dict[Row, None] = {}
    for adapter, label in chosen:
        for task in sweep.tasks or preset.variant(label).tasks or preset.tasks or tasks_of(adapter):
            entry = task_entry(task)
            named = preset.variant(label).encoders or sweep.encoders or encoders_of(task)
            encoders = tuple(dict.fromkeys(known_encoder(name) for name in named))
            if not encoders:
                raise ConfigError(f"no default encoder reads what task {task!r} does; choose some with --encoders")
            if sweep.baselines:
                wanted.update(dict.fromkeys(_references(task, entry, encoders)))
            wanted.update(dict.fromkeys(Row(task, encoder, adapter, label) for encoder in encoders))
    return list(wanted)


def check_size(sweep: Sweep, wanted: Sequence[Row]) -> None:
    """Asks back before an enormous sweep, and where an option on the command line would change nothing.

    Raises:
        ConfigError: There are more than :data:`MOST_CELLS` cells without ``--yes``, or ``--set`` names an adapter or
            task that no row is of.
    """
    seeds = sweep.seeds if sweep.seeds is not None else sweep.preset_entry().seeds
    if len(wanted) * len(seeds) > MOST_CELLS and not sweep.yes:
        raise ConfigError(
            f"{len(wanted):,} rows of {len(seeds):,} seeds are {len(wanted) * len(seeds):,} cells; give --yes if that "
            "is what you want, or ask for fewer seeds, encoders or tasks"
        )
    there = {row.task for row in wanted} | {row.adapter for row in wanted}
    there |= {part for row in wanted for part in row.adapter.split("+")}
    if idle := [name for name in sweep.assigned if name not in there]:
        raise ConfigError(f"--set {idle[0]}: no row of the sweep has it; the rows have {', '.join(sorted(there))}")


def _references(task: str, entry: TaskEntry, encoders: Iterable[str]) -> Iterable[Row]:
    if task_class(task).objective not in PROMPTED:
        yield from (Row(task, encoder, "linear_probe") for encoder in encoders)
    elif not entry.baselines:
        yield from (Row(task, encoder, "zero_shot") for encoder in encoders)
    yield from (Row(task, baseline.encoder, baseline.adapter) for baseline in entry.baselines)


def training(sweep: Sweep, adapter: str, label: str = "") -> TrainDefaults:
    """Hyper-parameters of a row: catalogue, preset, the preset's variant, then the request, which has the last word."""
    names = [resolve_adapter(part.strip()) for part in adapter.split("+")]
    parts = [name.plugin.name for name in names]
    values: dict[str, Any] = {}
    for name in names:
        values |= adapter_facts(name).train.model_dump()
    for part in [*parts, adapter]:
        values |= sweep.preset_entry().train.get(part, {})
    values |= sweep.preset_entry().variant(label).train
    trains = values.get("epochs") != 0
    every = {name: value for name, value in sweep.train.items() if not isinstance(value, dict)}
    last = {"epochs": sweep.epochs} if sweep.epochs is not None and trains else {}
    if not trains:
        every.pop("epochs", None)
    asked = every | sweep.train.get(adapter, {}) | last
    found = checked(TrainDefaults, values | asked, f"training options of {adapter!r}")
    if trains and found.epochs == 0:
        raise ConfigError(
            f"training options of {adapter!r}: epochs 0 would leave the adapter and its head as they start; give 1 or "
            "more, or run zero_shot, which has nothing to train"
        )
    return found


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
