"""The questions of ``brain_prompts`` about a T1 volume of ADNI, answered in words by a language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from medgraft.benchmarks.tasks.brain.brain_prompts import BY_NAME, BrainPrompts, Name
from medgraft.benchmarks.tasks.language.texts import SharesConfig, TextSample, multiple_choice, text_data
from medgraft.benchmarks.tasks.questions import Wording
from medgraft.task import Task, TaskData, Variant

WORDS: Mapping[str, Mapping[str, str]] = {
    "diagnosis": {"CN": "Cognitively normal", "MCI": "Mild cognitive impairment", "AD": "Alzheimer's disease"},
    "age": {"below 70": "Below 70 years", "70 to 79": "70 to 79 years", "80 and above": "80 years and above"},
    "sex": {"F": "A woman", "M": "A man"},
    "ventricles": {"small": "Small", "medium": "Medium", "large": "Large"},
}
"""Question -> class -> answer in words."""


class BrainQuestions(Task):
    """An answer in words to each question; with options in the prompt as the variant ``choices``."""

    inputs = ("volume",)
    objective = "generation"
    cohort = "adni"
    primary = "exact_match"
    tags = ("language", "questions")
    variants: ClassVar[Mapping[str, Variant]] = {"choices": Variant(defaults={"form": "choices"})}

    class Config(SharesConfig):
        """Options.

        Attributes:
            limit: Tokens of an answer at most.
            form: ``words`` asks for the answer alone, ``choices`` puts options into the prompt.
            questions: What is asked, as in ``brain_prompts``.
            wording: ``held_out`` asks validation and test in wordings that training never used, ``seen`` in its own.
            train_visits: ``all`` visits of the training subjects, or their first one only.
            test_fraction: Share of subjects in the test split.
        """

        limit: int = Field(16, ge=1, le=4096)
        form: Literal["words", "choices"] = "words"
        questions: tuple[Name, ...] = Field(("diagnosis", "age", "sex", "ventricles"), min_length=1)
        wording: Wording = "held_out"
        train_visits: Literal["all", "baseline"] = "all"
        test_fraction: float = Field(0.3, gt=0, lt=1)

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads a LONI or BIDS copy and asks every question that its tables answer, see ``brain_prompts``.

        Raises:
            DataError: The folder holds no ADNI, or no training visit has an answer to some question.
        """
        config = self.config
        shared = ("questions", "wording", "train_visits", "test_fraction", "val_fraction", "split_seed")
        options: dict[str, Any] = {name: getattr(config, name) for name in shared}
        asked = BrainPrompts(BrainPrompts.Config(**options)).load(root)
        assert asked.asked is not None
        samples = []
        for i, (number, target) in enumerate(zip(asked.asked.tolist(), asked.targets.tolist(), strict=True)):
            question = asked.questions[number]
            answer = asked.classes[target].removeprefix(f"{question}: ")
            told = self._told(question, str(asked.inputs["text"].read(i)), answer)
            samples.append(TextSample(str(i), str(asked.subjects[i]), **told))
        return text_data(
            samples,
            asked.splits,
            config,
            inputs={"volume": asked.inputs["volume"]},
            phantom=asked.phantom,
            provenance={**asked.provenance, "form": config.form},
        )

    def _told(self, question: str, prompt: str, answer: str) -> dict[str, Any]:
        """Prompt, reference, kind and options of a question."""
        words = [WORDS[question][name] for name in BY_NAME[question].answers]
        right = BY_NAME[question].answers.index(answer)
        if self.config.form == "choices":
            return {**multiple_choice(prompt, words, right), "kind": f"closed:{question}"}
        return {"prompt": prompt, "reference": words[right], "kind": f"open:{question}"}
