"""From what a user names to samples: files, folders of them, and tables."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.own.columns import AUTO, ROLES, Columns, understood
from medgraft.benchmarks.cohorts.own.files import Finder, files_below, modality_of
from medgraft.benchmarks.cohorts.own.readers import READERS, reader_of
from medgraft.benchmarks.cohorts.own.tables import ENDINGS
from medgraft.benchmarks.cohorts.tables.reading import read_table
from medgraft.errors import DataError
from medgraft.modality import TEXT

TABLES = tuple(ending for ending in ENDINGS if not ending.startswith(".txt"))


@dataclass(frozen=True)
class Item:
    """A sample that is not read yet.

    Attributes:
        name: What the user called it.
        read: Modality -> reads the raw sample.
        problem: Why there is nothing to read; empty where there is.
        path: File of its image or volume; empty without one.
    """

    name: str
    read: dict[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    problem: str = ""
    path: str = ""


def items_of(
    inputs: Iterable[str | Path] | pd.DataFrame, modalities: Sequence[str], *, colour: bool = False
) -> list[Item]:
    """The samples that some inputs stand for, in their order.

    Args:
        inputs: Files, folders and tables; or a table with columns for what a sample is.
        modalities: Of a sample.
        colour: Images are read in colour.

    Raises:
        DataError: An input does not exist, nothing is of the kind, or the samples need a table.
    """
    if isinstance(inputs, pd.DataFrame):
        return list(_of_table(inputs, "the table", Path(), modalities, colour))
    items: list[Item] = []
    for each in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        path = Path(each).expanduser()
        if not path.exists():
            raise DataError(f"{path} does not exist; name files, folders or tables")
        if path.is_file() and path.name.lower().endswith(TABLES):
            items += _of_table(read_table(path, ()), path.name, path.parent, modalities, colour)
        elif list(modalities) == [TEXT] and path.is_file():
            items.append(Item(str(path), {TEXT: functools.partial(_text, path)}))
        else:
            items += _of_files(path, modalities, colour)
    if not any(not item.problem for item in items):
        raise DataError(f"no input is {' and '.join(modalities)}, which the graft reads")
    return items


def _of_files(path: Path, modalities: Sequence[str], colour: bool) -> Iterator[Item]:
    if len(modalities) != 1 or modalities[0] not in READERS:
        raise DataError(f"a sample is {' and '.join(modalities)}; name a table with a column for each, not {path}")
    kind = modalities[0]
    reader = reader_of(kind, colour=colour)
    for name in files_below(path) if path.is_dir() else [str(path)]:
        other, said = modality_of(name), os.path.join(path, os.path.relpath(name, path)) if path.is_dir() else name
        if other == kind:
            yield Item(said, {kind: functools.partial(reader, name)}, path=name)
        else:
            yield Item(said, problem=f"{_with_article(other or 'file of another kind')}, and the graft reads {kind}s")


def _of_table(table: pd.DataFrame, name: str, home: Path, modalities: Sequence[str], colour: bool) -> Iterator[Item]:
    columns = _columns(table, name)
    finder = Finder(home)
    kind = next((each for each in modalities if each != TEXT), "")
    if (kind and not columns.image) or (TEXT in modalities and not columns.text):
        header = ", ".join(map(str, table.columns[:30]))
        raise DataError(
            f"{name} has no column of {' and '.join(modalities)} that is known by its name; it has: {header}"
        )
    rows: Any = table.to_dict("records")
    for number, row in enumerate(rows, start=1):
        written = str(row[columns.image]) if kind and not pd.isna(row[columns.image]) else ""
        title = written or f"{name}:{number}"
        read: dict[str, Callable[[], Any]] = {}
        path = ""
        if kind:
            path = finder.find(written) if written else ""
            if not path or modality_of(path) != kind:
                problem = (
                    "no such file" if not path else f"{_with_article(modality_of(path) or 'file of another kind')}"
                )
                yield Item(title, problem=problem)
                continue
            read[kind] = functools.partial(reader_of(kind, colour=colour), path)
        if TEXT in modalities:
            text = "\n".join(str(row[column]) for column in columns.text if not pd.isna(row[column]))
            if not text.strip():
                yield Item(title, problem="no text")
                continue
            read[TEXT] = functools.partial(str, text)
        yield Item(title, read, path=path or "")


def _columns(table: pd.DataFrame, name: str) -> Columns:
    """Columns of files and texts; whatever else a table has does not matter for a prediction."""
    several = ("label", "text")
    options = SimpleNamespace(**{role: (AUTO,) if role in several else AUTO for role in ROLES}, objective=AUTO)
    options.label = ("none",)
    return understood([str(column) for column in table.columns], options, name)


def _with_article(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "cannot be read") from error
