"""Commands on the cache of frozen features: ``cache ls``, ``prune``, ``verify``, ``export`` and ``import``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded

if TYPE_CHECKING:
    from medgraft.benchmarks.prefix_cache.contents import Listed
    from medgraft.benchmarks.prefix_cache.shared import SharedEntries

cache = typer.Typer(
    help="The cache of frozen features, of this machine (MEDGRAFT_CACHE) or in storage that machines share.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Place = Annotated[
    str | None,
    typer.Argument(help="s3://BUCKET/FOLDER, gs://..., or a shared folder. Default: the cache of this machine."),
]
Shared = Annotated[str, typer.Argument(help="s3://BUCKET/FOLDER, gs://..., or a folder, on any disk.")]


@cache.command("ls")
def ls(place: Place = None, debug: Debug = False) -> None:
    """List the entries: what they are, how large, and when they were last used or put there."""
    with guarded(debug=debug, resumes=False):
        import time

        from rich.console import Console

        from medgraft.commands.layout import say, show_table

        listed = _listed(place)
        rows = [
            (each.key[:12], each.what, size_text(each.size), time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)))
            for each in listed
        ]
        console = Console(highlight=False)
        if rows:
            show_table(console, ("entry", "what", "size", "used" if place is None else "made"), rows, 1)
        say(console, f"{len(listed)} entries, {size_text(sum(each.size for each in listed))}, in {_where(place)}")


@cache.command("prune")
def prune(
    place: Place = None,
    max_size: Annotated[
        str | None, typer.Option(help="Remove the longest unused until the rest fits: 500MB, 20GB.")
    ] = None,
    unused: Annotated[
        float | None, typer.Option(min=0, help="Remove what was not used (shared: made) in so many days.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Remove every entry.")] = False,
    debug: Debug = False,
) -> None:
    """Remove entries that nobody reads, and what killed processes have left."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.prefix_cache.contents import beyond, remove_local
        from medgraft.benchmarks.prefix_cache.contents import unused as unused_of
        from medgraft.benchmarks.prefix_cache.store import make_room, parse_size
        from medgraft.benchmarks.storage.claims import clear_holders
        from medgraft.files.cache_folder import cache_root

        budget = None if max_size is None else parse_size(max_size)
        listed, shared = _listed(place), None if place is None else _shared(place)
        now = None if shared is None else shared.storage.now()
        gone = list(listed) if all_ else [] if unused is None else unused_of(listed, unused, now)
        kept = [each for each in listed if each not in gone]
        gone += [] if budget is None else beyond(kept, budget)
        if shared is None:
            leftovers = make_room(cache_root(), None)
            count, size = remove_local(cache_root(), gone)
        else:
            for each in gone:
                shared.remove(each.key)
            old = shared.leftovers(LEFT)
            shared.storage.remove(list(old))
            clear_holders(shared.storage, LEFT)
            count, size, leftovers = len(gone), sum(each.size for each in gone), sum(each.size for each in old.values())
        busy = f"; {len(gone) - count} are being read and stay" if count < len(gone) else ""
        left = f"; {size_text(leftovers)} that killed processes had left" if leftovers else ""
        typer.echo(f"removed {count} of {len(listed)} entries, {size_text(size)}, in {_where(place)}{left}{busy}")


LEFT = 86_400.0
"""Seconds after which a file in shared storage that no entry names was left by a process that was killed."""


@cache.command("verify")
def verify(
    place: Place = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is damaged; it is made again.")] = False,
    debug: Debug = False,
) -> None:
    """Read every file and hold it against its checksum: exit code 1 if an entry is damaged."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.prefix_cache.contents import UNCHECKED, folder_of, local_problem, remove_local
        from medgraft.files.cache_folder import cache_root

        shared = None if place is None else _shared(place)
        problems: dict[str, str] = {}
        if shared is None:
            listed = _listed(place)
            problems = {each.key: local_problem(folder_of(cache_root(), each.key)) for each in listed}
        else:
            with tempfile.TemporaryDirectory(prefix="medgraft-verify-") as folder:
                problems = {each.key: shared.problem(each, Path(folder)) for each in shared.listed()}
        unchecked = [key for key, problem in problems.items() if problem == UNCHECKED]
        bad = {key: problem for key, problem in problems.items() if problem and problem != UNCHECKED}
        for key, problem in bad.items():
            typer.echo(f"{key}: {problem}{'; removed' if delete else ''}")
            if delete and shared is not None:
                shared.remove(key)
            elif delete:
                remove_local(cache_root(), [each for each in _listed(place) if each.key == key])
        whole = len(problems) - len(bad) - len(unchecked)
        more = f", {len(unchecked)} without a checksum" if unchecked else ""
        typer.echo(f"{whole} entries are whole, {len(bad)} damaged{more}, in {_where(place)}")
        sys.exit(1 if bad else 0)


@cache.command("export")
def export(to: Shared, debug: Debug = False) -> None:
    """Send the entries of this machine to shared storage, or into a folder of any disk; what is there stays."""
    with guarded(debug=debug):
        from medgraft.benchmarks.prefix_cache.contents import send
        from medgraft.files.cache_folder import cache_root

        shared = _shared(to)
        shared.storage.check()
        done = list(send(cache_root(), shared))
        sent = [each for each, new in done if new]
        size = size_text(sum(each.size for each in sent))
        typer.echo(f"sent {len(sent)} entries, {size}, to {_where(to)}; {len(done) - len(sent)} were there")


@cache.command("import")
def import_(source: Shared, debug: Debug = False) -> None:
    """Fetch the entries of shared storage, or of an exported folder, into the cache of this machine."""
    with guarded(debug=debug):
        from medgraft.benchmarks.prefix_cache.contents import fetch
        from medgraft.files.cache_folder import cache_root

        done = list(fetch(cache_root(), _shared(source)))
        fetched = [each for each, new in done if new]
        size = size_text(sum(each.size for each in fetched))
        typer.echo(f"fetched {len(fetched)} of {len(done)} entries, {size}, from {_where(source)}")


def size_text(size: int) -> str:
    """Bytes for people.

    Example:
        >>> size_text(999), size_text(1_500_000), size_text(20 * 10**9)
        ('999 B', '1.5 MB', '20.0 GB')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _shared(place: str) -> SharedEntries:
    from medgraft.benchmarks.prefix_cache.shared import SharedEntries
    from medgraft.benchmarks.storage.opening import open_storage

    return SharedEntries(open_storage(place))


def _listed(place: str | None) -> list[Listed]:
    from medgraft.benchmarks.prefix_cache.contents import local_entries, shared_listed
    from medgraft.files.cache_folder import cache_root

    return local_entries(cache_root()) if place is None else shared_listed(_shared(place))


def _where(place: str | None) -> str:
    from medgraft.benchmarks.storage.opening import as_url
    from medgraft.files.cache_folder import cache_root

    return str(cache_root()) if place is None else as_url(place)
