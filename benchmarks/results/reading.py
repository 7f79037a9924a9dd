"""Results from their files, one by one and from folders of several machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from medgraft.benchmarks.results.left_out import LeftOut
from medgraft.benchmarks.results.migrations import migrated
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import (
    UnreadableError,
    read_json,
    results_below,
)
from medgraft.benchmarks.results.spec import key_as_written
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.options import readable

WRONG_KEY = "whose key is not that of what defines them"
"""Kind of :class:`UnreadableError` of a result whose specification somebody edited."""


def read_result(path: Path) -> CellResult:
    """The result in a file, of any known version of the schema, its key checked and nothing else.

    Raises:
        UnreadableError: It is none, of an unknown version, or its key is not that of its specification.
    """
    data = migrated(read_json(path))
    try:
        result = CellResult.model_validate(data)
    except ValidationError as error:
        raise UnreadableError(f"it is not a readable result: {one_line(readable(error), 300)}") from error
    if result.key != result.spec.key() and result.key != key_as_written(data["spec"]):
        raise UnreadableError("its key is not that of its specification", WRONG_KEY)
    return result


def candidates(folders: Iterable[Path]) -> Iterator[Path]:
    """Files below the folders that would be results by their names.

    Raises:
        MedgraftError: A folder does not exist.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise MedgraftError(f"results folder {folder} does not exist")
        yield from results_below(Path(folder))


def read_candidates(folders: Iterable[Path], left_out: LeftOut) -> Iterator[tuple[Path, CellResult]]:
    """All readable results below the folders, several of one key where there are.

    Args:
        folders: Of results.
        left_out: Takes the files that are no results.

    Raises:
        MedgraftError: A folder does not exist.
    """
    for path in candidates(folders):
        try:
            result = read_result(path)
        except UnreadableError as error:
            left_out.add(path, error)
            continue
        yield path, result


def read_results(folders: Iterable[Path]) -> Iterator[tuple[Path, CellResult]]:
    """The same, one per key, so that folders of several machines merge.

    Of equal keys the first that succeeded wins, or the first where none did. Only their form and key are checked; see
    :func:`medgraft.benchmarks.results.verification.verified_results` for the rest.

    Raises:
        MedgraftError: A folder does not exist.
    """
    results: dict[str, tuple[Path, CellResult]] = {}
    left_out = LeftOut()
    for path, result in read_candidates(folders, left_out):
        if result.key not in results or (results[result.key][1].status != "success" and result.status == "success"):
            results[result.key] = (path, result)
    left_out.tell()
    yield from results.values()
