"""Every mistake of a request, before anything is made or trained."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from medgraft import plugins
from medgraft.benchmarks.cell.resolved import Resolver
from medgraft.benchmarks.metrics.calibration import OF_PROBABILITIES
from medgraft.benchmarks.prefix_cache.shared import VARIABLE as SHARED_CACHE
from medgraft.benchmarks.prefix_cache.shared import check_shared_cache
from medgraft.benchmarks.sweep.recipe import adapter_options, requested_adapters, training
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row
from medgraft.benchmarks.watch.traces import missing
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.files.cache_folder import cache_root
from medgraft.launcher import Resources, launcher_class, make_launcher
from medgraft.objective import Objective
from medgraft.options import checked
from medgraft.registry import TrainDefaults, adapter_class, build_adapters, check_encoder
from medgraft.task.names import is_task

MOST_CELLS = 10_000
"""Cells of a sweep that need no ``--yes``."""


def check_names(sweep: Sweep, resolver: Resolver | None = None) -> None:
    """Resolves every name, and imports every plugin that was asked for, before anything is made or trained.

    Raises:
        MedgraftError: A name is unknown, an objective's too, or a plugin does not load.
    """
    preset, resolver = sweep.preset_entry(), resolver or Resolver()
    for adapter in requested_adapters(sweep):
        for name in resolver.adapter_names(adapter):
            adapter_class(name)
    for encoder in sweep.encoders or ():
        check_encoder(encoder)
    for task in sweep.tasks or ():
        resolver.objective(task)
    _check_launcher(sweep)
    names = {*sweep.adapters, *plugins.discover("task"), *plugins.discover("adapter"), sweep.launcher}
    tables = [name for name, value in sweep.train.items() if isinstance(value, dict)]
    for name in [*sweep.options, *tables]:
        if name not in names and not is_task(name, strict=True):
            raise UnknownNameError("adapter or task in the sweep's options", name, names)
    for adapter in sweep.adapters:
        build_adapters(adapter, adapter_options(sweep, adapter))
    for variant in preset.variants:
        build_adapters(variant.adapter, adapter_options(sweep, variant.adapter, variant.label))
    _check_options(sweep, resolver)


def _check_launcher(sweep: Sweep) -> None:
    """Validates the launcher's options, and refuses those of one that the sweep does not run by."""
    config = launcher_class(sweep.launcher).Config
    checked(config, sweep.options.get(sweep.launcher, {}), f"options of launcher {sweep.launcher!r}")
    if others := [name for name in sweep.options if name != sweep.launcher and name in plugins.discover("launcher")]:
        raise ConfigError(
            f"options of launcher {others[0]!r}: the sweep runs by {sweep.launcher!r}; give --launcher {others[0]}"
        )


def check_launcher(sweep: Sweep) -> None:
    """Refuses a launcher that cannot run here, or not with its options.

    Raises:
        MedgraftError: It cannot.
    """
    if missing := launcher_class(sweep.launcher).missing():
        raise ConfigError(f"--launcher {sweep.launcher}: {missing}")
    device = "cuda" if sweep.device == "cuda" else "cpu"
    resources = Resources(sweep.jobs, sweep.threads, device, sweep.timeout, sweep.devices)
    make_launcher(sweep.launcher, sweep.options.get(sweep.launcher, {}), resources).check()


def check_caches(sweep: Sweep) -> None:
    """Refuses a cache that is no folder of this machine, and a shared one that cannot be reached.

    Raises:
        MedgraftError: It cannot.
    """
    cache_root()
    if place := sweep.shared_cache or os.environ.get(SHARED_CACHE):
        check_shared_cache(place)


def _check_options(sweep: Sweep, resolver: Resolver) -> None:
    """Validates options also of what is not asked for by name, such as the reference rows and default tasks."""
    for name, options in sweep.options.items():
        if is_task(name):
            resolver.task(name, options)
        elif name != sweep.launcher:
            build_adapters(name, options)
    for name, value in sweep.train.items():
        if not isinstance(value, dict) and name not in TrainDefaults.model_fields:
            names = [*TrainDefaults.model_fields, *plugins.discover("adapter")]
            raise UnknownNameError("training option or adapter in the sweep's train table", name, names)
        if isinstance(value, dict) and is_task(name):
            raise ConfigError(f"training options go by adapter, and {name!r} is a task")
        if isinstance(value, dict):
            training(sweep, name, resolver=resolver)
    for adapter in requested_adapters(sweep):
        training(sweep, adapter, resolver=resolver)


def check_events(sweep: Sweep) -> None:
    """Sees to it that TensorBoard event files can be written where they are asked for.

    Raises:
        ConfigError: The package is not installed, or the folder cannot be made or written.
    """
    folder = sweep.events()
    if folder is None:
        return
    if find_spec("tensorboard") is None:
        raise ConfigError("--tensorboard needs tensorboard; install it with: pip install 'medgraft[tensorboard]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--tensorboard {folder} cannot be written: {error.strerror}; choose another folder"
        ) from error


def check_traces(sweep: Sweep) -> None:
    """Refuses ``--traces`` that nothing would send.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if sweep.traces and (reason := missing()):
        raise ConfigError(reason)


def check_size(sweep: Sweep, rows: Sequence[Row]) -> None:
    """Asks back before an enormous sweep, and where an option on the command line would change nothing.

    Raises:
        ConfigError: There are more than :data:`MOST_CELLS` cells without ``--yes``, or ``--set`` names an adapter or
            task that no row is of.
    """
    seeds = sweep.seeds if sweep.seeds is not None else sweep.preset_entry().seeds
    if len(rows) * len(seeds) > MOST_CELLS and not sweep.yes:
        raise ConfigError(
            f"{len(rows):,} rows of {len(seeds):,} seeds are {len(rows) * len(seeds):,} cells; give --yes if that "
            "is what you want, or ask for fewer seeds, encoders or tasks"
        )
    there = {row.task for row in rows} | {row.adapter for row in rows}
    there |= {part for row in rows for part in row.adapter.split("+")} | set(sweep.test_on)
    if idle := [name for name in sweep.assigned if name not in there and name != sweep.launcher]:
        raise ConfigError(f"--set {idle[0]}: no row of the sweep has it; the rows have {', '.join(sorted(there))}")


def check_calibratable(objectives: Mapping[str, type[Objective]], calibrate: str) -> None:
    """Refuses temperatures for tasks that predict no probabilities.

    Args:
        objectives: Task -> its objective.
        calibrate: ``temperature``, or ``none``.

    Raises:
        ConfigError: Some task has none.
    """
    for task, objective in objectives.items():
        if calibrate != "none" and not set(OF_PROBABILITIES) <= set(objective.metrics):
            raise ConfigError(
                f"--calibrate {calibrate}: task {task!r} predicts no probabilities of classes or labels; leave the "
                "task or the option out"
            )
