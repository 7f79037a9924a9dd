"""Findings on a radiograph of CheXpert, one model for all: the prompt says which finding is asked for.

Beside it stand the same questions without a prompt (one model, one head for all) and each finding alone (one model per
question), on the same patients and splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from medgraft.benchmarks.tasks.chest.chexpert import Chexpert
from medgraft.benchmarks.tasks.questions import UNKNOWN, Question, Wording, ask
from medgraft.errors import DataError
from medgraft.options import Seed
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, Variant

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
    """The five competition findings, each asked for by prompt; answers are absent and present.

    As variants, one model that never sees the prompt, so that the same features answer all, and each finding alone.
    """

    inputs = ("image", "text")
    objective = "multiclass"
    cohort = "chexpert"
    primary = "auc_macro"
    variants: ClassVar[Mapping[str, Variant]] = {
        "without_text": Variant(inputs=("image",)),
        "atelectasis": Variant(defaults={"questions": ("atelectasis",)}),
        "cardiomegaly": Variant(defaults={"questions": ("cardiomegaly",)}),
        "consolidation": Variant(defaults={"questions": ("consolidation",)}),
        "edema": Variant(defaults={"questions": ("edema",)}),
        "pleural_effusion": Variant(defaults={"questions": ("pleural effusion",)}),
    }

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
        """Reads what :class:`~medgraft.benchmarks.tasks.chest.chexpert.Chexpert` reads, and asks for each finding.

        Raises:
            DataError: The folder holds no CheXpert, or no training image has an answer to some question.
        """
        config = self.config
        options = {
            "uncertainty": config.uncertainty,
            "val_fraction": config.val_fraction,
            "split_seed": config.split_seed,
        }
        base = Chexpert(Chexpert.Config(**options)).load(root)
        assert base.mask is not None
        questions = [question(name) for name in config.questions]
        column = {name.lower(): k for k, name in enumerate(base.classes)}
        answers = {
            name: np.where(base.mask[:, column[name]], base.targets[:, column[name]].astype(np.int64), UNKNOWN)
            for name in config.questions
        }
        if idle := [name for name in config.questions if not (answers[name][base.splits["train"]] != UNKNOWN).any()]:
            raise DataError(
                f"no training image answers {' or '.join(map(repr, idle))}; leave the question out of options: "
                "questions, or choose another uncertainty"
            )
        raw = base.inputs["image"]
        samples = ask(questions, answers, base.splits, [str(i) for i in range(raw.count)], config.wording)
        fingerprint = f"{raw.fingerprint}|{','.join(map(str, samples.unit))}"
        inputs = {
            "image": RawInputs(lambda i: raw.read(int(samples.unit[i])), len(samples.unit), fingerprint),
            "text": samples.prompt_inputs(),
        }
        return TaskData(
            inputs={name: inputs[name] for name in self.inputs},
            targets=samples.targets,
            subjects=base.subjects[samples.unit],
            splits=samples.splits,
            classes=samples.classes,
            asked=samples.asked,
            questions=tuple(config.questions),
            answers=samples.answers,
            attributes={name: values[samples.unit] for name, values in base.attributes.items()},
            phantom=base.phantom,
            provenance={**base.provenance, "unanswered": samples.unanswered, "wording": config.wording},
        )
