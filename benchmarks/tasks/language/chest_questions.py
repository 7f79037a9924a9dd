"""Questions about chest films, answered in words: is a finding there, which side, how large, where, which projection.

Whether a finding is there is told by CheXpert's labels (Irvin et al., AAAI 2019): 1 is yes, 0 is no, and of uncertain
and blank ones nothing is asked. Side, size and zone stand in no table of CheXpert; its phantom knows them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from medgraft.benchmarks.cohorts.chest.chexpert import exclude_subjects, read_chexpert
from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.cohorts.chest.findings import statements_of_labels
from medgraft.benchmarks.cohorts.chest.questions import FilmQuestion, drawn, numbers_of, questions_of
from medgraft.benchmarks.metrics.texts.statements import Statement, to_json
from medgraft.benchmarks.phantoms.chest.studies import Study
from medgraft.benchmarks.phantoms.chest.texts.truth import film_statements, marked, studies_at
from medgraft.benchmarks.tasks.chest.chexpert import (
    ATTRIBUTES,
    has_test_table,
    hold_out,
    image_inputs,
    provenance,
    stack,
)
from medgraft.benchmarks.tasks.chest.radiographs import attributes
from medgraft.benchmarks.tasks.language.texts import (
    OfficialConfig,
    TextSample,
    multiple_choice,
    official,
    text_data,
    usable,
)
from medgraft.benchmarks.tasks.questions import Wording
from medgraft.task import Task, TaskData, Variant

CLOSED = ("presence", "plane")
"""Questions that are closed without options in the prompt: their answers are two words that anybody knows."""


class ChestQuestions(Task):
    """An answer in words to each question; with options in the prompt as the variant ``choices``."""

    inputs = ("image",)
    objective = "generation"
    cohort = "chexpert"
    primary = "exact_match"
    tags = ("language", "questions")
    variants: ClassVar[Mapping[str, Variant]] = {"choices": Variant(defaults={"form": "choices"})}

    class Config(OfficialConfig):
        """Options.

        Attributes:
            limit: Tokens of an answer at most.
            form: ``words`` asks for the answer alone, ``choices`` puts options into the prompt.
            per_image: Questions about each film at most.
            wording: ``held_out`` asks validation and test in wordings that training never used, ``seen`` in its own.
        """

        limit: int = Field(16, ge=1, le=4096)
        form: Literal["words", "choices"] = "words"
        per_image: int = Field(4, ge=1, le=40)
        wording: Wording = "held_out"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads ``train`` and ``test`` tables; a copy without a test table is tested on ``valid``."""
        config = self.config
        tested_on = "test" if has_test_table(root) else "valid"
        tables = {
            "train": read_chexpert(root, "train", reports=False),
            "test": read_chexpert(root, tested_on, reports=False),
        }
        tables["train"] = exclude_subjects(tables["train"], tables["test"].frame["subject"])
        frame, origin = stack(tables)
        phantom = tables["train"].phantom
        studies = studies_at(marked(root), "chexpert") if phantom else {}
        _, val = hold_out(
            np.flatnonzero(origin == "train"), frame["subject"].to_numpy(str), config.val_fraction, config.split_seed
        )
        split = np.where(origin == "test", "test", "train").astype(object)
        split[val] = "val"
        report = tables["train"].report
        found = [
            sample
            for row, part in zip(frame.to_dict("records"), split, strict=True)
            for sample in self._asked(row, part, studies.get(str(row["study"])))
        ]
        samples, splits = official(usable(found, report, config, "answers"), report, config)
        rows = frame.set_index("image", drop=False).loc[[sample.source for sample in samples]]
        return text_data(
            samples,
            splits,
            config,
            inputs={"image": image_inputs(rows, root)},
            phantom=phantom,
            provenance={**provenance(tables), "tested_on": tested_on, "form": config.form, "wording": config.wording},
            given_test=True,
            attributes=attributes(rows, ATTRIBUTES),
        )

    def _asked(self, row: Mapping[Hashable, Any], split: str, study: Study | None) -> Iterator[TextSample]:
        """Questions about one film of a table."""
        config = self.config
        told = statements_of_labels({label: row[label] for label in CHEXPERT_14})
        known = told if study is None else film_statements(study)
        asked = [q for q in questions_of(detailed(told, known), str(row["ap_pa"])) if q.options]
        image = str(row["image"])
        key = "/".join(Path(image).parts[-3:])
        held_out = config.wording == "held_out" and split != "train"
        for question, number in drawn(asked, numbers_of(key, len(asked)), config.per_image):
            yield TextSample(
                source=image,
                subject=str(row["subject"]),
                split=split,
                truth=to_json(known),
                **_told(question, question.words(number, held_out=held_out), config.form == "choices"),
            )


def detailed(told: Sequence[Statement], known: Sequence[Statement]) -> list[Statement]:
    """What a table tells, with side, size and place where it agrees with what is known of the film.

    Example:
        >>> from medgraft.benchmarks.metrics.texts.statements import Statement
        >>> known = [Statement("edema", False), Statement("pneumothorax", True, side="left")]
        >>> [(s.finding, s.present, s.side) for s in detailed([Statement("edema", True), known[1]], known)]
        [('edema', True, ''), ('pneumothorax', True, 'left')]
    """
    by_name = {each.finding: each for each in known}
    return [
        by_name[said.finding] if said.present and said.finding in by_name and by_name[said.finding].present else said
        for said in told
    ]


def _told(question: FilmQuestion, words: str, choices: bool) -> dict[str, Any]:
    """Prompt, reference, kind and options of a question."""
    closed = choices or question.type in CLOSED
    kind = f"{'closed' if closed else 'open'}:{question.type}"
    if not choices:
        return {"prompt": words, "reference": question.answer, "kind": kind}
    return {**multiple_choice(words, question.options, question.options.index(question.answer)), "kind": kind}
