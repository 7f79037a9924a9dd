"""Commands that write cohorts: ``cohort NAME`` a phantom one, ``pairs`` the table of pairs of MIMIC-CXR."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from medgraft import plugins
from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded
from medgraft.errors import MedgraftError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class Cohorts(TyperGroup):
    """One command for each cohort that a plugin offers, made of the options of its phantom when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the cohorts; nothing is imported."""
        return sorted(plugins.discover("cohort"))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of one cohort."""
        try:
            plugins.find("cohort", cmd_name)
        except MedgraftError as error:
            ctx.fail(str(error))
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        try:
            single.command(cmd_name, help=_help(cmd_name))(_command(cmd_name))
        except MedgraftError as error:  # of this cohort alone: the others are still listed
            anything = {"ignore_unknown_options": True, "allow_extra_args": True}
            said = f"Cannot be loaded: {error}"
            single.command(cmd_name, help=said, context_settings=anything)(_refused(error))
        return typer.main.get_command(single)


cohort = typer.Typer(
    cls=Cohorts,
    help="Write a phantom cohort in the real layout; every file says that it is no person's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _help(name: str) -> str:
    return f"Write a phantom of {name}: {plugins.summary(plugins.find('cohort', name)) or 'see its package'}"


def _command(name: str) -> Any:
    """The function behind ``medgraft cohort NAME``, with a parameter for each field of the cohort's ``Config``.

    Raises:
        MedgraftError: The cohort cannot be loaded.
    """

    def write(out: Path, jobs: int, debug: bool, **options: Any) -> None:
        with guarded(debug=debug, resumes=False):
            from medgraft.benchmarks.cohorts.places import write_phantom

            write_phantom(name, out, options, jobs)
            typer.echo(f"PHANTOM cohort {name} written to {out}; use it with --data {name}={out}")

    parameters = [_parameter("out", Path, inspect.Parameter.empty, typer.Option(help="New folder."))]
    parameters += _options(name)
    parameters.append(_parameter("jobs", int, 1, typer.Option(help="Worker processes.", min=1, max=1024)))
    parameters.append(_parameter("debug", bool, False, typer.Option("--debug", help="Show tracebacks.")))
    write.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    write.__annotations__ = {each.name: each.annotation for each in parameters}
    return write


def _refused(error: MedgraftError) -> Any:
    """The function behind the command of a cohort that cannot be loaded."""

    def refuse(debug: Debug = False) -> None:
        with guarded(debug=debug, resumes=False):
            raise error

    return refuse


def _options(name: str) -> Iterable[inspect.Parameter]:
    """Parameters of a command for the fields of a cohort's options: type, default, bounds and meaning."""
    from medgraft.cohort import cohort_class
    from medgraft.options import described

    config = cohort_class(name).Config
    meanings = {option.name: option.meaning for option in described(config)}
    for field, info in config.model_fields.items():
        option = typer.Option(help=meanings[field], **_bounds(info))
        default = inspect.Parameter.empty if info.is_required() else info.get_default(call_default_factory=True)
        yield _parameter(field, info.annotation, default, option)


def _bounds(info: FieldInfo) -> dict[str, Any]:
    """``min`` and ``max`` of a number, as the command line knows them; pydantic checks the rest."""
    names = {"ge": "min", "le": "max"}
    return {names[bound]: getattr(each, bound) for each in info.metadata for bound in names if hasattr(each, bound)}


def _parameter(name: str, kind: Any, default: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def pairs(
    root: Annotated[Path, typer.Argument(help="Folder of a copy of MIMIC-CXR, images and reports.")],
    out: Annotated[Path, typer.Option(help="New CSV file.")],
    section: Annotated[str, typer.Option(help="findings+impression, impression or findings.")] = "findings+impression",
    verbose: Annotated[bool, typer.Option("--verbose", help="Name what was left out.")] = False,
    debug: Debug = False,
) -> None:
    """Write the table of frontal images and report texts that contrastive training code reads."""
    with guarded(debug=debug, verbose=verbose):
        from medgraft.benchmarks.cohorts.chest.mimic import read_mimic, write_pairs

        table = read_mimic(root, section=section)  # pyright: ignore[reportArgumentType]
        write_pairs(table, out)
        left_out = ", ".join(f"{reason}: {count}" for reason, count in sorted(table.report.skipped.items()))
        typer.echo(f"{len(table.frame)} pairs written to {out}; left out: {left_out or 'nothing'}")
