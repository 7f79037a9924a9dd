"""Several questions on one T1 volume of ADNI, one model for all: the prompt says which is asked.

Diagnosis, age group, sex and the size of the ventricles, each in several wordings; the wordings of validation and test
are never trained on. Beside the task that all questions share stand the same questions without a prompt (one model, one
head for all) and each question alone (one model per question), on the same subjects and splits.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.adni.reader import load_spaced, read_adni
from medgraft.benchmarks.cohorts.volumes.load import VOLUMES_VERSION
from medgraft.benchmarks.tasks.brain.adni import DIAGNOSES
from medgraft.benchmarks.tasks.brain.visit_splits import first_visits_only, strata_of
from medgraft.benchmarks.tasks.questions import UNKNOWN, Question, Wording, ask
from medgraft.benchmarks.tasks.splits import SplitConfig
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs, Task, TaskData, Variant, subject_split

AGE_LIMITS = (70.0, 80.0)
"""Years at which the second and the third age group begin."""

QUESTIONS = (
    Question(
        "diagnosis",
        DIAGNOSES,
        (
            "Is this AD, MCI or CN?",
            "Is cognition normal, mildly impaired or markedly impaired?",
            "Normal, mildly impaired or demented?",
            "Which diagnosis is it: normal, mildly impaired or dementia?",
        ),
        ("Is this person cognitively normal, mildly impaired or demented?", "How impaired is cognition?"),
    ),
    Question(
        "age",
        ("below 70", "70 to 79", "80 and above"),
        (
            "Estimate the age group.",
            "How old is this person?",
            "Estimate the age in years.",
            "Is it 70 or 80 years old?",
        ),
        ("How many years old is this person?", "Which age group is it, in years?"),
    ),
    Question(
        "sex",
        ("F", "M"),
        ("Which sex?", "Is this a woman or a man?", "Man or woman?", "Is this person a man or a woman?"),
        ("Is the person in the scan a woman or a man?", "Tell whether this is a man or a woman."),
    ),
    Question(
        "ventricles",
        ("small", "medium", "large"),
        (
            "How large are the ventricles?",
            "Is the size of the ventricles small, medium or large?",
            "Are the ventricles normal, borderline or elevated in volume?",
            "Are the ventricles slightly or markedly elevated in size?",
        ),
        ("Are the ventricles of borderline or elevated size?", "How markedly are the ventricles elevated in volume?"),
    ),
)
BY_NAME = {question.name: question for question in QUESTIONS}
Name = Literal["diagnosis", "age", "sex", "ventricles"]


def answers_of(frame: pd.DataFrame, train: np.ndarray) -> tuple[dict[str, np.ndarray], list[float]]:
    """Answer of each row to each question, ``[n, questions]``, and the two limits of the ventricles' size.

    The ventricles are small, medium or large by thirds of the training rows, as shares of the intracranial volume.

    Args:
        frame: Rows of :attr:`~medgraft.benchmarks.cohorts.tables.visit_table.VisitTable.frame`.
        train: Training rows.
    """
    age = frame["age"].to_numpy(float)
    share = frame["Ventricles"].to_numpy(float) / frame["ICV"].to_numpy(float)
    shares = share[train][np.isfinite(share[train])]
    limits = np.quantile(shares, [1 / 3, 2 / 3]) if len(shares) else np.zeros(2)

    def coded(column: str, words: tuple[str, ...]) -> np.ndarray:
        codes = {word: k for k, word in enumerate(words)}
        return np.array([codes.get(word, UNKNOWN) for word in frame[column]], np.int64)

    answers = {
        "diagnosis": coded("dx", DIAGNOSES),
        "age": np.where(np.isfinite(age), np.searchsorted(AGE_LIMITS, age, side="right"), UNKNOWN),
        "sex": coded("sex", BY_NAME["sex"].answers),
        "ventricles": np.where(np.isfinite(share), np.searchsorted(limits, share, side="right"), UNKNOWN),
    }
    return answers, [float(limit) for limit in limits]


class BrainPrompts(Task):
    """All questions by one model, asked by prompt.

    As variants, one model that never sees the prompt, so that the same features answer all, and each question alone.
    """

    inputs = ("volume", "text")
    objective = "multiclass"
    cohort = "adni"
    variants: ClassVar[Mapping[str, Variant]] = {
        "without_text": Variant(inputs=("volume",)),
        "diagnosis": Variant(defaults={"questions": ("diagnosis",)}),
        "age": Variant(defaults={"questions": ("age",)}),
        "sex": Variant(defaults={"questions": ("sex",)}),
        "ventricles": Variant(defaults={"questions": ("ventricles",)}),
    }

    class Config(SplitConfig):
        """Options.

        Attributes:
            questions: What is asked, in this order, which is also the order of the tasks that adapters are told.
            wording: ``held_out`` asks validation and test in wordings that training never used, ``seen`` in its own.
            train_visits: ``all`` visits of the training subjects, or their first one only.
        """

        questions: tuple[Name, ...] = Field(("diagnosis", "age", "sex", "ventricles"), min_length=1)
        wording: Wording = "held_out"
        train_visits: Literal["all", "baseline"] = "all"

        @model_validator(mode="after")
        def _asked_once(self) -> BrainPrompts.Config:
            if len(set(self.questions)) != len(self.questions):
                raise ValueError(f"questions names one twice: {', '.join(self.questions)}")
            return self

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads a LONI or BIDS copy and asks every question on every visit whose tables answer it.

        Raises:
            DataError: The folder holds no ADNI, or no training visit has an answer to some question.
        """
        table, config = read_adni(root), self.config
        frame = table.frame.reset_index(drop=True)
        splits = self._splits(frame)
        answers, limits = answers_of(frame, splits["train"])
        questions = [BY_NAME[name] for name in config.questions]
        keys = [f"{row['subject']}|{row['session']}|{row['variant']}" for row in frame.to_dict("records")]
        samples = ask(questions, answers, splits, keys, config.wording)
        idle = [q.name for q in questions if not (answers[q.name][splits["train"]] != UNKNOWN).any()]
        if idle:
            raise DataError(
                f"no training visit answers {' or '.join(map(repr, idle))} (volumes of regions and ages stand in "
                "ADNIMERGE); leave the question out of options: questions"
            )
        paths = [str(frame["image"].iloc[unit]) for unit in samples.unit]
        # The samples of a visit follow each other, so one volume in memory serves all of its questions.
        read = functools.lru_cache(maxsize=1)(load_spaced)
        facts = f"{file_facts(paths, root)}|{reading_facts(VOLUMES_VERSION)}"
        volumes = RawInputs(lambda i: read(paths[i]), len(paths), facts)
        inputs = {"volume": volumes, "text": samples.prompt_inputs()}
        return TaskData(
            inputs={name: inputs[name] for name in self.inputs},
            targets=samples.targets,
            subjects=frame["subject"].to_numpy(str)[samples.unit],
            splits=samples.splits,
            classes=samples.classes,
            asked=samples.asked,
            questions=tuple(config.questions),
            answers=samples.answers,
            phantom=table.phantom,
            provenance={
                "layout": table.layout,
                "generator": table.generator,
                "reader": {
                    "used": table.report.used,
                    "skipped": dict(table.report.skipped),
                    "notes": dict(table.report.notes),
                },
                "unanswered": samples.unanswered,
                "samples_per_question": {q.name: int((samples.asked == k).sum()) for k, q in enumerate(questions)},
                "wording": config.wording,
                "age_limits_years": list(AGE_LIMITS),
                "ventricle_limits_share_of_icv": limits,
            },
        )

    def _splits(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        config = self.config
        splits = subject_split(
            frame["subject"].to_numpy(str), strata_of(frame, ("dx",)), config.fractions, config.split_seed
        )
        return first_visits_only(frame, splits, training_too=config.train_visits == "baseline")
