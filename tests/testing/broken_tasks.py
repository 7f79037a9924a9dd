"""One sound task in memory, and for every check of a task a copy of it that breaks exactly that rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field

from medgraft.errors import DataError
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, subject_split

SUBJECTS, VISITS = 40, 2
FRACTIONS = {"train": 0.5, "val": 0.2, "test": 0.3}


class Sound(Task):
    """Keeps every rule."""

    inputs = ("image",)
    objective = "multiclass"
    cohort = "made_up"

    class Config(TaskConfig):
        """Options.

        Attributes:
            split_seed: Defines the split.
        """

        split_seed: int = Field(0, ge=0)

    config: Config

    def load(self, root):
        if not root.is_dir():
            raise DataError(f"there is no folder {root}")
        subjects = np.repeat([f"subject-{i:03d}" for i in range(SUBJECTS)], VISITS)
        targets = np.arange(SUBJECTS * VISITS, dtype=np.int64) // VISITS % 3
        splits = self.splits(subjects, targets)
        return TaskData(
            inputs={"image": RawInputs(self.read, len(targets), "fingerprint")},
            targets=self.targets(targets, splits),
            subjects=subjects,
            splits=splits,
            classes=("none", "mild", "severe"),
            provenance=self.provenance(subjects),
        )

    def read(self, i) -> Any:
        return np.full((8, 8), i, dtype=np.uint8)

    def splits(self, subjects, targets):
        return subject_split(subjects, targets, FRACTIONS, self.config.split_seed)

    def targets(self, targets, splits):
        return targets

    def provenance(self, subjects) -> dict[str, Any]:
        return {"reader": {"used": len(subjects), "skipped": {"damaged": 1}}}


class FromTheFuture(Sound):
    api_version = 99


class Undocumented(Sound):
    class Config(Sound.Config):
        """Options."""

        unsaid: int = 1


class Lenient(Sound):
    class Config(Sound.Config):
        __doc__ = Sound.Config.__doc__
        model_config = ConfigDict(extra="ignore")


class Misspelt(Sound):
    objective: Any = "multiklass"


class Unreadable(Sound):
    def load(self, root):
        raise DataError(f"{root} holds no table")


class Leaks(Sound):
    def splits(self, subjects, targets):
        parts = super().splits(subjects, targets)
        return {**parts, "val": np.append(parts["val"], parts["test"][0]), "test": parts["test"][1:]}


class Unseeded(Sound):
    def splits(self, subjects, targets):
        return subject_split(subjects, targets, FRACTIONS, np.random.randint(1000))


class KnowsFilesByTheirDates(Sound):
    """A copy with preserved dates is the same to it, whatever the pixels."""

    def load(self, root):
        data, film = super().load(root), root / "film.bin"
        if not film.exists():
            film.write_bytes(bytes(range(64)))

        def read(i):
            return np.frombuffer(film.read_bytes(), dtype=np.uint8).reshape(8, 8)

        stamp = f"{film.stat().st_size} {film.stat().st_mtime_ns}"
        return dataclasses.replace(data, inputs={"image": RawInputs(read, len(data.targets), stamp)})


class IgnoresItsSeed(Sound):
    def splits(self, subjects, targets):
        return subject_split(subjects, targets, FRACTIONS, 0)


class BeyondItsClasses(Sound):
    def targets(self, targets, splits):
        targets[splits["val"][0]] = 3
        return targets


class FloatImages(Sound):
    def read(self, i):
        return np.zeros((8, 8))


class NamesSubjects(Sound):
    def provenance(self, subjects):
        return {**super().provenance(subjects), "first": str(subjects[0])}


class CountsNothing(Sound):
    def provenance(self, subjects):
        return {"n": len(subjects)}


class ShortIntegers(Sound):
    def targets(self, targets, splits):
        return targets.astype(np.int16)


class NoSuchMetric(Sound):
    primary = "luck"


BROKEN: dict[str, type[Task]] = {
    "api_version_is_spoken": FromTheFuture,
    "options_are_documented": Undocumented,
    "options_are_strict": Lenient,
    "the_class_says_what_it_is": Misspelt,
    "it_loads": Unreadable,
    "no_subject_is_in_two_splits": Leaks,
    "loading_repeats_itself": Unseeded,
    "other_content_is_another_fingerprint": KnowsFilesByTheirDates,
    "the_split_seed_defines_the_split": IgnoresItsSeed,
    "targets_fit_the_objective": BeyondItsClasses,
    "raw_inputs_load": FloatImages,
    "nothing_names_a_subject": NamesSubjects,
    "skipped_files_are_counted": CountsNothing,
    "the_objective_fits": ShortIntegers,
    "metrics_are_finite": NoSuchMetric,
}
