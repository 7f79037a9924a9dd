"""The task ``folder``: a folder of images or volumes for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medgraft.benchmarks.cohorts.own.columns import AUTO, Columns
from medgraft.benchmarks.cohorts.own.data import OwnData
from medgraft.benchmarks.cohorts.own.files import Finder
from medgraft.benchmarks.cohorts.own.folder import table_of
from medgraft.benchmarks.cohorts.own.options import OwnConfig
from medgraft.benchmarks.cohorts.own.reading import Reading
from medgraft.benchmarks.tasks.own.own_data import OwnTask


class Folder(OwnTask):
    """Your own folder with one folder of images or volumes for each class (--data folder=DIR)."""

    cohort = "folder"

    class Config(OwnConfig):
        """Options; ``objective`` and ``inputs`` besides are those of every task on own data.

        Attributes:
            split: ``none`` makes a new split where the folders above the classes are called train and test.
        """

        split: Literal["auto", "none"] = AUTO

    def read(self, root: Path) -> tuple[OwnData, Columns]:
        """Reads the tree below ``root``."""
        assert isinstance(self.config, Folder.Config)
        table = table_of(root)
        split = "split" if "split" in table and self.config.split == AUTO else ""
        columns = Columns(image="image", label=("label",), split=split)
        return Reading(table, columns, self.config, Finder(Path(root)), str(root), "folder").samples(), columns
