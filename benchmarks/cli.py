"""Commands of the harness: ``run``, ``cohort``, ``leaderboard``, ``pairs``.

``python -m benchmarks.run``, ``python -m medgraft.benchmarks.run`` and ``medgraft run`` are one parser.
"""

from __future__ import annotations

import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medgraft.benchmarks.texts import listed, listed_encoders, parse_seeds
from medgraft.console import entered, guarded, tell_if_deaf

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def parse_data(items: list[str] | None) -> dict[str, str] | None:
    """``NAME=PATH`` items as a mapping."""
    from medgraft.errors import ConfigError

    if not items:
        return None
    pairs = {}
    for item in items:
        name, sign, path = item.partition("=")
        if not (name and sign and path):
            raise ConfigError(f"--data {item!r} is not of the form NAME=PATH, for example adni=/data/ADNI")
        pairs[name] = path
    return pairs


def run(
    adapters: Annotated[str | None, typer.Option(help="Adapters, comma-separated; + composes: lora+ace_hgnn.")] = None,
    encoders: Annotated[
        str | None, typer.Option(help="Encoders, source:model@weights; default: the tasks' own.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks; default: those of each adapter.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds: 0,1,2 or 0-4. Default: the preset's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, for every adapter that trains.")] = None,
    backend: Annotated[str | None, typer.Option(help="eager, compile, fused or auto.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32 or bf16, for what is trained; bf16_frozen for the encoder too.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or auto for a GPU if there is one.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a real cohort; may be repeated.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of the results. Default: results.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; results do not depend on it.")] = None,
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
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a cell is killed.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per worker; numbers may depend on it.")] = None,
    baselines: Annotated[bool | None, typer.Option(help="Add the reference rows.", show_default=False)] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file of the cohorts again; do not go by sizes and times.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME.OPTION=VALUE: lora.rank=4, chexpert.labels=all, train.lr=1e-3, train.lora.epochs=3."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run more than 10,000 cells without being asked twice.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more; may name files of the cohort.")] = False,
    debug: Debug = False,
) -> None:
    """Sweep adapters x encoders x tasks x seeds; finished cells are kept and not run again."""
    from medgraft.benchmarks.fork_server import ended_on_error, start_fork_server
    from medgraft.benchmarks.importing import uncollected

    with guarded(debug=debug, verbose=verbose), ended_on_error():
        if not dry_run:
            tell_if_deaf()
        if not dry_run and config is None and cache_size is None:  # workers read the size of the cache from it
            start_fork_server()
        with uncollected():
            from medgraft.benchmarks.plan import read_sweep
            from medgraft.benchmarks.sweep import show_plan, sweep_and_show

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
            "preset": preset,
            "limit": limit,
            "augment_views": augment_views,
            "cache_size": cache_size,
            "timeout": timeout,
            "threads": threads,
            "baselines": baselines,
            "verify": verify or None,
            "yes": yes or None,
        }
        sweep = read_sweep(config, overrides, set_ or ())
        if sweep.cache_size is not None:
            os.environ["MEDGRAFT_CACHE_SIZE"] = sweep.cache_size  # workers read it too
        if dry_run:
            show_plan(sweep)
            return
        command = shlex.join(
            ["medgraft", "run", *sys.argv[1:]] if sys.argv[1:2] != ["run"] else ["medgraft", *sys.argv[1:]]
        )
        failed = sweep_and_show(sweep, fresh=fresh, command=command, verbose=verbose or debug)
        sys.exit(1 if failed else 0)


class Phantom(StrEnum):
    """Cohorts with a phantom twin."""

    adni = "adni"
    chexpert = "chexpert"
    rsna = "rsna"
    siim = "siim"
    nih = "nih"
    mimic = "mimic"


def cohort(
    name: Annotated[Phantom, typer.Argument(help="Which cohort's layout to write.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    subjects: Annotated[int, typer.Option(help="adni: subjects.", min=4)] = 280,
    visits: Annotated[int, typer.Option(help="adni: most visits per subject.", min=1, max=8)] = 2,
    layout: Annotated[str, typer.Option(help="adni: loni or bids.")] = "loni",
    form: Annotated[str, typer.Option(help="adni: processed, or raw as from the scanner.")] = "processed",
    spacing: Annotated[float, typer.Option(help="adni: voxel size in mm.")] = 3.0,
    train: Annotated[int, typer.Option(help="chexpert: training images.", min=1)] = 1500,
    valid: Annotated[int, typer.Option(help="chexpert: validation images.", min=1)] = 150,
    test: Annotated[int, typer.Option(help="chexpert: test images.", min=1)] = 450,
    per_class: Annotated[int, typer.Option(help="chexpert: images per class of the 5x200 table.", min=1)] = 60,
    images: Annotated[int, typer.Option(help="rsna, siim, nih, mimic: images.", min=4)] = 400,
    pairs: Annotated[
        int, typer.Option(help="rsna, siim, nih: MIMIC-CXR pairs beside the images, to train on.", min=0)
    ] = 0,
    size: Annotated[int, typer.Option(help="Chest cohorts: side in pixels.", min=64)] = 256,
    setting: Annotated[str, typer.Option(help="Named setting of the generator.")] = "default",
    seed: Annotated[int, typer.Option(help="Defines every file.", min=0, max=2**32 - 1)] = 0,
    jobs: Annotated[int, typer.Option(help="Worker processes.", min=1, max=1024)] = 1,
    debug: Debug = False,
) -> None:
    """Write a phantom cohort in the real layout; every file says that it is no person's."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.cohorts import write_phantom

        options: dict[str, Any] = {"seed": seed, "setting": setting}
        if name is Phantom.adni:
            options |= {"n_subjects": subjects, "max_visits": visits, "layout": layout, "spacing": spacing}
            options |= {"form": form} if form != "processed" else {}
        elif name is Phantom.mimic:
            options |= {"n_images": images, "size": size}
        elif name is not Phantom.chexpert:
            options |= {"n_images": images, "n_pairs": pairs, "size": size}
        else:
            options |= {
                "n_train": train,
                "n_valid": valid,
                "n_test": test,
                "n_5x200_per_class": per_class,
                "size": size,
            }
        write_phantom(name.value, out, options, jobs)
        typer.echo(f"PHANTOM cohort {name.value} written to {out}; use it with --data {name.value}={out}")


def pairs(
    root: Annotated[Path, typer.Argument(help="Folder of a copy of MIMIC-CXR, images and reports.")],
    out: Annotated[Path, typer.Option(help="New CSV file.")],
    section: Annotated[str, typer.Option(help="findings+impression, impression or findings.")] = "findings+impression",
    verbose: Annotated[bool, typer.Option("--verbose", help="Name what was left out.")] = False,
    debug: Debug = False,
) -> None:
    """Write the table of frontal images and report texts that contrastive training code reads."""
    with guarded(debug=debug, verbose=verbose):
        from medgraft.benchmarks.data.mimic import read_mimic, write_pairs

        table = read_mimic(root, section=section)  # pyright: ignore[reportArgumentType]
        write_pairs(table, out)
        left_out = ", ".join(f"{reason}: {count}" for reason, count in sorted(table.report.skipped.items()))
        typer.echo(f"{len(table.frame)} pairs written to {out}; left out: {left_out or 'nothing'}")


def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Folders of results; they are merged.")],
    out: Annotated[Path, typer.Option(help="Folder for leaderboard.md and leaderboard.csv.")] = Path(),
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated: further metrics to show, such as precision_ad,recall_ad.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Build the leaderboard from any folders of results."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.kernel_results import read_operations
        from medgraft.benchmarks.leaderboard import board_rows, write_board
        from medgraft.benchmarks.sweep import show_board
        from medgraft.errors import MedgraftError

        rows, operations = board_rows(results), read_operations(results)
        if not rows and not operations:
            raise MedgraftError(f"no readable result below {', '.join(map(str, results))}")
        also = listed(metrics, "--metrics") or []
        asked = ["--metrics", metrics] if metrics else []
        command = shlex.join(["medgraft", "leaderboard", *map(str, results), *asked])
        text, data = write_board(rows, out, command, operations, also)
        show_board(rows)
        typer.echo(f"written: {text}, {data}")


def expert_load(
    results: Annotated[list[Path], typer.Argument(help="Folders of results; they are merged.")],
    out: Annotated[Path, typer.Option(help="SVG file to write.")],
    debug: Debug = False,
) -> None:
    """Draw which experts of tgh_moe the tokens of each task chose, from any folders of results."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.leaderboard import board_rows
        from medgraft.benchmarks.load_figure import draw_loads, loads

        found = loads(board_rows(results))
        draw_loads(found, out)
        typer.echo(f"written: {out} ({len(found)} panels)")


def register(app: typer.Typer) -> None:
    """Adds the harness's commands to the ``medgraft`` command."""
    from medgraft.benchmarks import cohort_cli, embed_cli

    app.command("run")(run)
    app.command("cohort")(cohort)
    app.command("leaderboard")(leaderboard)
    app.command("expert-load")(expert_load)
    app.command("pairs")(pairs)
    app.command("prepare")(cohort_cli.prepare)
    app.command("embed")(embed_cli.embed)
    app.command("leak-check")(cohort_cli.leak_check)


def main() -> None:
    """Entry point of ``python -m benchmarks.run``."""
    entered("benchmarks.run", lambda: typer.run(run))


if __name__ == "__main__":
    main()
