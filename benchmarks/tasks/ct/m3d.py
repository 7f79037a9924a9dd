"""Texts and questions on stacks of CT slices: M3D-Cap and M3D-VQA.

Bai et al., "M3D", 2024 (arXiv 2404.00578). Splits are the published ones; no person is named, so a case stands for one.
A case that a later split has too is left out of the earlier one and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.ct.m3d import Stack, StackQuestion, open_m3d, read_cap, read_vqa
from medgraft.benchmarks.tasks.ct.volumes import reading, stacks
from medgraft.benchmarks.tasks.language.texts import (
    OfficialConfig,
    TextSample,
    multiple_choice,
    official,
    text_data,
    usable,
)
from medgraft.task import Task, TaskData


class M3dCap(Task):
    """The findings of each stack in words."""

    inputs = ("volume",)
    objective = "generation"
    cohort = "m3d"
    primary = "bleu_1_by_sample"
    tags = ("language", "reports")

    class Config(OfficialConfig):
        """Options.

        Attributes:
            limit: Tokens of a text at most.
            prompt: What the language model is asked; one of M3D's thirty wordings.
            test: Key of the test split in ``M3D_Cap.json``.
        """

        limit: int = Field(256, ge=1, le=4096)
        prompt: str = Field("Please caption this medical scan with findings.", min_length=1)
        test: str = Field("test", min_length=1)

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the arrays that have a text."""
        config, copy = self.config, open_m3d(root)
        found = [_caption(stack, config.prompt) for stack in read_cap(copy, config.test)]
        samples, splits = official(usable(found, copy.report, config, "reports"), copy.report, config)
        return text_data(
            samples,
            splits,
            config,
            inputs={"volume": stacks([sample.source for sample in samples], root)},
            phantom=copy.phantom,
            provenance=reading(copy),
            given_test=True,
        )


def _caption(stack: Stack, prompt: str) -> TextSample:
    return TextSample(stack.path, stack.case, prompt, stack.text, split=stack.split, truth=stack.truth)


class M3dVqa(Task):
    """Questions with four options, as in M3D: once with them, once without.

    A closed question's prompt ends in ``Choices: A. ... B. ... C. ... D. ...`` and its answer is ``B. left lung``; an
    open one is the question alone, and its answer the words.
    """

    inputs = ("volume",)
    objective = "generation"
    cohort = "m3d"
    primary = "exact_match"
    tags = ("language", "questions")

    class Config(OfficialConfig):
        """Options.

        Attributes:
            limit: Tokens of an answer at most.
            form: Ask every question with its options (``closed``), without them (``open``), or both ways.
            validation_rows: Rows of the validation table that are read; M3D reads 2048.
        """

        limit: int = Field(32, ge=1, le=4096)
        form: Literal["closed", "open", "both"] = "both"
        validation_rows: int = Field(2048, ge=1)

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the questions whose array is there."""
        config, copy = self.config, open_m3d(root)
        asked = read_vqa(copy, {"train": None, "val": config.validation_rows, "test": None})
        # Those of a stack follow each other, so that one stack in memory serves all of its questions.
        asked.sort(key=lambda each: each.stack.path)
        forms = ("closed", "open") if config.form == "both" else (config.form,)
        found = [_question(each, form) for each in asked for form in forms]
        samples, splits = official(usable(found, copy.report, config, "answers"), copy.report, config)
        return text_data(
            samples,
            splits,
            config,
            inputs={"volume": stacks([sample.source for sample in samples], root)},
            phantom=copy.phantom,
            provenance=reading(copy, form=config.form),
            given_test=True,
        )


def _question(asked: StackQuestion, form: str) -> TextSample:
    told = {"prompt": asked.question, "reference": asked.answer}
    if form == "closed":
        told = multiple_choice(asked.question, asked.choices, asked.right)
    stack = asked.stack
    return TextSample(source=stack.path, subject=stack.case, split=stack.split, kind=f"{form}:{asked.type}", **told)
