"""All files of a board: Markdown, CSV, Parquet, JSON and the pages."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medgraft.benchmarks.board.document import document
from medgraft.benchmarks.board.leaderboard import table, write_board
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.garbage import uncollected
from medgraft.benchmarks.results.result_files import BOARD_FILE
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.benchmarks.site.pages import write_site
from medgraft.commands.plain_text import plain
from medgraft.errors import MedgraftError

NO_PARQUET = "leaderboard.parquet is left out: pyarrow is not installed; pip install 'medgraft[parquet]'"


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        files: The files; ``index.html`` is the page.
        notice: What is missing and how to have it; empty for nothing.
    """

    files: tuple[Path, ...]
    notice: str = ""


def publish(rows: Sequence[BoardRow], folder: Path, options: BoardOptions) -> Published:
    """Writes all files of a board.

    Raises:
        MedgraftError: They cannot be written.
    """
    with uncollected():
        files = list(write_board(rows, folder, options))
        has_parquet = importlib.util.find_spec("pyarrow") is not None
        try:
            whole = document(rows, options.command)
            text = whole.model_dump_json(indent=1) + "\n"
            files.append(folder / BOARD_FILE)
            write_atomically(files[-1], lambda handle: handle.write(text.encode()))
            parquet = folder / "leaderboard.parquet"
            if has_parquet:
                data = as_parquet(table(rows))
                write_atomically(parquet, lambda handle: handle.write(data))
                files.append(parquet)
            else:
                parquet.unlink(missing_ok=True)  # an older one would say something else than the others
            files.append(write_site(rows, whole, folder, parquet=has_parquet, suites=options.suites))
        except OSError as error:
            raise MedgraftError(
                f"the leaderboard cannot be written to {folder}: {error}; choose another folder"
            ) from error
    return Published(tuple(files), "" if has_parquet else NO_PARQUET)


def as_parquet(frame: pd.DataFrame) -> bytes:
    """A table as Parquet: numbers as they are, texts without characters that a terminal would obey."""
    texts = frame.select_dtypes(["object", "string"]).columns
    safe = frame.assign(**{name: frame[name].map(_plain, na_action="ignore") for name in texts}).rename(columns=plain)
    handle = io.BytesIO()
    safe.to_parquet(handle, index=False, compression="zstd")
    return handle.getvalue()


def _plain(value: object) -> object:
    return plain(value) if isinstance(value, str) else value
