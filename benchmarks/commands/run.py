"""The command ``run``: a sweep."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from medgraft.benchmarks.commands.arguments import Debug, listed, listed_encoders, parse_data, parse_match, parse_seeds
from medgraft.commands.console import guarded, tell_if_deaf
from medgraft.errors import ConfigError


class RunCommand(TyperCommand):
    """``run``; its ``--tensorboard`` may go without a folder, for which Typer has no word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts ``auto`` behind an option that stands alone."""
        given: list[str] = []
        for word, following in zip(args, [*args[1:], "-"], strict=True):
            given += [word, "auto"] if word == "--tensorboard" and following.startswith("-") else [word]
        return super().parse_args(ctx, given)


def run(
    adapters: Annotated[str | None, typer.Option(help="Adapters, comma-separated; + composes: lora+ace_hgnn.")] = None,
    encoders: Annotated[
        str | None, typer.Option(help="Encoders, source:model@weights; default: the tasks' own.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks; task:* for all variants of one, tag:WORD for all with a tag. Default: those of each adapter."
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds: 0,1,2 or 0-4. Default: the preset's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, for every adapter that trains.")] = None,
    backend: Annotated[str | None, typer.Option(help="eager, compile, fused or auto.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="auto, fp32, bf16 for what is trained; bf16_frozen or fp8 for the encoder too."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or auto for a GPU if there is one.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a real cohort; may be repeated.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the files that --data table=TABLE names, where they are elsewhere.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch what is missing of data that can be had, such as MedMNIST, first.")
    ] = False,
    results: Annotated[
        str | None, typer.Option(help="Folder of the results, or s3://BUCKET/FOLDER, gs://... Default: results.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; results do not depend on it.")] = None,
    devices: Annotated[
        int | None, typer.Option(help="GPUs that train each cell together; with --device cpu, processes. Default: 1.")
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(help="What starts the workers, and where. Default: local, on this machine.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A launcher and its options, by their name in ~/.config/medgraft/launchers.yaml.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="quick, paper, ace_lora_ablation, chest_comparison, ...")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any of these and adapter options.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show cells and skipped pairs; run nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run finished cells again.")] = False,
    limit: Annotated[int | None, typer.Option(help="Largest number of samples per split.")] = None,
    augment_views: Annotated[
        int | None, typer.Option(help="Augmented views per image or volume, one drawn in each epoch. Default: none.")
    ] = None,
    cache_size: Annotated[
        str | None, typer.Option(help="What the cache of frozen features may hold. Default: 20GB; none for no limit.")
    ] = None,
    shared_cache: Annotated[
        str | None,
        typer.Option(help="Cache that machines share, behind each one's own: s3://BUCKET/FOLDER, or a folder."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a cell is killed.")] = None,
    order: Annotated[str | None, typer.Option(help="Order in which cells start: plan, or cheapest-first.")] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="End after so many hours; the same command goes on from there.")
    ] = None,
    max_cells: Annotated[int | None, typer.Option(help="Run so many cells at most.")] = None,
    checkpoint_every: Annotated[
        float | None, typer.Option(help="Seconds of training at least between two checkpoints of a cell.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per worker; numbers may depend on it.")] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="temperature: divide logits by what is best on validation samples.")
    ] = None,
    sets: Annotated[str | None, typer.Option(help="Score of the conformal sets: lac (default) or aps.")] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Share of the conformal sets that should hold the right class. Default: 0.9.")
    ] = None,
    sets_by_class: Annotated[
        bool, typer.Option("--sets-by-class", help="Cover each class so often, and not only all together.")
    ] = False,
    keep: Annotated[
        str | None, typer.Option(help="Keep trained grafts for predict: all, or best (a seed of each row).")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="A frozen set of tasks, splits and budgets; `medgraft ls suites` lists them.")
    ] = None,
    tune: Annotated[
        int | None, typer.Option(help="Trials per row that choose options and training on validation samples.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Scale each adapter to so many trainable parameters: 1M, 500k, 12000.")
    ] = None,
    baselines: Annotated[bool | None, typer.Option(help="Add the reference rows.", show_default=False)] = None,
    test_on: Annotated[
        str | None, typer.Option(help="Tasks or cohorts that trained grafts are tested on: oasis; nih,mimic.")
    ] = None,
    match: Annotated[
        list[str] | None, typer.Option(help="THEIRS=OURS: a class of --test-on and the same one of the task.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file of the cohorts again; do not go by sizes and times.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME.OPTION=VALUE: lora.rank=4, chexpert.labels=all, train.lr=1e-3, train.lora.epochs=3."
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="Write TensorBoard event files, into this folder or RESULTS/tensorboard if none is named."),
    ] = None,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="Write a log of JSON lines beside each result.")
    ] = False,
    traces: Annotated[
        bool, typer.Option("--traces", help="Send spans by OpenTelemetry, where its variables say.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Run more than 10,000 cells without being asked twice.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more; may name files of the cohort.")] = False,
    debug: Debug = False,
) -> None:
    """Sweep adapters x encoders x tasks x seeds; finished cells are kept and not run again."""
    from medgraft.benchmarks.garbage import uncollected
    from medgraft.benchmarks.launch.warm_start import ended_on_error
    from medgraft.launcher import launcher_class

    with guarded(debug=debug, verbose=verbose), ended_on_error():
        if not dry_run:
            tell_if_deaf()
        # A name that does not exist is refused before anything is read.
        chosen = launcher_class(launcher or "local") if launcher or (config is None and profile is None) else None
        # Workers read size and place of the caches from the environment, which a file may set.
        if chosen and not dry_run and config is None and cache_size is None and shared_cache is None:
            chosen.warm_up()
        with uncollected():
            from medgraft.benchmarks.prefix_cache.shared import VARIABLE as SHARED_CACHE
            from medgraft.benchmarks.storage.opening import as_url
            from medgraft.benchmarks.sweep.request import read_sweep
            from medgraft.benchmarks.sweep.run import show_plan, sweep_and_show

        overrides: dict[str, Any] = {
            "adapters": listed(adapters, "--adapters"),
            "encoders": listed_encoders(encoders, "--encoders"),
            "tasks": listed(tasks, "--tasks"),
            "seeds": parse_seeds(seeds),
            "epochs": epochs,
            "backend": backend,
            "precision": precision,
            "device": device,
            "data": parse_data(data),
            "results": results,
            "jobs": jobs,
            "devices": devices,
            "launcher": launcher,
            "profile": profile,
            "preset": preset,
            "limit": limit,
            "augment_views": augment_views,
            "cache_size": cache_size,
            "shared_cache": shared_cache,
            "timeout": timeout,
            "order": order,
            "max_hours": max_hours,
            "max_cells": max_cells,
            "checkpoint_every": checkpoint_every,
            "threads": threads,
            "calibrate": calibrate,
            "sets": sets,
            "coverage": coverage,
            "sets_by_class": sets_by_class or None,
            "keep": keep,
            "suite": suite,
            "tune": tune,
            "budget": budget,
            "baselines": baselines,
            "test_on": listed(test_on, "--test-on"),
            "match": parse_match(match),
            "verify": verify or None,
            "tensorboard": tensorboard,
            "json_logs": json_logs or None,
            "traces": traces or None,
            "yes": yes or None,
        }
        sweep = read_sweep(config, overrides, set_ or ())
        if root is not None:
            from medgraft.benchmarks.sweep.settling import with_root

            sweep = with_root(sweep, root)
        if sweep.cache_size is not None:
            os.environ["MEDGRAFT_CACHE_SIZE"] = sweep.cache_size  # workers read it too
        if sweep.shared_cache is not None:
            os.environ[SHARED_CACHE] = sweep.shared_cache
        if place := os.environ.get(SHARED_CACHE):
            os.environ[SHARED_CACHE] = as_url(place)  # workers elsewhere begin in other folders
        if download:
            from rich.console import Console

            from medgraft.benchmarks.sweep.fetching import fetch

            if dry_run:
                raise ConfigError("--dry-run fetches nothing; leave out one of --dry-run and --download")
            fetch(sweep, Console())
        if dry_run:
            show_plan(sweep)
            return
        command = shlex.join(
            ["medgraft", "run", *sys.argv[1:]] if sys.argv[1:2] != ["run"] else ["medgraft", *sys.argv[1:]]
        )
        failed = sweep_and_show(sweep, fresh=fresh, command=command, verbose=verbose or debug)
        sys.exit(1 if failed else 0)
