"""The table of a cohort of one's own: the file itself, or the only one in a folder."""

from __future__ import annotations

from pathlib import Path

from medgraft.errors import DataError

ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")


def table_at(root: Path) -> Path:
    """The table that a path names.

    Raises:
        DataError: There is no such file, or the folder has none or several.
    """
    root = Path(root)
    if root.is_file():
        return root
    if not root.is_dir():
        raise DataError(f"{root} does not exist; name a table (CSV or TSV), or a folder with one in it")
    tables = tables_in(root)
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables[:10]) or "none"
        raise DataError(f"{root} holds {len(tables)} tables ({names}); name one of them")
    return tables[0]


def has_table(root: Path) -> bool:
    """Whether a folder holds a table, not counting those below it."""
    return bool(tables_in(Path(root)))


def tables_in(root: Path) -> list[Path]:
    """Tables directly in a folder, sorted; text files only where there is nothing else."""
    if not root.is_dir():
        return []
    tables = sorted(path for path in root.iterdir() if path.name.lower().endswith(ENDINGS) and path.is_file())
    return [path for path in tables if not path.name.lower().endswith(".txt")] or tables
