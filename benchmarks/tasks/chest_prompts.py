"""Findings on a radiograph of CheXpert, one model for all: the prompt says which finding is asked for.

Beside it stand the same questions without a prompt (one model, one head for all) and each finding alone (one model per
question), on the same patients and splits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from medgraft.benchmarks.tasks.chexpert import Chexpert
from medgraft.benchmarks.tasks.questions import UNKNOWN, Question, Wording, ask
from medgraft.errors import DataError
from medgraft.options import Seed
from medgraft.task import RawInputs, Task, TaskConfig, TaskData

WORDINGS = ("Is there {}?", "Is {} present?", "Does the image show {}?", "Findings of {}: absent or present?")
Finding = Literal["atelectasis", "cardiomegaly", "consolidation", "edema", "pleural effusion"]
HELD_OUT = ("Can {} be seen in the image?", "Is the radiograph consistent with {}?")


def question(finding: str) -> Question:
    """The question whether a finding is there."""
    name = finding.lower()
    return Question(
        name,
        ("absent", "present"),
        tuple(wording.format(name) for wording in WORDINGS),
        tuple(wording.format(name) for wording in HELD_OUT),
    )


class ChestPrompts(Task):
    """The five competition findings, each asked for by prompt; answers are absent and present."""

    inputs = ("image", "text")
    objective = "multiclass"
    cohort = "chexpert"
    primary = "auc_macro"

    class Config(TaskConfig):
        """Options.

        Attributes:
            questions: Findings asked for, in this order, which is also the order of the tasks that adapters are told.
            wording: ``held_out`` asks validation and test in wordings that training never used, ``seen`` in its own.
            uncertainty: What an uncertain label becomes in training: 1, 0 or no sample; ``best`` is per label.
            val_fraction: Share of training patients in the validation split.
            split_seed: Defines that share, for all seeds of a sweep.
        """

        questions: tuple[Finding, ...] = Field(
            ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural effusion"), min_length=1
        )
        wording: Wording = "held_out"
        uncertainty: Literal["ones", "zeros", "ignore", "best"] = "best"
        val_fraction: float = Field(0.1, gt=0, lt=1)
        split_seed: Seed = 0

        @model_validator(mode="after")
        def _each_once(self) -> ChestPrompts.Config:
            if len(set(self.questions)) != len(self.questions):
                raise ValueError(f"questions names one twice: {', '.join(self.questions)}")
            return self

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads what :class:`~medgraft.benchmarks.tasks.chexpert.Chexpert` reads, and asks for each finding.

        Raises:
            DataError: The folder holds no CheXpert, or no training image has an answer to some question.
        """
        own = self.config
        options = {"uncertainty": own.uncertainty, "val_fraction": own.val_fraction, "split_seed": own.split_seed}
        base = Chexpert(Chexpert.Config(**options)).load(root)
        assert base.mask is not None
        questions = [question(name) for name in own.questions]
        column = {name.lower(): k for k, name in enumerate(base.classes)}
        answers = {
            name: np.where(base.mask[:, column[name]], base.targets[:, column[name]].astype(np.int64), UNKNOWN)
            for name in own.questions
        }
        if idle := [name for name in own.questions if not (answers[name][base.splits["train"]] != UNKNOWN).any()]:
            raise DataError(
                f"no training image answers {' or '.join(map(repr, idle))}; leave the question out of options: "
                "questions, or choose another uncertainty"
            )
        raw = base.inputs["image"]
        found = ask(questions, answers, base.splits, [str(i) for i in range(raw.count)], own.wording)
        fingerprint = f"{raw.fingerprint}|{','.join(map(str, found.unit))}"
        inputs = {
            "image": RawInputs(lambda i: raw.read(int(found.unit[i])), len(found.unit), fingerprint),
            "text": found.prompt_inputs(),
        }
        return TaskData(
            inputs={name: inputs[name] for name in self.inputs},
            targets=found.targets,
            subjects=base.subjects[found.unit],
            splits=found.splits,
            classes=found.classes,
            asked=found.asked,
            questions=tuple(own.questions),
            answers=found.answers,
            phantom=base.phantom,
            provenance={**base.provenance, "unanswered": found.unanswered, "wording": own.wording},
        )


class ChestPromptsWithoutText(ChestPrompts):
    """All findings by one model that never sees the prompt: the same features answer all."""

    inputs = ("image",)


class ChestAtelectasis(ChestPrompts):
    """The question of atelectasis alone, by a model of its own."""

    class Config(ChestPrompts.Config):
        """Options; one question."""

        questions: tuple[Finding, ...] = Field(("atelectasis",), min_length=1)


class ChestCardiomegaly(ChestPrompts):
    """The question of cardiomegaly alone, by a model of its own."""

    class Config(ChestPrompts.Config):
        """Options; one question."""

        questions: tuple[Finding, ...] = Field(("cardiomegaly",), min_length=1)


class ChestConsolidation(ChestPrompts):
    """The question of consolidation alone, by a model of its own."""

    class Config(ChestPrompts.Config):
        """Options; one question."""

        questions: tuple[Finding, ...] = Field(("consolidation",), min_length=1)


class ChestEdema(ChestPrompts):
    """The question of edema alone, by a model of its own."""

    class Config(ChestPrompts.Config):
        """Options; one question."""

        questions: tuple[Finding, ...] = Field(("edema",), min_length=1)


class ChestPleuralEffusion(ChestPrompts):
    """The question of pleural effusion alone, by a model of its own."""

    class Config(ChestPrompts.Config):
        """Options; one question."""

        questions: tuple[Finding, ...] = Field(("pleural effusion",), min_length=1)
