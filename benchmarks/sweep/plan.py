"""From a request to cells: names checked, rows that fit, cohorts found or made, one cell per seed."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from medgraft.benchmarks.board.terminal import say
from medgraft.benchmarks.cell.resolved import ResolvedRow, Resolver
from medgraft.benchmarks.cohorts import places as cohorts
from medgraft.benchmarks.external.spec import ExternalTest
from medgraft.benchmarks.garbage import uncollected
from medgraft.benchmarks.results.chosen import Dimension, Tuning
from medgraft.benchmarks.results.spec import CellSpec, CohortId, Device, Precision
from medgraft.benchmarks.sweep.budget import within_budget
from medgraft.benchmarks.sweep.checks import check_calibratable, check_names, check_size
from medgraft.benchmarks.sweep.compatible import fits
from medgraft.benchmarks.sweep.external import cohorts_of, external_tests, other_tasks
from medgraft.benchmarks.sweep.keeping import check_keepable
from medgraft.benchmarks.sweep.recipe import requested_adapters, training
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row, rows
from medgraft.benchmarks.sweep.settling import settled
from medgraft.benchmarks.sweep.spaces import row_space
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.fast.float8 import check_float8
from medgraft.fast.switch import is_plain
from medgraft.files.content import announcing, verifying
from medgraft.launcher import Resources, launcher_class
from medgraft.objective import objective_name
from medgraft.registry import build_encoder


@dataclass
class Plan:
    """What will run.

    Attributes:
        cells: In the order in which they start.
        cohorts: Cohort name -> where it is.
        skipped: Row -> why it is left out.
        labels: :meth:`CellSpec.row` of a variant's cells -> its label.
        external: Key of a cell -> other cohorts that its graft is tested on.
        untested: Why grafts of a task are not tested on a cohort that was named, in words.
        spaces: :meth:`CellSpec.row` of cells whose options are to be chosen by trials -> what is searched.
        untuned: Rows that were to be tuned and have nothing to tune.
        tunings: Key of a cell whose options were chosen -> how.
    """

    cells: list[CellSpec] = field(default_factory=list)
    cohorts: dict[str, cohorts.Cohort] = field(default_factory=dict)
    skipped: dict[Row, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    external: dict[str, list[ExternalTest]] = field(default_factory=dict)
    untested: list[str] = field(default_factory=list)
    spaces: dict[str, list[Dimension]] = field(default_factory=dict)
    untuned: list[Row] = field(default_factory=list)
    tunings: dict[str, Tuning] = field(default_factory=dict)


def resources_of(sweep: Sweep, device: str = "cpu") -> Resources:
    """What each job of a sweep may use."""
    return Resources(sweep.jobs, sweep.threads, device, sweep.timeout, sweep.devices)


def device_of(sweep: Sweep) -> Device:
    """What the sweep runs on.

    Raises:
        ConfigError: It asks for a GPU that PyTorch does not see, or for more devices than this machine has.
    """
    here = launcher_class(sweep.launcher).one_machine
    if sweep.device == "cpu":
        _check_count(sweep, "CPU cores", os.cpu_count() or 1, here=here)
        return "cpu"
    import torch

    if sweep.device == "cuda" and not here:
        return "cuda"  # that of other machines; each job says what it finds
    seen = torch.cuda.is_available()
    if sweep.device == "cuda" and not seen:
        raise ConfigError("device: cuda was asked for and PyTorch sees no GPU; use --device cpu")
    what, there = ("GPUs", torch.cuda.device_count()) if seen else ("CPU cores", os.cpu_count() or 1)
    _check_count(sweep, what, there, here=here)
    return "cuda" if seen else "cpu"


def _check_count(sweep: Sweep, what: str, there: int, *, here: bool) -> None:
    if here and sweep.devices > max(1, there):
        raise ConfigError(f"--devices {sweep.devices}: this machine has {there} {what}; give --devices {there} at most")


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


def precision_of(sweep: Sweep, device: Device) -> Precision:
    """What the cells of a sweep run in.

    Raises:
        ConfigError: ``fp8`` was asked for, and the device or the backend has none.
    """
    precision = sweep.precision or sweep.preset_entry().precision
    if precision == "auto":
        return native_precision(device)
    if precision == "fp8":
        if sweep.backend in ("fused", "auto"):
            raise ConfigError(
                f"precision: fp8 does not go with backend {sweep.backend}, whose operations read plain weights; "
                "use --backend eager or compile"
            )
        if launcher_class(sweep.launcher).one_machine:  # else each job says what it finds
            check_float8(device)
    return precision


def cells_of(
    row: Row, resolved: ResolvedRow, sweep: Sweep, cohort: cohorts.Cohort, resolver: Resolver | None = None
) -> list[CellSpec]:
    """The cells of a row, one per seed."""
    device = device_of(sweep)
    spec = CellSpec(
        task=row.task,
        task_options=resolved.task.config.recorded(),
        task_version=resolved.task.version,
        cohort=cohort.of(row.task),
        encoder=row.encoder,
        encoder_weights=weights_of(row.encoder),
        adapter=row.adapter,
        adapter_options=resolved.options(),
        seed=0,
        backend=sweep.backend,
        device=device,
        precision=precision_of(sweep, device),
        train=training(sweep, row.adapter, row.label, resolver),
        threads=sweep.threads,
        limit=sweep.limit,
        augment_views=sweep.augment_views,
        plain=is_plain(),
        calibrate=sweep.calibrate,
        sets=sweep.sets,
        coverage=sweep.coverage,
        sets_by_class=sweep.sets_by_class,
        tune=0,  # the trials, where there are some, say with which options the row runs
        budget=sweep.budget,
        plugins={each.distribution: each.version for each in resolved.plugins() if not each.builtin},
    )
    seeds = sweep.seeds if sweep.seeds is not None else sweep.preset_entry().seeds
    if spec.train.epochs == 0:
        seeds = seeds[:1]  # nothing is trained, so every seed gives the same numbers
    return [spec.model_copy(update={"seed": seed}) for seed in seeds]


def locate(
    sweep: Sweep,
    resolved_rows: Mapping[Row, ResolvedRow],
    console: Console,
    *,
    make: bool,
    also: Iterable[str] = (),
) -> dict[str, cohorts.Cohort]:
    """Finds or makes the cohorts that the rows read.

    Args:
        sweep: The request.
        resolved_rows: Rows that will run.
        console: Where the making of a phantom is announced.
        make: Make missing phantoms; otherwise their revision is left open.
        also: Cohorts that ``--data`` may name and no row reads.

    Raises:
        DataError: A folder is not what its task reads.
    """
    names = list(dict.fromkeys(row.task.cohort for row in resolved_rows.values()))
    readable = list(dict.fromkeys([*names, *map(cohorts.data_of, names), *also]))
    if unread := [name for name in sweep.data if name not in readable]:
        raise UnknownNameError("cohort in --data", unread[0], readable, "It must be a cohort that a chosen task reads.")
    entries = sweep.preset_entry().cohorts
    places = {}
    for name in names:
        source = name if name in sweep.data else cohorts.data_of(name)
        tasks = {row.task: each.task for row, each in resolved_rows.items() if each.task.cohort == name}
        if source in sweep.data:
            root = cohorts.folder_of(name, sweep.data[source])
            with verifying(sweep.verify), announcing(console.print):
                loaded = {title: task.load(root).check() for title, task in tasks.items()}
                places[name] = cohorts.cohort_at(name, root, loaded)
            for title, data in loaded.items():
                for note in data.provenance.get("notes", ()):
                    say(console, f"{title}: {note}")
            continue
        entry = entries.get(name) or cohorts.default_entry(name)
        if make:
            with verifying(sweep.verify):
                places[name] = cohorts.phantom(name, entry, resources_of(sweep).processes(), console.print)
        elif (made := cohorts.made_phantom(name, entry)) is not None:
            places[name] = made
            continue
        else:
            places[name] = cohorts.Cohort(CohortId(name=name, revision="not made yet", phantom=True), Path())
            continue
        for task in tasks.values():
            task.load(places[name].root).check()
    return places


def make_plan(sweep: Sweep, console: Console, *, make: bool = True) -> Plan:
    """Checks every name, finds what fits, finds or makes the cohorts, and lists the cells.

    Raises:
        ConfigError: Nothing that was asked for can run.
    """
    resolver = Resolver()
    with uncollected():  # this imports torch and what was asked for
        check_names(sweep, resolver)
        sweep = settled(sweep, resolver, console, make=make)
        candidates = rows(sweep, resolver)
        check_size(sweep, candidates)
        precision_of(sweep, device_of(sweep))
        good, skipped = fits(sweep, candidates, set(sweep.encoders or ()), resolver)
    if sweep.budget is not None:
        good, large = within_budget(sweep, good, sweep.budget, resolver)
        skipped |= large
    requested = set(requested_adapters(sweep))
    if not any(row.adapter in requested for row in good):
        reasons = "; ".join(f"{row.task} / {row.encoder} / {row.adapter}: {why}" for row, why in skipped.items())
        raise ConfigError(f"nothing to run: {reasons}")
    check_calibratable({row.task: each.objective for row, each in good.items()}, sweep.calibrate)
    check_keepable({row.task: objective_name(each.task.objective) for row, each in good.items()}, sweep.keep)
    others = other_tasks(sweep, resolver)
    places = locate(sweep, good, console, make=make, also=cohorts_of(others))
    tests, untested = external_tests(sweep, good, places, others, console, make=make)
    cells: dict[str, CellSpec] = {}
    labels: dict[str, str] = {}
    external: dict[str, list[ExternalTest]] = {}
    plan = Plan([], places, skipped, labels, external, untested)
    for row, resolved in good.items():
        seeds = cells_of(row, resolved, sweep, places[resolved.task.cohort], resolver)
        if sweep.tune:
            space = row_space(sweep, row, resolved, seeds[0].train)
            plan.spaces |= {seeds[0].row(): space} if space else {}
            plan.untuned += [] if space else [row]
        for cell in seeds:
            cells.setdefault(cell.key(), cell)
            labels.setdefault(cell.row(), row.label)
            external[cell.key()] = tests.get(row.task, [])
    plan.cells = list(cells.values())
    return plan
