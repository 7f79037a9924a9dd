"""What a report states: findings that are there or not, with side, size, place and millimetres.

:func:`statements_of` reads statements out of English reports by rules, see
:mod:`medgraft.benchmarks.metrics.texts.labeller`; as JSON they travel in columns of tasks and predictions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any

from medgraft.benchmarks.metrics.texts.labeller.assertion import assertion_of
from medgraft.benchmarks.metrics.texts.labeller.attributes import attributes_of
from medgraft.benchmarks.metrics.texts.labeller.findings import mentions
from medgraft.benchmarks.metrics.texts.labeller.sentences import sentences
from medgraft.errors import DataError

SIDES, SIZES = ("", "left", "right", "both"), ("", "small", "moderate", "large")


@dataclass(frozen=True)
class Statement:
    """One statement about a finding.

    Attributes:
        finding: Its name in small letters, as reports have it.
        present: Whether it is said to be there.
        certain: Whether that is said without doubt.
        side: ``left``, ``right``, ``both``, or empty where nothing is said.
        size: ``small``, ``moderate``, ``large``, or empty.
        place: A lobe ("right upper lobe"), a zone ("lower zone") or a region ("hippocampus"), or empty.
        millimetres: Its longest diameter, or ``None``.
    """

    finding: str
    present: bool
    certain: bool = True
    side: str = ""
    size: str = ""
    place: str = ""
    millimetres: float | None = None


def statements_of(text: str) -> list[Statement]:
    """Statements of a report in the order in which it makes them, each once; none of texts that are not English.

    Example:
        >>> [(s.finding, s.present, s.side) for s in statements_of("Small left pleural effusion. No pneumothorax.")]
        [('pleural effusion', True, 'left'), ('pneumothorax', False, '')]
    """
    return list(dict.fromkeys(each for sentence in sentences(text) for each in statements_of_sentence(sentence)))


@functools.lru_cache(maxsize=65536)
def statements_of_sentence(sentence: str) -> tuple[Statement, ...]:
    """Statements of one sentence in small letters; remembered, since reports repeat each other's sentences."""
    found = mentions(sentence)
    made: list[Statement] = []
    for i, mention in enumerate(found):
        said = assertion_of(sentence, found, i)
        if said is None:
            continue
        present, certain = said
        for each in attributes_of(sentence, found, i):
            statement = Statement(mention.finding, present, certain, each.side, each.size, each.place, each.millimetres)
            # What is denied of both sides is denied as a whole.
            whole = not statement.present and statement.side == "both"
            made.append(replace(statement, side="") if whole else statement)
    return tuple(made)


def to_json(statements: Sequence[Statement]) -> str:
    """Statements as JSON, a list of objects; what says nothing is left out.

    Example:
        >>> to_json([Statement("pleural effusion", True, side="left")])
        '[{"finding": "pleural effusion", "present": true, "side": "left"}]'
    """
    return json.dumps([_spoken(each) for each in statements], ensure_ascii=False)


def _spoken(statement: Statement) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(Statement)}
    return {name: value for name, value in asdict(statement).items() if value != defaults[name]}


def from_json(text: str) -> list[Statement]:
    """Statements of what :func:`to_json` gave.

    Raises:
        DataError: The text is no list of statements.
    """
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"statements are a list as JSON, not {text[:60]!r}") from error
    if not isinstance(rows, list):
        raise DataError(f"statements are a list as JSON, not {text[:60]!r}")
    return [_checked(row) for row in rows]


def _checked(row: Any) -> Statement:
    if not isinstance(row, dict) or not {"finding", "present"} <= set(row) <= {f.name for f in fields(Statement)}:
        raise DataError(
            f"a statement has finding and present, and of {[f.name for f in fields(Statement)]}, not {row!r}"
        )
    made = Statement(**row)
    number = made.millimetres
    sound = (
        all(isinstance(getattr(made, name), str) for name in ("finding", "side", "size", "place"))
        and isinstance(made.present, bool)
        and isinstance(made.certain, bool)
        and (number is None or (isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < inf))
    )
    if not sound or made.side not in SIDES or made.size not in SIZES or not made.finding:
        raise DataError(f"a statement's side is one of {SIDES}, its size one of {SIZES}; not as in {row!r}")
    return made
