"""A folder for each class, below folders for the splits or not, as a table of files and labels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from medgraft.benchmarks.cohorts.own.files import files_below
from medgraft.benchmarks.cohorts.own.splits import WORDS
from medgraft.benchmarks.cohorts.tables.reading import folded
from medgraft.errors import DataError


def table_of(root: Path) -> pd.DataFrame:
    """Files with the folder that they lie in as their label; columns ``image``, ``label``, and ``split`` where named.

    The first level below the folder are the classes. Where the names of the first level are words for splits, such as
    ``Training`` and ``Testing``, they are the splits and the second level are the classes. Folders inside of a class
    belong to it. A single folder without images of its own is looked into.

    Raises:
        DataError: It is no folder, or has no two classes with images.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the folder that holds one folder for each class")
    base, files = root, [os.path.relpath(path, root) for path in files_below(root)]
    if not files:
        raise DataError(f"{root} holds no image and no volume, in it or below")
    while len(tops := {parts[0] for parts in map(_parts, files)}) == 1 and all(len(_parts(name)) > 2 for name in files):
        inner = next(iter(tops))
        base, files = base / inner, [name[len(inner) + 1 :] for name in files]
    loose = [name for name in files if len(_parts(name)) == 1]
    if len(loose) == len(files):
        raise DataError(
            f"{root} holds {len(files):,} images and no folder for each class; put them into folders named by their "
            "class, or give a table: --tasks table --data table=TABLE.csv"
        )
    known = {word for words in WORDS.values() for word in words}
    tops = {_parts(name)[0] for name in files if len(_parts(name)) > 1}
    split = all(folded(top) in known for top in tops)
    depth = 1 if split else 0
    rows = [
        {
            "image": str(base / name),
            "label": _parts(name)[depth] if len(_parts(name)) > depth + 1 else None,
            **({"split": _parts(name)[0]} if split else {}),
        }
        for name in files
    ]
    table = pd.DataFrame(rows)
    classes = sorted(table["label"].dropna().unique())
    if len(classes) < 2:
        raise DataError(
            f"{root} has {_listed(classes) or 'no'} class with images; two folders with images are needed to tell apart"
        )
    return table


def _parts(name: str) -> list[str]:
    return name.split(os.sep)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
