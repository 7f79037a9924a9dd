"""What the tasks of published questions about images share: samples of a table of questions, and their data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cohorts.images.grey import IMAGES_VERSION
from medgraft.benchmarks.cohorts.images.load import load_photograph
from medgraft.benchmarks.cohorts.texts.records import ImageQuestion, QuestionTable
from medgraft.benchmarks.phantoms.chest.texts.truth import truths_at
from medgraft.benchmarks.tasks.chest.radiographs import radiographs, reading
from medgraft.benchmarks.tasks.language.texts import (
    TextConfig,
    TextSample,
    multiple_choice,
    text_data,
    usable,
)
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs, TaskData


def photographs(paths: Sequence[str], root: Path) -> RawInputs:
    """Pictures in colour, read when needed."""
    paths = list(paths)
    facts = f"{file_facts(paths, root)}|{reading_facts(IMAGES_VERSION)}|colours"
    return RawInputs(lambda i: load_photograph(paths[i]), len(paths), facts, colour=True)


def samples_of(table: QuestionTable, config: TextConfig, layout: str, *, lettered: bool = True) -> list[TextSample]:
    """The questions as samples; those that have no answer, or are asked twice, are left out and counted.

    Args:
        table: The questions.
        config: The task's options.
        layout: Name of the cohort, by which a phantom's truth is looked up.
        lettered: Options stand in the prompt, and the answer is ``"B. left"``; else the question stands alone.

    Raises:
        DataError: None is left.
    """
    truths = truths_at(table.home, layout) if table.phantom else {}
    found = [_sample(question, truths.get(question.key, ""), lettered) for question in table.questions]
    return usable(found, table.report, config, "answers")


def _sample(question: ImageQuestion, truth: str, lettered: bool) -> TextSample:
    told: dict[str, Any] = {"prompt": question.question, "reference": question.answer}
    if question.choices and lettered:
        told = multiple_choice(question.question, question.choices, question.right)
    return TextSample(
        source=question.image,
        subject=question.subject,
        split=question.split,
        kind=question.kind if lettered or not question.choices else question.kind.replace("closed:", "open:"),
        truth=truth,
        **told,
    )


def data_of(
    table: QuestionTable,
    samples: Sequence[TextSample],
    splits: Mapping[str, np.ndarray],
    config: TextConfig,
    root: Path,
    *,
    images: Callable[[Sequence[str], Path], RawInputs] = radiographs,
    given_test: bool = True,
    **facts: Any,
) -> TaskData:
    """The task's data.

    Args:
        table: What was read.
        samples: Those that are used.
        splits: Split -> their numbers ``[m]``.
        config: The task's options.
        root: Folder of the cohort.
        images: Reads images, grey unless told otherwise.
        given_test: The data name their test split.
        **facts: More for the provenance.
    """
    return text_data(
        samples,
        splits,
        config,
        root=root,
        inputs={"image": images([sample.source for sample in samples], root)},
        phantom=table.phantom,
        provenance=reading(table.report, table.generator, **facts),
        given_test=given_test,
    )
