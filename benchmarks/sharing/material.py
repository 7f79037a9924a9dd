"""A folder of results as it would be handed on: every file, read once, with what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.benchmarks.external.results import stored_test
from medgraft.benchmarks.results.left_out import LeftOut
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import (
    EXTERNAL_SUFFIX,
    KEPT,
    OPERATION_SUFFIX,
    TRIAL_SUFFIX,
    UnreadableError,
    files_below,
    results_below,
)
from medgraft.benchmarks.results.verification import Verified, check, verified_results
from medgraft.benchmarks.texts.table import SUFFIX as TEXTS_SUFFIX
from medgraft.errors import MedgraftError

BESIDE = (".npz", ".log", TEXTS_SUFFIX)
"""Endings of files that belong to a result."""

BY_THEMSELVES = (EXTERNAL_SUFFIX, OPERATION_SUFFIX, TRIAL_SUFFIX)
"""Endings of files that a sweep or a measurement leaves, and that are no results."""


@dataclass
class Material:
    """Results that somebody wants to hand on.

    Attributes:
        folders: Where they lie.
        results: File of each readable result -> it.
        checked: File -> the result and why it could not be checked, if so.
        broken: File -> why it is no result, or contradicts itself, and the kind of reason.
        together: What a board would show of them, copies and contradictions between files left out.
        left_out: What a board would leave out.
        others: Files that belong to no result.
    """

    folders: Sequence[Path]
    results: dict[Path, CellResult] = field(default_factory=dict[Path, CellResult])
    checked: dict[Path, Verified] = field(default_factory=dict[Path, Verified])
    broken: dict[Path, tuple[str, str]] = field(default_factory=dict[Path, tuple[str, str]])
    together: list[Verified] = field(default_factory=list[Verified])
    left_out: LeftOut = field(default_factory=LeftOut)
    others: list[Path] = field(default_factory=list[Path])

    @property
    def good(self) -> Mapping[Path, CellResult]:
        """Results that succeeded and do not contradict themselves."""
        return {path: each.cell for path, each in self.checked.items() if each.cell.status == "success"}

    def files(self) -> list[Path]:
        """Every file that would be handed on, those of kept grafts among them."""
        return [path for folder in self.folders for path in _everything(folder)]

    def shown(self, path: Path) -> str:
        """A file's name from its folder on."""
        for folder in self.folders:
            if path.is_relative_to(folder):
                return path.relative_to(folder).as_posix()
        return path.name


def read_material(folders: Iterable[Path]) -> Material:
    """Reads and checks everything below some folders.

    Raises:
        MedgraftError: A folder does not exist.
    """
    material = Material([Path(folder) for folder in folders])
    for folder in material.folders:
        if not folder.is_dir():
            raise MedgraftError(f"results folder {folder} does not exist")
        for path in (*results_below(folder), *files_below(folder, EXTERNAL_SUFFIX)):
            _read(path, material)
    material.together = verified_results(material.folders, material.left_out)
    stems = {path.with_suffix("") for path in (*material.results, *material.broken)}
    material.others = [path for path in material.files() if not _belongs(path, stems)]
    return material


def _read(path: Path, material: Material) -> None:
    try:
        if path.name.endswith(EXTERNAL_SUFFIX):
            stored_test(path)
            return
        cell = material.results[path] = read_result(path)
        material.checked[path] = check(path, cell)
    except UnreadableError as error:
        material.broken[path] = str(error), error.kind


def _belongs(path: Path, stems: set[Path]) -> bool:
    if any(part.endswith(KEPT) for part in path.parts) or path.name.endswith(BY_THEMSELVES):
        return True
    if path.name.endswith(f"{EXTERNAL_SUFFIX.removesuffix('.json')}.npz") or path.name.startswith("leaderboard."):
        return True
    endings = (each for each in (".json", *BESIDE) if path.name.endswith(each))
    return any(path.with_name(path.name.removesuffix(each)) in stems for each in endings)


def _everything(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
