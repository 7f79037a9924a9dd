"""From what a person types to a row of results: a key or its beginning, a file, a folder, or names with slashes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgraft.benchmarks.board.rows import BoardRow, make_row, rows_of
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result_files import KEPT, UnreadableError
from medgraft.benchmarks.results.verification import Verified, check, verified_results
from medgraft.commands.plain_text import one_line
from medgraft.errors import ConfigError, MedgraftError, UnknownNameError

SHORTEST_KEY = 4
"""Characters of the beginning of a key."""

CHOICES = 12
"""Rows that a message names."""


@dataclass(frozen=True)
class Found:
    """A row of results.

    Attributes:
        row: Its seeds, joined.
        results: Each seed with its file, in the order of the seeds.
    """

    row: BoardRow
    results: Sequence[Verified]

    @property
    def key(self) -> str:
        """What a person may type for it: the key of its first seed."""
        return self.results[0].cell.key

    def named(self) -> str:
        """The row in words, by which it is told from all others."""
        return f"{name_of(self.row)} [{self.key[:8]}]"


def name_of(row: BoardRow) -> str:
    """Task, encoder and adapter of a row, and what tells it from rows of the same three."""
    spec = row.first.spec
    return one_line(f"{spec.task}/{spec.encoder}/{row.adapter}{' (PHANTOM)' if row.first.phantom else ''}")


def read_one(path: Path) -> Verified:
    """One result, checked.

    Args:
        path: Its file, or what lies beside it: predictions, log or graft.

    Raises:
        MedgraftError: There is none, or it contradicts itself.
    """
    path = path if path.suffix == ".json" else path.with_suffix(".json")
    try:
        return check(path, read_result(path))
    except UnreadableError as error:
        raise MedgraftError(f"{path} is no result that can be used: {error}") from error


def grouped(results: Iterable[Verified]) -> list[Found]:
    """Results by row."""
    results = list(results)
    by_row: dict[str, list[Verified]] = {}
    for each in results:
        by_row.setdefault(each.cell.spec.row(), []).append(each)
    rows = {row.first.spec.row(): row for row in rows_of(results)}
    return [Found(rows[key], sorted(seeds, key=lambda v: v.cell.spec.seed)) for key, seeds in by_row.items()]


def find(name: str, folders: Sequence[Path], seed: int | None = None) -> Found:
    """The one row, or cell, that a name stands for.

    Args:
        name: File or folder of results; or the beginning of a key; or an adapter, ``encoder/adapter``, ``task/adapter``
            or ``task/encoder/adapter``, where what tells alike rows apart may follow in brackets.
        folders: Results among which names are looked for.
        seed: One seed of the row.

    Raises:
        UnknownNameError: There is no such row.
        ConfigError: There are several; the message names them.
        MedgraftError: The file is no result, or a folder does not exist.
    """
    place = Path(name)
    if place.suffix in (".json", ".npz", ".log", KEPT) and (place.exists() or place.with_suffix(".json").exists()):
        found = _alone(read_one(place))
    elif place.is_dir():
        found = _only(name, grouped(verified_results([place])), [])
    else:
        if place.suffix == ".json":
            raise MedgraftError(f"{place} does not exist; name a file of a results folder")
        results = verified_results(folders)
        found = _by_key(name, results) or _by_name(name, results)
    return found if seed is None else _seed(found, seed)


def _alone(result: Verified) -> Found:
    row = make_row([(result.path, result.cell)])
    row.unverified = int(bool(result.unverified))
    return Found(row, [result])


def _seed(found: Found, seed: int) -> Found:
    for each in found.results:
        if each.cell.spec.seed == seed:
            return _alone(each)
    seeds = ", ".join(str(each.cell.spec.seed) for each in found.results)
    raise ConfigError(f"{found.named()} has no seed {seed}; it has {seeds}")


def _by_key(name: str, results: Sequence[Verified]) -> Found | None:
    """The cell whose key begins so; ``None`` where none does."""
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_KEY},16}}", name):
        return None
    matching = [each for each in results if each.cell.key.startswith(name)]
    if len(matching) > 1:
        raise ConfigError(f"{len(matching)} keys begin with {name}: {_listed([each.cell.key for each in matching])}")
    return _alone(matching[0]) if matching else None


def _by_name(name: str, results: Sequence[Verified]) -> Found:
    rows = grouped(results)
    wanted = _plain(name)
    for labels in (_exact, _loose):
        if matching := [each for each in rows if wanted in labels(each)]:
            return _only(name, matching, rows)
    return _only(name, [], rows)


def _exact(found: Found) -> set[str]:
    spec, row = found.row.first.spec, found.row
    ends = {spec.adapter, row.adapter, row.note} - {""}
    starts = ("", f"{spec.encoder}/", f"{spec.task}/", f"{spec.task}/{spec.encoder}/")
    return {_plain(f"{start}{end}") for start in starts for end in ends} | {_plain(spec.row())}


def _loose(found: Found) -> set[str]:
    """Names without the weights of an encoder, and the encoder or task alone."""
    spec = found.row.first.spec
    encoder = spec.encoder.partition("@")[0]
    return {_plain(each) for each in (f"{encoder}/{spec.adapter}", f"{spec.task}/{encoder}/{spec.adapter}")} | {
        _plain(each) for each in (spec.encoder, encoder, spec.task, f"{spec.task}/{spec.encoder}")
    }


def _plain(name: str) -> str:
    return " ".join(name.replace(" (PHANTOM)", "").casefold().strip("/").split())


def _only(name: str, matching: Sequence[Found], rows: Sequence[Found]) -> Found:
    shown = one_line(name, 80)
    if not matching:
        known = [name_of(each.row) for each in rows]
        short = list(dict.fromkeys(each.row.first.spec.adapter for each in rows))
        if not known:
            raise MedgraftError(f"there are no results in which {shown!r} could be found; name folders of results")
        raise UnknownNameError("row", shown, [*short, *known][: 4 * CHOICES], "Give a key or task/encoder/adapter.")
    if len(matching) > 1:
        raise ConfigError(
            f"{shown!r} may be {len(matching)} rows: {_listed([each.named() for each in matching])}; name one of them, "
            "or its key in the square brackets"
        )
    return matching[0]


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - CHOICES} more" if len(names) > CHOICES else ""
    return ", ".join(names[:CHOICES]) + more
