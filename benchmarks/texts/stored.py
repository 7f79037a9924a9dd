"""What a task's data say is true of samples, and counter-measures out of the folder of a kept graft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from medgraft.benchmarks.metrics.texts.statements import Statement, from_json, statements_of
from medgraft.benchmarks.texts.grounding import HEAD, INDEX, Grounding
from medgraft.errors import CheckpointError
from medgraft.task import TaskData

TRUTH = "truth"


def truths_of(data: TaskData, references: Sequence[str], index: np.ndarray) -> list[list[Statement]]:
    """What holds of the samples ``index``: the column ``truth`` where the data have one, else what the texts say.

    Args:
        data: The task's data.
        references: Right text of each sample.
        index: ``int64 [n]``.
    """
    column = data.columns.get(TRUTH)
    if column is None:
        return [statements_of(references[i]) for i in index]
    return [from_json(str(column[i])) if str(column[i]) else statements_of(references[i]) for i in index]


def grounding_in(folder: Path, state: Mapping[str, Any]) -> Grounding:
    """The counter-measures of a kept graft.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name in (INDEX, HEAD):
        if (folder / name).is_file():
            try:
                arrays[name] = load_file(folder / name)
            except (SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(f"{folder / name} is damaged: {error}") from error
    return Grounding.load(state, arrays)
