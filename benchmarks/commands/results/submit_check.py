"""The command ``submit-check``: whether results may be published."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug, parse_data
from medgraft.commands.console import guarded

if TYPE_CHECKING:
    from rich.console import Console

    from medgraft.benchmarks.sharing.submission import Finding


def submit_check(
    results: Annotated[list[Path], typer.Argument(help="Folders or URLs of results that are to be handed on.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of a cohort, whose subjects' names are searched for in every file."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Check results before they are published: exit code 0 if they may be, 1 if not."""
    with guarded(debug=debug, resumes=False):
        import logging

        from rich.console import Console

        from medgraft.benchmarks.cohorts.places import folder_of
        from medgraft.benchmarks.mirror.place import local_folders
        from medgraft.benchmarks.sharing.material import read_material
        from medgraft.benchmarks.sharing.submission import as_json, check_submission, identifiers_of

        folders = local_folders(results)
        roots = {name: folder_of(name, Path(path)) for name, path in (parse_data(data) or {}).items()}
        reader = logging.getLogger("medgraft.benchmarks.cell")
        before = reader.level
        reader.setLevel(logging.ERROR)  # what is left out is among the findings
        try:
            material = read_material(folders)
        finally:
            reader.setLevel(before)
        findings = check_submission(material, identifiers_of(material, roots))
        if json:
            typer.echo(as_json(findings))
        else:
            _show(findings, Console(highlight=False))
        sys.exit(int(any(each.outcome == "fail" for each in findings)))


def _show(findings: list[Finding], console: Console) -> None:
    from medgraft.commands.plain_text import plain

    def say(text: str) -> None:
        console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    width = max(len(each.name) for each in findings)
    for each in findings:
        say(f"{each.outcome.upper():<4}  {each.name:<{width}}  {each.told}")
        for text in each.files:
            say(f"      - {text}")
        if each.count > len(each.files):
            say(f"      - and {each.count - len(each.files)} more")
        if each.remedy:
            say(f"      remedy: {each.remedy}")
    counts = {outcome: sum(each.outcome == outcome for each in findings) for outcome in ("pass", "warn", "fail")}
    say(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
