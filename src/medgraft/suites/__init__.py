"""Suites: named, versioned and frozen sets of tasks, with all that makes two people's numbers comparable.

A suite is one YAML file. Those of medgraft lie in this folder; another distribution brings its own in a folder of a
package of its own, which it names in the entry-point group ``medgraft.suites``. A version of a suite never changes: a
change is a new version in a new file, beside the old one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medgraft.errors import ConfigError, MedgraftError, UnknownNameError
from medgraft.files.documents import read_yaml
from medgraft.options import readable
from medgraft.plugins.declared import declared

logger = logging.getLogger(__name__)

GROUP = "medgraft.suites"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SuiteBudget(_Model):
    """What each row may spend.

    Attributes:
        epochs: Epochs at most, as a multiple of those of the adapter's own recipe.
        tune: Trials of tuning; 0 for untuned rows.
        parameters: Trainable parameters that adapters are scaled to; ``None`` for their own sizes.
    """

    epochs: float = Field(1.0, gt=0)
    tune: int = Field(0, ge=0)
    parameters: int | None = Field(None, ge=1)


class Generated(_Model):
    """A generated cohort, which is the same everywhere.

    Attributes:
        writer: What generates it.
        options: Its arguments.
        split_hash: Digest of who is in which split; results of any other split are not of the suite.
    """

    writer: str
    options: dict[str, Any] = {}
    split_hash: str = Field(pattern="[0-9a-f]{64}")


class Collected(_Model):
    """A cohort of people, which each reader obtains for themselves.

    Attributes:
        release: Which release, in words.
        split: The rule of the split, in words; the task's version stands for it. Its digest is not frozen: it depends
            on which files of the release somebody has, and a board keeps different ones apart.
    """

    release: str
    split: str


class SuiteTask(_Model):
    """A task of a suite.

    Attributes:
        task: Its name.
        version: Of the task.
        options: Of the task, where not its defaults.
        limit: Largest number of samples per split.
        primary: Metric by which rows are ranked.
        metric_version: Version of that metric's definition.
        encoders: Encoders that adapters are grafted onto.
        cohort: Name of the cohort, as ``--data`` has it.
        generated: The generated cohort that runs without ``--data`` read; ``None`` if there is none.
        collected: The cohort of people that ``--data`` gives; ``None`` for a suite of generated ones alone.
    """

    task: str
    version: int = 1
    options: dict[str, Any] = {}
    limit: int | None = None
    primary: str
    metric_version: int = 1
    encoders: tuple[str, ...] = Field(min_length=1)
    cohort: str
    generated: Generated | None = None
    collected: Collected | None = None


class Suite(_Model):
    """A suite of one version.

    Attributes:
        name: Such as ``medgraft-chest``.
        version: Such as ``1.0``.
        title: One line for people.
        numbers_version: Of the harness, with which results must have been made.
        seeds: That a row must have, all of them.
        precision: Of what is trained.
        budget: What each row may spend.
        tasks: The tasks.
        references: Adapters that run along, so that a rank means something.
    """

    name: str = Field(pattern=r"[a-z0-9][a-z0-9-]*")
    version: str = Field(pattern=r"\d+\.\d+")
    title: str
    numbers_version: int
    seeds: tuple[int, ...] = Field(min_length=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    budget: SuiteBudget = Field(default_factory=lambda: SuiteBudget.model_validate({}))
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)
    references: tuple[str, ...] = ()

    @field_validator("tasks")
    @classmethod
    def _once(cls, tasks: tuple[SuiteTask, ...]) -> tuple[SuiteTask, ...]:
        names = [each.task for each in tasks]
        if len(set(names)) < len(names):
            raise ValueError("a task stands there twice")
        return tasks

    @property
    def id(self) -> str:
        """How results cite it: ``medgraft-chest v1.0``."""
        return f"{self.name} v{self.version}"

    def sha256(self) -> str:
        """Digest of all that it says, but for its title."""
        text = json.dumps(self.model_dump(mode="json", exclude={"title"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def suites() -> dict[str, Suite]:
    """Every suite that is installed, by its id; a file that is none is named in the log and left out."""
    found: dict[str, Suite] = {}
    for distribution, folder in _folders():
        for path in sorted(folder.glob("*.yaml")):
            try:
                suite = read_suite(path)
            except MedgraftError as error:
                logger.warning("suite of %s is left out: %s", distribution, error)
                continue
            if suite.id in found:
                logger.warning("suite %s of %s is left out: there is one of that name", suite.id, distribution)
                continue
            found[suite.id] = suite
    return found


def read_suite(path: Path) -> Suite:
    """A suite from its file.

    Raises:
        ConfigError: The file is none.
    """
    try:
        return Suite.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{path.name} is not a valid suite: {readable(error)}") from error


def _folders() -> list[tuple[str, Path]]:
    """Distribution and folder of each declared package, ours first; no plugin is imported."""
    entries, unreadable = declared(GROUP)
    for each in unreadable:
        logger.warning("suites of %s are left out: %s", each.distribution, each.reason)
    folders: list[tuple[str, Path]] = []
    for entry in sorted(entries, key=lambda entry: entry.target != __name__):
        distribution = entry.distribution
        try:
            spec = importlib.util.find_spec(entry.target)
        except (ImportError, ValueError, AttributeError) as error:
            logger.warning("suites of %s are left out: %s: %s", distribution, entry.target, error)
            continue
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not places:
            logger.warning("suites of %s are left out: %s is no package", distribution, entry.target)
        folders += [(distribution, Path(place)) for place in places]
    return folders


def find_suite(name: str) -> Suite:
    """A suite by its name, of the newest version, or by ``name@version`` or its id.

    Raises:
        UnknownNameError: There is none.
    """
    wanted, _, version = name.replace(" v", "@").partition("@")
    named = [suite for suite in suites().values() if suite.name == wanted]
    if version:
        named = [suite for suite in named if suite.version == version.removeprefix("v")]
    if not named:
        raise UnknownNameError("suite", name, [*suites(), *{suite.name for suite in suites().values()}])
    return max(named, key=lambda suite: tuple(map(int, suite.version.split("."))))
