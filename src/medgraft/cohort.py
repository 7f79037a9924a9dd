"""The contract of a cohort plugin: a layout of real data, and its phantom twin.

Tasks name the cohort that they read. What a cohort offers them is a generated copy in the same layout, so that a task
can be tried without anybody's data: ``medgraft cohort NAME`` writes one, with options made of :attr:`Cohort.Config`,
and a sweep that is given no folder makes one of the preset's, or the default, size.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from medgraft import plugins
from medgraft.errors import ConfigError, DataError, MedgraftError, UnknownNameError
from medgraft.options import Options, checked

PHANTOM_MARKER = "PHANTOM"
"""File that makes a folder a generated one; JSON that names its generator."""


class CohortConfig(Options):
    """Base of the options of a phantom; a plugin's ``Config`` derives from it.

    Attributes:
        seed: Defines every file.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, populate_by_name=True, loc_by_alias=False
    )

    seed: int = Field(0, ge=0, le=2**32 - 1)


class Cohort:
    """Base class of cohort plugins.

    Attributes:
        api_version: Version of this contract that the plugin was written for.
        title: A few words for people.
        Config: Options of the phantom; their defaults are what a sweep makes where its preset says nothing.
        small: Options of one that is written in seconds, for checks.
        generator: Version of the generator; another one is another phantom.
        real: Cohort whose folder holds the real data, where that is another one; the phantoms may differ.
        drawn_from: Cohort of whose samples it is made, so that neither is a stranger to a graft of the other.
        takes_files: ``--data NAME=PATH`` may name a file.
    """

    api_version: ClassVar[int] = 1
    title: ClassVar[str] = ""
    Config: ClassVar[type[CohortConfig]] = CohortConfig
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    generator: ClassVar[str] = "1"
    real: ClassVar[str] = ""
    drawn_from: ClassVar[str] = ""
    takes_files: ClassVar[bool] = False

    @classmethod
    def generator_version(cls) -> str:
        """:attr:`generator`, unless the version is known elsewhere."""
        return cls.generator

    def write_phantom(self, out: Path, config: Any, jobs: int) -> None:
        """Writes a phantom in the layout of the real data.

        Args:
            out: A folder that does not exist or is empty.
            config: The options, of :attr:`Config`.
            jobs: Processes that may be used; the bytes do not depend on it.

        Raises:
            MedgraftError: The options do not go together.
        """
        raise TypeError(f"{type(self).__name__} must implement write_phantom()")

    def revision(self, root: Path) -> str:
        """What identifies the content of a real copy; empty to leave it to the harness.

        The harness reads all tables, images and texts below the folder; data of other kinds need this method.

        Raises:
            DataError: The folder is no copy of the cohort.
        """
        return ""

    @classmethod
    def made_up(cls, files: Iterable[str]) -> bool:
        """Whether the names of a folder's files hold identifiers, and all of them are ones that only the phantom gives.

        So a copy of a phantom is known for one where its marker was left behind. False unless overridden.

        Args:
            files: Paths relative to the folder.
        """
        return False


def is_phantom(root: Path) -> bool:
    """True where ``root`` or one of its two parents carries the marker file that every generated cohort has."""
    return any((folder / PHANTOM_MARKER).is_file() for folder in (root, *list(root.parents)[:2]))


def cohort_class(name: str) -> type[Cohort]:
    """The class of a cohort, imported; ``table:NAME`` is the cohort ``table`` of a task that has a name of its own.

    Raises:
        UnknownNameError: No installed plugin has the name; near ones are suggested.
        PluginError: It cannot be imported, or is no cohort.
    """
    try:
        return plugins.load(plugins.find("cohort", name))
    except UnknownNameError:
        family, colon, _ = name.partition(":")
        if not colon or family not in plugins.discover("cohort"):
            raise
        return plugins.load(plugins.find("cohort", family))


def write_phantom(name: str, out: Path, options: Mapping[str, Any], jobs: int = 1) -> None:
    """Writes a phantom of a cohort; the folder appears whole or not at all, and its marker says what it is.

    Args:
        name: Name of the cohort.
        out: New folder.
        options: Of its ``Config``.
        jobs: Processes that may be used.

    Raises:
        ConfigError: There is no such cohort, an option does not exist or is out of range.
        DataError: ``out`` is in use or cannot be written, or the plugin failed.
    """
    try:
        cls = cohort_class(name)
    except UnknownNameError as error:
        raise ConfigError(
            f"there is no phantom of cohort {name!r}; give its folder with --data {name}=PATH ({error})"
        ) from error
    config, out = checked(cls.Config, options, f"options of cohort {name!r}"), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty; name a new folder, or delete this one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as unfinished:
            folder = Path(unfinished) / out.name
            _write(name, cls, folder, config, jobs)
            os.replace(folder, out)
    except OSError as error:
        raise DataError(f"cannot write a cohort to {out}: {error}") from error


def _write(name: str, cls: type[Cohort], folder: Path, config: CohortConfig, jobs: int) -> None:
    try:
        cls().write_phantom(folder, config, jobs)
    except (MedgraftError, OSError):
        raise
    except Exception as error:  # an author's code
        raise DataError(
            f"cohort {name!r} cannot write its phantom: {type(error).__name__}: {error}; ask the authors of "
            f"{cls.__module__}, or give a folder with --data {name}=PATH"
        ) from error
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(f"cohort {name!r} wrote nothing into its phantom; {cls.__name__}.write_phantom() must")
    if not (folder / PHANTOM_MARKER).exists():
        facts = {"generator": f"{name}-{cls.generator_version()}", "config": config.model_dump(mode="json")}
        text = json.dumps({**facts, "statement": "generated; no person"}, indent=1)
        (folder / PHANTOM_MARKER).write_text(f"{text}\n", encoding="utf-8")
