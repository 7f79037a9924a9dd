"""plugin_name: one class per image of a folder, as its table labels.csv says (file, subject, label)."""

from pathlib import Path

import numpy as np
import pandas as pd  # pyright: ignore[reportMissingTypeStubs]
from medgraft.cohort import is_phantom
from medgraft.files.content import file_facts
from medgraft.files.one_file import one_file
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, subject_split
from PIL import Image
from pydantic import Field


class PluginTask(Task):
    inputs, objective, cohort = ("image",), "multiclass", "plugin_name"

    class Config(TaskConfig):
        split_seed: int = Field(0, ge=0, description="which subjects are in which split")

    config: Config

    def load(self, root: Path) -> TaskData:
        columns = ["file", "subject", "label"]
        with one_file(root / "labels.csv", "a table with columns file, subject and label"):
            rows = pd.read_csv(root / "labels.csv", dtype=str, usecols=columns)
        names, subjects, labels = np.asarray(rows.dropna().loc[:, columns], dtype=str).T
        files = [root / name for name in names]
        classes, targets = np.unique(labels, return_inverse=True)
        parts = subject_split(subjects, targets, {"train": 0.6, "val": 0.2, "test": 0.2}, self.config.split_seed)
        raw = {"image": RawInputs(lambda i: _pixels(files[i]), len(files), file_facts([*map(str, files)], root))}
        facts = {"reader": {"used": len(files), "skipped": {"a blank cell": len(rows) - len(files)}}}
        return TaskData(raw, targets, subjects, parts, tuple(classes), phantom=is_phantom(root), provenance=facts)


def _pixels(path: Path) -> np.ndarray:
    with one_file(path, "an image"), Image.open(path) as image:
        if image.mode[0] not in "IF":
            return np.asarray(image.convert("L"))
        return np.interp(np.asarray(image), image.getextrema(), (0, 255)).astype(np.uint8)  # of more than eight bits
