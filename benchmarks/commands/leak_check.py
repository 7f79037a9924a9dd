"""The command ``leak-check``: what a split by scan would have claimed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgraft.benchmarks.commands.arguments import Debug, listed_encoders, parse_data, parse_seeds
from medgraft.commands.console import guarded

if TYPE_CHECKING:
    from medgraft.benchmarks.audit.leak_check import LeakReport


def leak_check(
    adapter: Annotated[str, typer.Option(help="Adapter, + composes.")] = "linear_probe",
    task: Annotated[
        str, typer.Option(help="A task of classes or labels, with several scans per subject.")
    ] = "adni_image",
    encoders: Annotated[
        str | None, typer.Option(help="Comma-separated; default: the task's own and pixels:3d.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds: 0,1,2 or 0-4. Default: the preset's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of both trainings.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a real cohort.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of a sweep, for options of task and adapter.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes for making a phantom.", min=1)] = 1,
    debug: Debug = False,
) -> None:
    """Train one cell with a scan-level and with a subject-level split, and report what the leak would claim."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.audit.leak_check import leak_check as run
        from medgraft.benchmarks.sweep.request import read_sweep
        from medgraft.benchmarks.sweep.rows import encoders_of

        chosen = listed_encoders(encoders, "--encoders")
        if chosen is None and "phantom_brain" in encoders_of(task):
            chosen = list(dict.fromkeys([*encoders_of(task), "pixels:3d"]))
        overrides: dict[str, Any] = {
            "adapters": [adapter],
            "tasks": [task],
            "encoders": chosen,
            "seeds": parse_seeds(seeds),
            "epochs": epochs,
            "data": parse_data(data),
        }
        reports = run(read_sweep(config, overrides), lambda line: typer.echo(line, err=True), jobs=jobs)
        _show_leaks(reports)
        if out is not None:
            _write_leaks(reports, out)


def _show_leaks(reports: list[LeakReport]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = reports[0]
    title = f"{first.task}{' (PHANTOM)' if first.phantom else ''}, {first.metric}, {len(first.seeds)} seeds"
    table = Table("encoder", "adapter", "split by subject", "split by scan", "the leak adds", title=title)
    for each in reports:
        numbers = (_with_interval(value) for value in (each.subject, each.scan, each.difference))
        table.add_row(each.encoder, each.adapter, *numbers)
    Console().print(table)
    typer.echo(
        f"Same {first.n_test} test scans and {first.n_train} training scans in both; the split by scan had trained on "
        f"the subjects of {first.exposed:.0%} of the test scans. Only the split by subject speaks of new people."
    )


def _with_interval(metric: tuple[float | None, float | None, float | None]) -> str:
    value, low, high = metric
    if value is None or low is None or high is None:
        return "-" if value is None else f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _write_leaks(reports: list[LeakReport], out: Path) -> None:
    import json

    from medgraft.errors import MedgraftError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([each.model_dump(mode="json") for each in reports], indent=1) + "\n")
    except OSError as error:
        raise MedgraftError(f"{out} cannot be written: {error}; choose another --out") from error
    typer.echo(f"written: {out}")
