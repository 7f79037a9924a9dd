"""Reports of T1 volumes by a language model, made of the volumes of regions in ADNIMERGE.

ADNI publishes no radiologist's reports, so these say what the tables say, see
:mod:`medgraft.benchmarks.tasks.language.brain_facts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medgraft.benchmarks.cohorts.adni.reader import load_spaced, read_adni
from medgraft.benchmarks.cohorts.chest.questions import numbers_of
from medgraft.benchmarks.cohorts.volumes.load import VOLUMES_VERSION
from medgraft.benchmarks.metrics.texts.statements import to_json
from medgraft.benchmarks.tasks.brain.visit_splits import first_visits_only, strata_of
from medgraft.benchmarks.tasks.chest.radiographs import attributes, reading
from medgraft.benchmarks.tasks.language.brain_facts import norms_of, shares_of, statements_at, worded
from medgraft.benchmarks.tasks.language.texts import SharesConfig, TextSample, text_data
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs, Task, TaskData, subject_split

NO_REPORT = "volume without a report: no field tells a volume of a region"


class BrainReports(Task):
    """A report for each T1 volume; validation and test hold the first visit of each subject."""

    inputs = ("volume",)
    objective = "generation"
    cohort = "adni"
    primary = "rouge_l"
    tags = ("language",)

    class Config(SharesConfig):
        """Options.

        Attributes:
            prompt: What the language model is asked.
            train_visits: ``all`` visits of the training subjects, or their first one only.
        """

        prompt: str = Field("Describe the brain scan.", min_length=1)
        train_visits: Literal["all", "baseline"] = "all"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads a LONI or BIDS copy.

        Raises:
            DataError: The folder holds no ADNI, or its tables tell no volumes of regions.
        """
        config, table = self.config, read_adni(root)
        frame = table.frame.reset_index(drop=True)
        subjects = frame["subject"].to_numpy(str)
        parts = subject_split(subjects, strata_of(frame, ("dx",)), config.fractions, config.split_seed)
        parts = first_visits_only(frame, parts, training_too=config.train_visits == "baseline")
        norms, shares = norms_of(frame, parts["train"]), shares_of(frame)
        rows, samples, split = [], [], []
        for name, row in ((name, row) for name, index in parts.items() for row in index.tolist()):
            said = statements_at(shares, norms, row)
            if not said:
                table.report.skip(NO_REPORT)
                continue
            text = worded(said, numbers_of(f"{subjects[row]}|{frame['session'].iloc[row]}", len(said)))
            image = str(frame["image"].iloc[row])
            samples.append(TextSample(image, str(subjects[row]), config.prompt, text, name, truth=to_json(said)))
            rows.append(row)
            split.append(name)
        table.report.used = len(samples)
        paths = [sample.source for sample in samples]
        facts = f"{file_facts(paths, root)}|{reading_facts(VOLUMES_VERSION)}"
        return text_data(
            samples,
            {name: np.flatnonzero(np.array(split) == name) for name in parts},
            config,
            inputs={"volume": RawInputs(lambda i: load_spaced(paths[i]), len(paths), facts)},
            phantom=table.phantom,
            provenance=reading(
                table.report,
                table.generator,
                layout=table.layout,
                healthy_shares_of_icv={column: list(norm) for column, norm in norms.items()},
            ),
            attributes=attributes(frame.iloc[rows], ("sex", "age", "dx")),
        )
