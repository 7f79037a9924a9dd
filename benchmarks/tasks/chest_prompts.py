"""Findings on a radiograph of CheXpert, one model for all: the prompt says which finding is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medgraft.benchmarks.tasks.chexpert import Chexpert
from medgraft.benchmarks.tasks.questions import UNKNOWN, Question, Wording, ask
from medgraft.task import RawInputs, Task, TaskConfig, TaskData

WORDINGS = ("Is there {}?", "Is {} present?", "Does the image show {}?", "Findings of {}: absent or present?")
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
            wording: ``held_out`` asks validation and test in wordings that training never used, ``seen`` in its own.
            uncertainty: What an uncertain label becomes in training: 1, 0 or no sample; ``best`` is per label.
            val_fraction: Share of training patients in the validation split.
            split_seed: Defines that share, for all seeds of a sweep.
        """

        wording: Wording = "held_out"
        uncertainty: Literal["ones", "zeros", "ignore", "best"] = "best"
        val_fraction: float = Field(0.1, gt=0, lt=1)
        split_seed: int = Field(0, ge=0)

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads what :class:`~medgraft.benchmarks.tasks.chexpert.Chexpert` reads, and asks for each finding.

        Raises:
            DataError: The folder holds no CheXpert.
        """
        own = self.config
        options = {"uncertainty": own.uncertainty, "val_fraction": own.val_fraction, "split_seed": own.split_seed}
        base = Chexpert(Chexpert.Config(**options)).load(root)
        assert base.mask is not None
        questions = [question(name) for name in base.classes]
        answers = {
            each.name: np.where(base.mask[:, k], base.targets[:, k].astype(np.int64), UNKNOWN)
            for k, each in enumerate(questions)
        }
        raw = base.inputs["image"]
        found = ask(questions, answers, base.splits, [str(i) for i in range(raw.count)], own.wording)
        fingerprint = f"{raw.fingerprint}|{','.join(map(str, found.unit))}"
        return TaskData(
            inputs={
                "image": RawInputs(lambda i: raw.read(int(found.unit[i])), len(found.unit), fingerprint),
                "text": found.prompt_inputs(),
            },
            targets=found.targets,
            subjects=base.subjects[found.unit],
            splits=found.splits,
            classes=found.classes,
            asked=found.asked,
            questions=tuple(each.name for each in questions),
            answers=found.answers,
            phantom=base.phantom,
            provenance={**base.provenance, "unanswered": found.unanswered, "wording": own.wording},
        )
