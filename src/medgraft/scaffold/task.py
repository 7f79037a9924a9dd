"""plugin_name: one class per image of a folder, as its table labels.csv says (file, subject, label)."""

from pathlib import Path

import numpy as np
from medgraft.benchmarks.content import file_facts
from medgraft.benchmarks.data.images import load_radiograph
from medgraft.benchmarks.data.reading import is_phantom, read_table
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, subject_split
from pydantic import Field


class PluginTask(Task):
    inputs, objective, cohort = ("image",), "multiclass", "plugin_name"

    class Config(TaskConfig):
        split_seed: int = Field(0, ge=0, description="which subjects are in which split")

    config: Config

    def load(self, root: Path) -> TaskData:
        rows = read_table(root / "labels.csv", ("file", "subject", "label"))
        table = rows.dropna(subset=["file", "subject", "label"])
        files, subjects = [root / str(name) for name in table["file"]], table["subject"].to_numpy(str)
        classes, targets = np.unique(table["label"].to_numpy(str), return_inverse=True)
        parts = subject_split(subjects, targets, {"train": 0.6, "val": 0.2, "test": 0.2}, self.config.split_seed)
        digest = file_facts(list(map(str, files)), root)  # of the pixels, so that caches notice other ones
        raw = RawInputs(lambda index: load_radiograph(files[index]), len(files), digest)
        data = TaskData({"image": raw}, targets, subjects, parts, tuple(classes), phantom=is_phantom(root))
        data.provenance["reader"] = {"used": len(table), "skipped": {"a blank cell": len(rows) - len(table)}}
        return data
