"""What defines a cell's numbers, and the key that is made of it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from medgraft.benchmarks.calibration.conformal import COVERAGE, Method
from medgraft.registry import TrainDefaults
from medgraft.task.names import current_name, name_in_keys

NUMBERS_VERSION = 6
"""Raised when a change of the harness changes numbers that no other part of a cell's key tells apart.

Version 6: what use on foreign models and files showed to be wrong; pixels that DICOM, PNG and NIfTI files
mean otherwise than they were read; the probe is a logistic regression with cross-validated L2, and the heads of
adapters are fitted anew where that is clearly better; tables whose rows end in a comma, copies below ``derivatives/``,
and boxes and masks on resized images mean something else than they were read as; parameters of peft train in float32 on
encoders in half precision too.
"""

LATER_FIELDS = {
    "augment_views": 0,
    "device": "cpu",
    "plain": False,
    "calibrate": "none",
    "sets": "lac",
    "coverage": COVERAGE,
    "sets_by_class": False,
    "tune": 0,
    "budget": None,
}
"""Fields that came later -> the value that means what it was before them."""

Backend = Literal["eager", "compile", "fused", "auto"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "bf16_frozen", "fp8"]
Calibrate = Literal["none", "temperature"]


class StoredModel(BaseModel):
    """What a result file is made of; a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid")


class CohortId(StoredModel):
    """Which data a cell reads.

    Attributes:
        name: Name of the cohort, as ``--data`` takes it.
        revision: Digest of what the task reads there: tables, content of the samples, targets; see
            :mod:`medgraft.benchmarks.cohorts.places`.
        phantom: Generated, not collected.
    """

    name: str
    revision: str
    phantom: bool


class CellSpec(StoredModel):
    """Everything that defines a cell's numbers.

    Attributes:
        task: Task name; one of an earlier release becomes the name that stands for the task now.
        task_options: Options of the task.
        task_version: The task's own version.
        cohort: The data.
        encoder: Encoder name, ``source:model@weights``.
        encoder_weights: What the encoder says of its weights, a digest or ``random``; names alone do not fix them.
        adapter: Adapter name, several joined by ``+``.
        adapter_options: Options of the adapter.
        seed: Of initialisation, order and dropout; the split does not depend on it.
        backend: How the adapter runs: ``compile`` compiles the whole graft, ``fused`` and ``auto`` choose a form of
            each operation that has one, see :mod:`medgraft.ops.backends`.
        precision: ``bf16`` runs what is trained under autocast, behind frozen prefixes in fp32; ``bf16_frozen`` also
            holds the encoder's weights and the tokens between its blocks in bf16, prefixes included; ``fp8`` is that
            with the encoder's linear maps in eight bits, see :mod:`medgraft.fast.float8`.
        train: Training hyper-parameters.
        threads: Threads of the worker; sums depend on their order.
        limit: Largest number of samples per split, ``None`` for all.
        augment_views: Augmented views per sample, one of which each epoch trains on; 0 trains on the samples.
        device: What the encoder runs on and the adapter trains on.
        plain: No shortcut is taken, see :mod:`medgraft.fast.switch`.
        calibrate: Probabilities are divided by a temperature from validation samples.
        sets: Score of the conformal sets, see :mod:`medgraft.benchmarks.calibration.conformal`.
        coverage: Share of the sets that should hold the right class.
        sets_by_class: Each class is to be covered so often.
        tune: Trials by which options and training were chosen on validation samples; 0 for an untuned row.
        budget: Trainable parameters that the adapter was scaled to by its size knob; ``None`` for its own size.
        plugins: Versions of the foreign distributions that take part.
        numbers_version: See :data:`NUMBERS_VERSION`.
    """

    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    task_version: int = 1
    cohort: CohortId
    encoder: str
    encoder_weights: str | None = None
    adapter: str
    adapter_options: dict[str, Any] = Field(default_factory=dict)
    seed: int
    backend: Backend = "eager"
    precision: Precision = "fp32"
    train: TrainDefaults
    threads: int = Field(1, ge=1)
    limit: int | None = None
    augment_views: int = Field(0, ge=0)
    device: Device = "cpu"
    plain: bool = False
    calibrate: Calibrate = "none"
    sets: Method = "lac"
    coverage: float = Field(COVERAGE, gt=0, lt=1)
    sets_by_class: bool = False
    tune: int = Field(0, ge=0)
    budget: int | None = Field(None, ge=1)
    plugins: dict[str, str] = Field(default_factory=dict)
    numbers_version: int = NUMBERS_VERSION

    # Fields cannot be set anew, since the key is computed once.
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("task")
    @classmethod
    def _name_now(cls, name: str) -> str:
        return current_name(name)

    def key(self) -> str:
        """First 16 hex digits of the SHA-256 over the canonical JSON."""
        return self._digests[0]

    def row(self) -> str:
        """The same for everything but the seed: cells of one row differ in nothing else."""
        return self._digests[1]

    @functools.cached_property
    def _digests(self) -> tuple[str, str]:
        """Of the cell and of its row, at once, since taking the specification apart costs most."""
        facts = self.defining()
        return _digest(facts), _digest({**facts, "seed": None})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> CellSpec:
        """As pydantic's; the copy has a key of its own."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("_digests", None)
        return copied

    def defining(self) -> dict[str, Any]:
        """What keys are made of: fields that came later count only where they are used, so older keys stay valid.

        For the same reason a task that was given another name counts by its first one.
        """
        facts = self.model_dump(mode="json") | {"task": name_in_keys(self.task)}
        return {name: value for name, value in facts.items() if LATER_FIELDS.get(name, ...) != value}


def key_as_written(spec: Mapping[str, Any]) -> str:
    """The key of a specification as its writer knew it, which may have been a version with fewer fields."""
    facts = {name: value for name, value in spec.items() if LATER_FIELDS.get(name, ...) != value}
    return _digest(facts)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
