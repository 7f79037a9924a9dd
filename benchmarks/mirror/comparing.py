"""What becomes of a unit that is here and in shared storage and is not the same: which one is newer, if either is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medgraft.benchmarks.mirror.units import CELL, Unit
from medgraft.benchmarks.prefix_cache.shared import sha256_of
from medgraft.benchmarks.results.duplicates import conflict, same_value
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result_files import EXTERNAL_SUFFIX, UnreadableError, read_json
from medgraft.benchmarks.results.verification import check
from medgraft.commands.plain_text import one_line

Way = Literal["same", "push", "pull", "keep", "refuse"]
"""``keep``: the same numbers, measured twice; both stay as they are. ``refuse``: other numbers."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a unit.

    Attributes:
        way: It.
        why: What the two do not agree on, where they are refused.
    """

    way: Way
    why: str = ""


def compared(here: Path, unit: Unit, there: Path, other: Unit, *, changed_here: bool, changed_there: bool) -> Verdict:
    """Compares two units of one name.

    Args:
        here: Folder of this machine.
        unit: In it.
        there: Folder with what shared storage has.
        other: In that.
        changed_here: It has changed here since the two were last in step.
        changed_there: It has changed there since then.
    """
    if _content(here, unit) == _content(there, other):
        return Verdict("same")
    try:
        good_here, numbers = _read(here / unit.head)
    except UnreadableError:
        return Verdict("pull")
    try:
        good_there, others = _read(there / other.head)
    except UnreadableError:
        return Verdict("push")
    if good_here != good_there:
        return Verdict("push" if good_here else "pull")  # a result beats a failure, whichever came first
    if good_here and (why := _disagreement(here / unit.head, there / other.head, numbers, others)):
        return Verdict("refuse", why)
    whole_here, whole_there = _is_whole(here, unit, other), _is_whole(there, other, unit)
    if whole_here != whole_there:
        return Verdict("push" if whole_here else "pull")  # what one side has lost must not take the other's place
    if changed_here == changed_there:
        return Verdict("keep")
    return Verdict("push" if changed_here else "pull")


def _is_whole(folder: Path, unit: Unit, other: Unit) -> bool:
    """Whether a unit has every file that the other has, but for logs, and predictions that give its numbers."""
    if any(name not in unit.files for name in other.files if not name.endswith(".log")):
        return False
    path = folder / unit.head
    if not CELL.fullmatch(path.name):
        return True
    try:
        result = read_result(path)
        return result.status != "success" or not check(path, result).unverified
    except UnreadableError:
        return False


def _content(folder: Path, unit: Unit) -> dict[str, str]:
    """The content of a unit but for its log, which two runs do not share."""
    names = [name for name in unit.files if not name.endswith(".log")]
    return {name: sha256_of(folder / name) for name in names}


def _read(path: Path) -> tuple[bool, dict[str, float | None]]:
    """Whether a JSON file says that all went well, and its numbers.

    Raises:
        UnreadableError: It says nothing.
    """
    if CELL.fullmatch(path.name):
        return read_result(path).status == "success", {}
    document = read_json(path)
    return document.get("status", "success") == "success", _numbers(path, document)


def _numbers(path: Path, document: dict[str, Any]) -> dict[str, float | None]:
    """The numbers of a test on another cohort or of a trial; times are none."""
    if not path.name.endswith(EXTERNAL_SUFFIX):
        score = document.get("score")
        return {"score": float(score)} if isinstance(score, int | float) else {}
    away = document.get("away")
    values = {name: value for name, value in away.items() if isinstance(value, dict)} if isinstance(away, dict) else {}
    return {name: each.get("value") for name, each in values.items()}


def _disagreement(one: Path, other: Path, numbers: dict[str, float | None], others: dict[str, float | None]) -> str:
    """What two results do not agree on, in words; empty if they agree."""
    if CELL.fullmatch(one.name):
        return conflict(read_result(one), read_result(other))
    for name in {**numbers, **others}:
        value, second = numbers.get(name), others.get(name)
        if (name in numbers) != (name in others) or not same_value(value, second):
            return f"{one_line(name, 60)} is {value} here and {second} there"
    return ""
