"""The command ``medgraft``: list and describe plugins; the harness adds running, cohorts and leaderboards."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgraft import __version__
from medgraft.commands.console import guarded
from medgraft.plugins import CONTRACTS, Kind, summary

if TYPE_CHECKING:
    from medgraft.plugins import Plugin

app = typer.Typer(
    help="Graft small trainable adapters onto frozen medical encoders, and measure what each graft is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


KINDS: dict[str, Kind] = {contract.group.partition(".")[2]: kind for kind, contract in CONTRACTS.items()}
"""Word for several -> the kind: ``adapters`` -> ``adapter``."""

SUITES = "suites"
LISTED = (*KINDS, SUITES)
Listed = StrEnum("Listed", list(LISTED))
"""What ``ls`` lists."""


class Kinds(StrEnum):
    """What ``new`` makes."""

    adapter = "adapter"
    encoder = "encoder"
    task = "task"


def _version(value: bool) -> None:
    if value:
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
    """What a list says of a built-in plugin; of a foreign one nothing, since that would import it."""
    from medgraft.registry import catalogue

    if not plugin.builtin:
        return ""
    sources: dict[Kind, Mapping[str, Any]] = {
        "adapter": catalogue().adapters,
        "encoder": catalogue().encoders.sources,
        "task": catalogue().tasks,
    }
    if kind not in sources:
        return summary(plugin)
    entry = sources[kind].get(plugin.name)
    return entry.title if entry is not None else ""


@app.command("ls")
def list_plugins(
    what: Annotated[Listed | None, typer.Argument(help="Which plugins; all by default.")] = None,
    broken: Annotated[
        bool, typer.Option("--broken", help="Import each in a process of its own; show those that fail, and why.")
    ] = False,
    limit: Annotated[float, typer.Option(help="--broken: seconds that a plugin may take to import.", min=0.1)] = 10.0,
    debug: Debug = False,
) -> None:
    """List plugins without importing any."""
    with guarded(debug=debug, resumes=False):
        if what is not None and what.value == SUITES:
            _show_suites()
            return
        kinds: list[Kind] = list(KINDS.values()) if what is None else [KINDS[what.value]]
        if broken:
            _show_broken(kinds, limit)
        else:
            _show_plugins(kinds)


def _show_suites() -> None:
    from rich.console import Console

    from medgraft.commands.suites import suite_table

    Console().print(suite_table())


def _show_plugins(kinds: list[Kind]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from medgraft import plugins
    from medgraft.registry import catalogue

    several, tagged = len(kinds) > 1, kinds == ["task"]
    tags = {name: ", ".join(entry.tags) for name, entry in catalogue().tasks.items()}
    names = Column("name", no_wrap=True, overflow="fold")  # they are typed, so none may be cut off
    table = Table(*(["kind"] if several else []), names, "from", "title", *(["tags"] if tagged else []))

    def row(kind: Kind, name: str, source: str, title: str) -> None:
        texts = [*([kind] if several else []), name, source, title, *([tags.get(name, "")] if tagged else [])]
        table.add_row(*map(Text, texts))  # as they are: brackets are shapes, not markup

    for kind in kinds:
        for name, plugin in plugins.discover(kind).items():
            source = f"{plugin.distribution} {plugin.version}"
            row(kind, name, source, _title(kind, plugin))
            for variant, entry in catalogue().tasks.items():
                if kind == "task" and plugin.builtin and variant.startswith(f"{name}:"):
                    row(kind, variant, source, entry.title)
        if kind == "encoder":
            for alias, entry in catalogue().encoders.aliases.items():
                row(kind, alias, "alias", entry.name)
    Console().print(table)
    for kind in kinds:
        survey = plugins.survey(kind)
        for name, contenders in survey.shared.items():
            typer.echo(f"{kind} {name} is offered by several distributions; ask for {' or '.join(contenders)}")
        if survey.off:
            names = ", ".join(sorted(plugin.name for plugin in survey.off))
            typer.echo(f"switched off by {plugins.DISABLE_VARIABLE}: {kind} {names}")


def _show_broken(kinds: list[Kind], limit: float) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from medgraft import plugins
    from medgraft.plugins import trials as probing

    findings = probing.problems(kinds, limit)
    if not findings:
        tried = sum(len(plugins.survey(kind).usable) for kind in kinds)
        typer.echo(f"all {tried} {kinds[0] if len(kinds) == 1 else 'plugin'}s load")
        return
    table = Table("name", "kind", "from", "what happened", "what to do")
    for finding in findings:
        plugin = finding.plugin
        happened = finding.message + (f"\nit printed: {finding.output}" if finding.output else "")
        where = Text(f"{plugin.distribution} {plugin.version}")
        table.add_row(Text(plugin.name), plugin.kind, where, Text(happened), Text(finding.remedy))
    Console().print(table)


@app.command()
def new(
    what: Annotated[Kinds, typer.Argument(help="Kind of plugin.")],
    name: Annotated[str, typer.Argument(help="Name by which it will be asked for: my_adapter.")],
    out: Annotated[Path, typer.Option(help="Folder in which the package's folder is made.")] = Path(),
    debug: Debug = False,
) -> None:
    """Write a package with a plugin that works, for you to change."""
    with guarded(debug=debug, resumes=False):
        from medgraft.scaffold import run_command, write_package

        folder = write_package(what.value, name, out)
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"):
            typer.echo(f"  {path}")
        typer.echo(
            f"\ncd {shlex.quote(str(folder))}\npip install -e '.[test]'\npytest\n{run_command(what.value, name)}"
        )


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="An adapter, an encoder source, a task, or a plugin of another kind.")],
    suite: Annotated[str | None, typer.Argument(help="Behind the word suite: the suite's name.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Show where an adapter would attach to this encoder.")] = None,
    sites: Annotated[bool, typer.Option("--sites", help="Draw the sites of an encoder source:model.")] = False,
    debug: Debug = False,
) -> None:
    """Describe one plugin; imports that plugin only."""
    from rich.console import Console

    with guarded(debug=debug, resumes=False):
        from medgraft.commands.describing import describe_plugin
        from medgraft.commands.suites import describe_suite
        from medgraft.errors import ConfigError

        if name == "suite" and suite is not None:
            describe_suite(Console(highlight=False), suite)
            return
        if suite is not None:
            raise ConfigError(f"{name!r} {suite!r}: one name is described at a time; of a suite, `describe suite NAME`")
        describe_plugin(Console(highlight=False), name, encoder, sites=sites)


@app.command("import")
def import_file(
    adapter: Annotated[str, typer.Argument(help="Whose file it is: ace_lora, soft_prefix or xattn.")],
    file: Annotated[Path, typer.Argument(help="The published checkpoint.")],
    out: Annotated[Path, typer.Option(help="Adapter folder to write.")],
    encoder: Annotated[str | None, typer.Option(help="Encoder it was trained on. Default: the method's own.")] = None,
    debug: Debug = False,
) -> None:
    """Make an adapter folder of a published checkpoint: every key accounted for, numbers unchanged."""
    with guarded(debug=debug, resumes=False):
        typer.echo(_layout(adapter, "import_file")(file, out, encoder))


def export_layout(folder: Path, layout: str, out: Path) -> str:
    """Writes an adapter folder in the layout of a method's authors, and says what was written.

    Args:
        folder: The adapter folder.
        layout: Name of the adapter whose layout it is.
        out: The file.

    Raises:
        ConfigError: The adapter knows no such layout.
    """
    return _layout(layout, "export_file")(folder, out)


LAYOUTS = {"import_file": "ace_lora, soft_prefix and xattn do", "export_file": "ace_lora does"}
"""What an adapter may offer for its authors' files -> which of ours do."""


def _layout(adapter: str, function: str) -> Callable[..., str]:
    from medgraft.errors import ConfigError
    from medgraft.registry import adapter_class, resolve_adapter

    converter = getattr(adapter_class(resolve_adapter(adapter)), function, None)
    if converter is None:
        what = "reads no file of its authors" if function == "import_file" else "writes no layout of its authors"
        raise ConfigError(f"adapter {adapter!r} {what}; {LAYOUTS[function]}")
    return converter


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="An adapter, an encoder source:model or a task.")],
    kind: Annotated[Kinds | None, typer.Option(help="What it is, where plugins of several kinds share a name.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a task's cohort; a small phantom without.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds for all checks.", min=1, max=86_400)] = 600.0,
    debug: Debug = False,
) -> None:
    """Run the conformance kit on one plugin: exit code 0 if it keeps every rule, 1 if not, 2 if it cannot be loaded."""
    from rich.console import Console

    from medgraft.testing import command

    with guarded(debug=debug, resumes=False):
        console = Console(highlight=False)
        checks = command.checks_of(name, kind.value if kind else None, data)
        outcomes = command.run(checks, lambda outcome: command.show(console, outcome), limit)
        command.show_counts(console, name, outcomes)
        sys.exit(int(any(each.result == "failed" for each in outcomes)))
