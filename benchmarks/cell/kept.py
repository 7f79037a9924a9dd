"""A trained graft that is kept beside its result, and what a prediction with it must know of its task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgraft.benchmarks.calibration.conformal import SetRule
from medgraft.benchmarks.results.result_files import KEPT
from medgraft.benchmarks.results.spec import Precision
from medgraft.errors import CheckpointError
from medgraft.files.documents import read_json
from medgraft.objective import Objective, objective_class
from medgraft.options import readable
from medgraft.task import TaskData

FACTS = "prediction.json"
FORMAT = 1
INSIDE = "graft"
"""Folder inside an exported one where the graft lies."""


class Range(BaseModel):
    """Smallest and largest value of a fact of the training samples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float


class KeptFacts(BaseModel):
    """What predictions need of the task that a graft was trained for. Holds no identifier.

    Attributes:
        format: Version of this file.
        key: Of the result.
        task: Name of the task.
        cohort: Name of the cohort that it was trained on.
        phantom: The cohort was generated.
        encoder: Name of the encoder.
        precision: What the graft was trained and judged in.
        inputs: Modalities of a sample.
        objective: Name of the objective.
        pair: The two inputs that the objective compares, where it compares any.
        classes: Names of classes or labels; empty for numbers and times.
        prompts: Of each class, where prompts stand for classes.
        uncertain_class: Labels may be uncertain.
        state: What the objective learnt from the training targets, see :meth:`medgraft.objective.Objective.state`.
        thresholds: Of the labels, chosen on validation samples; ``None`` for other objectives.
        temperatures: That probabilities are divided by, of classes or of each label; ``None`` where none was asked for.
        sets: How conformal sets are made; ``None`` where scores are no probabilities or nothing was validated.
        primary: The task's metric.
        validation: Its value on validation samples, by which the best seed is known; ``None`` where undefined.
        test: Its value and interval on test samples.
        split_hash: Of the split.
        colour: Images were read in colour, and so are those to predict.
        ranges: Modality -> fact of a raw sample -> its range in training samples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: int = FORMAT
    key: str
    task: str
    cohort: str
    phantom: bool
    encoder: str
    precision: Precision
    inputs: tuple[str, ...] = Field(min_length=1)
    objective: str
    pair: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    prompts: tuple[tuple[str, ...], ...] | None = None
    uncertain_class: bool = False
    state: dict[str, Any] = Field(default_factory=dict)
    thresholds: tuple[float, ...] | None = None
    temperatures: tuple[float | None, ...] | None = None
    sets: SetRule | None = None
    primary: str
    validation: float | None = None
    test: tuple[float | None, float | None, float | None] = (None, None, None)
    split_hash: str = ""
    colour: bool = False
    ranges: dict[str, dict[str, Range]] = Field(default_factory=dict)

    def make_objective(self) -> Objective:
        """The objective as it was after training, without the data that it was trained on.

        Raises:
            UnknownNameError: It is a plugin's that is not installed.
        """
        cls = objective_class(self.objective)
        one = np.zeros(1, np.int64)
        labels = np.zeros((1, len(self.classes)), np.float32)
        targets = one if cls.one_class_each else labels if self.classes else np.ones(1)
        data = TaskData(
            inputs={},
            targets=targets,
            subjects=np.zeros(1, str),
            splits=dict.fromkeys(("train", "val", "test"), one),
            classes=self.classes,
            prompts=self.prompts,
            uncertain_class=self.uncertain_class,
            columns={"event": np.ones(1)},
            horizons=(1.0,),
        )
        objective = cls.of(data, self.inputs)
        if self.pair:
            objective.pair = self.pair
        objective.restore(self.state)
        return objective


def raw_facts(sample: Any) -> dict[str, float]:
    """Numbers of a raw image or volume by which one of another kind is noticed; empty for other samples.

    Example:
        >>> raw_facts(np.full((4, 6), 10, np.uint8))
        {'mean': 10.0, 'deviation': 0.0, 'longer side over shorter': 1.5}
    """
    if not isinstance(sample, np.ndarray) or sample.ndim < 2:
        return {}
    values = np.asarray(sample, np.float64)
    facts = {"mean": float(values.mean()), "deviation": float(values.std())}
    sides = sample.shape[:2] if sample.dtype == np.uint8 else sample.shape  # the third of a coloured image is no side
    facts["longer side over shorter"] = max(sides) / max(1, min(sides))
    spacing = getattr(sample, "spacing", None)
    if spacing is not None:
        facts |= {"smallest voxel side in mm": float(min(spacing)), "largest voxel side in mm": float(max(spacing))}
    return facts


def write_facts(facts: KeptFacts, folder: Path) -> None:
    """Writes them beside the weights."""
    text = json.dumps(facts.model_dump(mode="json"), indent=1)
    (folder / FACTS).write_text(f"{text}\n", encoding="utf-8")


def graft_folder(folder: str | Path) -> Path:
    """Where a graft lies: in the folder itself, or inside one that was exported for Hugging Face."""
    folder = Path(folder)
    inside = folder / INSIDE
    return inside if not (folder / FACTS).is_file() and (inside / FACTS).is_file() else folder


def read_facts(folder: Path) -> KeptFacts:
    """The facts of a kept graft.

    Raises:
        CheckpointError: The folder is none of a kept graft, or they are damaged or of a newer version.
    """
    path = folder / FACTS
    if not path.is_file():
        what = "it has adapters and no task" if (folder / "adapter_config.json").is_file() else "it is no kept graft"
        raise CheckpointError(f"{folder} holds no {FACTS}; {what}; run the sweep with --keep all and name KEY{KEPT}")
    content = read_json(path, CheckpointError)
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version!r}; this medgraft reads {FORMAT}")
    try:
        return KeptFacts.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {readable(error)}") from error
