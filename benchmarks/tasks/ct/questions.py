"""Questions on chest CTs: RadGenome-Chest CT's on CT-RATE's volumes.

Zhang et al., "RadGenome-Chest CT", 2024 (arXiv 2404.16754). Volumes of CT-RATE's validation split are tested on.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from medgraft.benchmarks.cohorts.ct.ct_rate import read_ct_rate
from medgraft.benchmarks.cohorts.ct.hounsfield import Window
from medgraft.benchmarks.cohorts.ct.radgenome import YES_NO, QuestionKind, RegionQuestion, read_radgenome
from medgraft.benchmarks.tasks.ct.ct_rate import attributes
from medgraft.benchmarks.tasks.ct.reports import SPLITS
from medgraft.benchmarks.tasks.ct.volumes import ct_volumes, reading
from medgraft.benchmarks.tasks.language.texts import OfficialConfig, TextSample, official, text_data, usable
from medgraft.task import Task, TaskData


class CtRateQuestions(Task):
    """An answer in words to each question: what is abnormal in a region, is a finding there, where, how large."""

    inputs = ("volume",)
    objective = "generation"
    cohort = "ct_rate"
    primary = "exact_match"
    tags = ("language", "questions")

    class Config(OfficialConfig):
        """Options.

        Attributes:
            limit: Tokens of an answer at most.
            kinds: Kinds of questions that are asked.
            window: Which grey values Hounsfield units become; ``ct_clip`` is CT-CLIP's, ``m3d`` M3D's.
        """

        limit: int = Field(24, ge=1, le=4096)
        kinds: tuple[QuestionKind, ...] = Field(("abnormality", "presence", "location", "size"), min_length=1)
        window: Window = "hu"

        @field_validator("kinds")
        @classmethod
        def _each_once(cls, kinds: tuple[QuestionKind, ...]) -> tuple[QuestionKind, ...]:
            if len(set(kinds)) != len(kinds):
                raise ValueError(f"kinds names one twice: {', '.join(kinds)}")
            return kinds

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the questions whose volume is there."""
        config, table = self.config, read_ct_rate(root, "all")
        rows = {str(name): row for row, name in enumerate(table.frame["name"])}
        found: list[TextSample] = []
        for split in SPLITS:
            for asked in read_radgenome(root, split, config.kinds, table.report):
                if (row := rows.get(asked.volume)) is None:
                    table.report.skip("volume of a question missing")
                else:
                    found.append(_sample(asked, row, str(table.frame["subject"].iloc[row]), SPLITS[split]))
        # Those of a volume follow each other, so that one volume in memory serves all of its questions.
        found.sort(key=lambda sample: int(sample.source))
        samples, splits = official(usable(found, table.report, config, "answers"), table.report, config)
        chosen = [int(sample.source) for sample in samples]
        told = attributes(table)
        return text_data(
            samples,
            splits,
            config,
            inputs={"volume": ct_volumes(table, chosen, config.window, root)},
            phantom=table.phantom,
            provenance=reading(table, window=config.window),
            given_test=True,
            attributes={name: values[chosen] for name, values in told.items()},
        )


def _sample(asked: RegionQuestion, row: int, subject: str, split: str) -> TextSample:
    closed = asked.kind == "presence"
    return TextSample(
        source=str(row),
        subject=subject,
        prompt=asked.question,
        reference=asked.answer,
        split=split,
        kind=f"{'closed' if closed else 'open'}:{asked.kind}",
        choices=YES_NO if closed else (),
        answer="AB"[YES_NO.index(asked.answer)] if closed else "",
    )
