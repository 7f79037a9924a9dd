"""Generated texts as a table that people can read: Parquet beside the file of predictions.

The file of predictions holds the texts as bytes, for metrics; this one holds the same texts as texts, a row for each
test sample, by ``pandas.read_parquet``. A result lists it with a digest of its content, which does not depend on the
version of the library that wrote it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, texts_of
from medgraft.errors import MedgraftError
from medgraft.files.limits import within
from medgraft.language_model import Ending

ENDING = "ending"
ENDINGS: tuple[str, ...] = get_args(Ending)
"""How a text ended; predictions hold the place in this list."""

SUFFIX = ".texts.parquet"
FIRST = ("sample", "subject", "prompt", REFERENCE, GENERATED, ENDING, "kind", "truth")
"""Columns in their order; those that a task has none of are left out, further texts follow."""

MISSING = "pyarrow is not installed: pip install medgraft[language]"


class TextsError(MedgraftError):
    """A table of texts is damaged, or not the one that its result lists."""


def has_texts(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether predictions, name -> ``[n, ...]``, are generated texts."""
    return GENERATED in arrays and "groups" in arrays


def table_of(arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Predictions as a table: ``sample`` and ``subject`` are the numbers that the predictions have, never names.

    Args:
        arrays: Name -> ``[n, ...]``; texts are ``uint8 [n, longest]``.
    """
    columns: dict[str, Any] = {"sample": np.arange(len(arrays["groups"])), "subject": arrays["groups"]}
    for name, array in arrays.items():
        if array.ndim == 2 and array.dtype == np.uint8:
            columns[name] = texts_of(array)
    if ENDING in arrays:
        columns[ENDING] = [ENDINGS[int(each)] for each in arrays[ENDING]]
    order = [name for name in FIRST if name in columns] + sorted(set(columns) - set(FIRST))
    return pd.DataFrame({name: columns[name] for name in order})


def digest_of(table: pd.DataFrame) -> str:
    """SHA-256 of a table's content, whatever file holds it."""
    rows = [list(table.columns), *table.astype(object).to_numpy().tolist()]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, default=int).encode()).hexdigest()


def listed(name: str, table: pd.DataFrame) -> dict[str, Any]:
    """What a result says of its table of texts.

    Args:
        name: Of the file, without a folder; empty where none could be written.
        table: Its content.
    """
    facts: dict[str, Any] = {"file": name, "samples": len(table), "sha256": digest_of(table)}
    return facts if name else facts | {"missing": MISSING}


def can_write() -> bool:
    """Whether the library is installed that writes and reads Parquet."""
    return importlib.util.find_spec("pyarrow") is not None


def as_parquet(table: pd.DataFrame) -> bytes:
    """A table as the content of a Parquet file, compressed."""
    content = io.BytesIO()
    table.to_parquet(content, engine="pyarrow", index=False, compression="zstd")
    return content.getvalue()


def read_texts(path: Path) -> pd.DataFrame:
    """A table of texts.

    Args:
        path: The file.

    Raises:
        TextsError: It is none, larger than the limits allow, or the library is missing.
    """
    if not can_write():
        raise TextsError(f"{path.name} cannot be read: {MISSING}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        within("MEDGRAFT_MAX_UNPACKED_BYTES", path.stat().st_size, f"{path.name} has so many bytes", TextsError)
        with pq.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            unpacked = sum(file.metadata.row_group(i).total_byte_size for i in groups)
            within("MEDGRAFT_MAX_UNPACKED_BYTES", unpacked, f"{path.name} unpacks to {unpacked:,} bytes", TextsError)
            table = file.read().to_pandas()
    except (OSError, pa.ArrowException, ValueError) as error:
        raise TextsError(f"{path.name} is no readable Parquet file: {' '.join(str(error).split())[:160]}") from error
    if missing := [name for name in ("sample", "subject", REFERENCE, GENERATED) if name not in table.columns]:
        raise TextsError(f"{path.name} has no column {missing[0]!r}")
    return table


def problem_of(path: Path, said: Any) -> str:
    """Why the table beside a result is not the one that the result lists, in words; empty if nothing is wrong.

    A table that is not there is no problem: the predictions hold the same texts.

    Args:
        path: File of the result.
        said: What the result lists, see :func:`listed`.
    """
    if not isinstance(said, dict) or not said.get("file"):
        return ""
    place = path.with_name(f"{path.stem}{SUFFIX}")
    if said["file"] != place.name:
        return f"it lists texts in {str(said['file'])[:80]!r}, and they would be in {place.name}"
    if not place.exists() or not can_write():
        return ""
    try:
        table = read_texts(place)
    except TextsError as error:
        return str(error)
    same = len(table) == said.get("samples") and digest_of(table) == said.get("sha256")
    return "" if same else f"{place.name} holds other texts than the result lists; delete it, or run the cell again"
