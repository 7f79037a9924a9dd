"""The command ``medgraft``: list and describe plugins; the harness adds running, cohorts and leaderboards."""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgraft import __version__
from medgraft.console import guarded

if TYPE_CHECKING:
    from medgraft.plugins import Kind, Plugin

app = typer.Typer(
    help="Graft small trainable adapters onto frozen medical encoders, and measure what each graft is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class Listed(StrEnum):
    """What ``ls`` lists."""

    adapters = "adapters"
    encoders = "encoders"
    tasks = "tasks"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medgraft {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command."""


def _title(kind: Kind, plugin: Plugin) -> str:
    from medgraft.registry import catalogue

    if not plugin.builtin:
        return ""
    tables: dict[str, Any] = {
        "adapter": catalogue().adapters,
        "encoder": catalogue().encoders.sources,
        "task": catalogue().tasks,
    }
    entry = tables[kind].get(plugin.name)
    return entry.title if entry is not None else ""


@app.command("ls")
def list_plugins(
    what: Annotated[Listed, typer.Argument(help="Which plugins.")],
    broken: Annotated[bool, typer.Option("--broken", help="Import them all; show those that fail, and why.")] = False,
    debug: Debug = False,
) -> None:
    """List plugins without importing any."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from medgraft import plugins
    from medgraft.registry import catalogue

    kind: Kind = {"adapters": "adapter", "encoders": "encoder", "tasks": "task"}[what.value]  # pyright: ignore
    with guarded(debug=debug):
        table = Table("name", "from", "error" if broken else "title")
        found = plugins.discover(kind)
        errors = plugins.broken(kind) if broken else {}
        for name, plugin in found.items():
            if broken and name not in errors:
                continue
            text = errors[name] if broken else _title(kind, plugin)
            table.add_row(name, f"{plugin.distribution} {plugin.version}", Text(text))
        if kind == "encoder" and not broken:
            for alias, entry in catalogue().encoders.aliases.items():
                table.add_row(alias, "alias", entry.name)
        if broken and not errors:
            typer.echo(f"all {len(found)} {what.value} load")
        else:
            Console().print(table)


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="An adapter, encoder source or task.")],
    encoder: Annotated[str | None, typer.Option(help="Show where an adapter would attach to this encoder.")] = None,
    debug: Debug = False,
) -> None:
    """Describe one plugin; imports that plugin only."""
    from medgraft import plugins
    from medgraft.errors import UnknownNameError
    from medgraft.registry import catalogue

    with guarded(debug=debug):
        alias = catalogue().encoders.aliases.get(name.partition("@")[0])
        base = (alias.name if alias else name.partition("@")[0]).partition(":")[0]
        for kind in plugins.GROUPS:
            known = plugins.discover(kind)
            if name in known or base in known:
                _describe(kind, known[name] if name in known else known[base], name, encoder)
                return
        everything = [each for kind in plugins.GROUPS for each in plugins.discover(kind)]
        raise UnknownNameError("adapter, encoder or task", name, everything)


def _describe(kind: Kind, plugin: Plugin, name: str, encoder: str | None) -> None:
    from rich.console import Console

    from medgraft import plugins
    from medgraft.registry import catalogue

    console = Console(highlight=False)
    found = plugins.load(plugin)
    console.print(f"[bold]{plugin.name}[/bold]  {kind}, {plugin.target}, {plugin.distribution} {plugin.version}")
    console.print(inspect.cleandoc(found.__doc__ or ""), markup=False)
    entry = catalogue().adapters.get(plugin.name) if kind == "adapter" and plugin.builtin else None
    if entry is not None:
        console.print(f"paper: {entry.paper}\ndefault tasks: {', '.join(entry.tasks)}", markup=False)
    if kind == "encoder":
        for model, line in found.models().items():
            console.print(f"  {plugin.name}:{model}  {line}", markup=False)
        return
    config = getattr(found, "Config", None)
    if config is not None and config.model_fields:
        console.print(inspect.cleandoc(config.__doc__ or ""), markup=False)
        for field, info in config.model_fields.items():
            console.print(f"  {field}: {info.annotation} = {info.get_default()!r}", markup=False)
    if kind == "adapter" and encoder is not None:
        _coverage(console, name, encoder)


def _coverage(console: Any, name: str, encoder: str) -> None:
    from medgraft.grafting import graft

    grafted = graft(encoder, name)
    for adapter, patterns in grafted.coverage().items():
        for pattern, sites in patterns.items():
            console.print(f"{adapter}: {pattern} hits {len(sites)} sites: {', '.join(sites[:6])}", markup=False)
    for part, trainable in grafted.trainable_count().items():
        console.print(f"{part}: {trainable:,} trainable parameters", markup=False)


def main() -> None:
    """Entry point of the ``medgraft`` command."""
    from medgraft.benchmarks import cli as harness  # the command line is where core and harness are put together

    harness.register(app)
    app()


if __name__ == "__main__":
    main()
