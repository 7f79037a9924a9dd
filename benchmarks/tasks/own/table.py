"""The task ``table``: a table of files or texts and their labels, its columns found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from medgraft.benchmarks.cohorts.own.columns import AUTO, NONE, Columns, understood
from medgraft.benchmarks.cohorts.own.data import OwnData
from medgraft.benchmarks.cohorts.own.files import Finder
from medgraft.benchmarks.cohorts.own.options import OwnConfig
from medgraft.benchmarks.cohorts.own.reading import Reading
from medgraft.benchmarks.cohorts.own.tables import table_at
from medgraft.benchmarks.cohorts.tables.reading import read_table
from medgraft.benchmarks.tasks.own.own_data import OwnTask


class Table(OwnTask):
    """Your own table of images, volumes or texts and their labels (--data table=TABLE.csv)."""

    cohort = "table"

    class Config(OwnConfig):
        """Which column is what: a name, ``auto`` to find it by its name, or ``none``; and below.

        Attributes:
            table: The table, relative to the folder that ``--data`` names for its files; empty where ``--data`` names
                the table, or a folder with one table in it.
            image: Column of files.
            label: Column of labels, or several of 0 and 1.
            subject: Column of patients.
            text: Column of texts, or several that are joined.
            split: Column that says train, val or test.
            time: Column of times to an event.
            event: Column that says whether the event was seen.
        """

        table: str = ""
        image: str = AUTO
        label: tuple[str, ...] = Field((AUTO,), min_length=1)
        subject: str = AUTO
        text: tuple[str, ...] = Field((AUTO,), min_length=1)
        split: str = AUTO
        time: str = AUTO
        event: str = AUTO

    def read(self, root: Path) -> tuple[OwnData, Columns]:
        """Reads the table at ``root``: a file, a folder with one table in it, or the folder of its files."""
        assert isinstance(self.config, Table.Config)
        path = table_at(Path(root) / self.config.table)
        table = read_table(path, ())
        columns = understood([str(name) for name in table.columns], self.config, path.name)
        finder = Finder(path.parent, Path(root) if self.config.table else None)
        return Reading(table, columns, self.config, finder, path.name, "table").samples(), columns

    def _facts(self, data: OwnData, columns: Columns) -> dict[str, Any]:
        named = {role: getattr(columns, role) or NONE for role in ("image", "subject", "split", "time", "event")}
        several = {role: getattr(columns, role) or (NONE,) for role in ("label", "text")}
        return super()._facts(data, columns) | named | several
