"""What the readers of texts share: lists of records in JSON files, images by name, and the table of questions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.images.load import find_home
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom
from medgraft.errors import DataError


@dataclass(frozen=True)
class ImageQuestion:
    """One question about one image.

    Attributes:
        image: Absolute path of the image.
        key: Name of the image, without suffix, by which a phantom knows its truth.
        subject: Key of the case, the article or the image; no person is known closer.
        question: The question.
        answer: The right answer in words.
        kind: ``closed`` or ``open`` and the question's type, ``"closed:plane"``.
        split: ``train``, ``val`` or ``test``.
        choices: Texts of the options, without letters.
        right: Number of the right option; -1 where there are none.
    """

    image: str
    key: str
    subject: str
    question: str
    answer: str
    kind: str
    split: str
    choices: tuple[str, ...] = ()
    right: int = -1


@dataclass(frozen=True)
class QuestionTable:
    """Questions of one copy.

    Attributes:
        home: Folder of the copy.
        questions: Those whose image is there, in the order of the files.
        report: What was left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, None for a real copy.
    """

    home: Path
    questions: list[ImageQuestion]
    report: ReadReport
    phantom: bool
    generator: str | None


def read_records(path: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a JSON file that is a list of objects.

    Args:
        path: The file.
        required: Fields that some record must have; a record that lacks one is the reader's to count.

    Raises:
        DataError: The file is no list of objects, or no object has a required field.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path} is no list of objects, which it is as published; was it changed?")
    fields = {name for row in content for name in row}
    if missing := [name for name in required if name not in fields]:
        raise DataError(f"no record of {path} has a field {', '.join(missing)}; there are: {', '.join(sorted(fields))}")
    return content


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def text_of(value: Any) -> str:
    """A field as text on one line; empty of what is missing, no text and no number, or the word ``NULL``."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        return ""
    text = " ".join(str(value).split())
    return "" if text.upper() == "NULL" else text


def image_folders(home: Path, names: Sequence[str]) -> list[Path]:
    """Those of the named folders that are in a copy, with what archives put around them; the copy itself last."""
    named = [home / name for name in names]
    nested = [folder / folder.name for folder in named]
    return [folder for folder in (*nested, *named, home) if folder.is_dir()]


class Images:
    """Finds images by the names that a table gives, looking for each once.

    Args:
        folders: Where they may be, the likeliest first.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        self._known: dict[str, str] = {}

    def path(self, name: str) -> str:
        """Absolute path of an image; empty where it is in no folder, or its name leads out of them."""
        if name not in self._known:
            parts = name.replace("\\", "/").split("/")
            inside = bool(name) and not os.path.isabs(name) and ".." not in parts
            paths = (folder / "/".join(parts) for folder in self.folders) if inside else ()
            self._known[name] = next((os.path.abspath(path) for path in paths if path.is_file()), "")
        return self._known[name]

    def check(self) -> None:
        """Refuses a copy without any of its images.

        Raises:
            DataError: Images were asked for, and none is there.
        """
        if self._known and not any(self._known.values()):
            name = next(iter(self._known))
            raise DataError(f"none of the {len(self._known)} images is there; one should be {self.folders[0] / name}")


def question_table(
    cohort: str,
    home: Path,
    questions: list[ImageQuestion],
    images: Images,
    report: ReadReport,
    names: Iterable[str],
) -> QuestionTable:
    """The table of what a reader found, once it has read everything.

    Args:
        cohort: Name of the cohort.
        home: Folder of the copy.
        questions: Those that can be used.
        images: Where their images were looked for.
        report: What was left out; takes the number of those that are used.
        names: Identifiers, by whose form a phantom is known.

    Raises:
        DataError: No image is there, or no question is left.
    """
    images.check()
    if not questions:
        raise DataError(f"{home} has no usable question; left out: {dict(report.skipped)}")
    report.used = len(questions)
    return QuestionTable(home, questions, report, is_phantom(home) or made_up(cohort, names), generator_of(home))


def files_revision(root: Path, names: Iterable[str], what: str) -> str:
    """Digest of the files that say what is in a copy, for cohorts without a table; ``names`` may hold patterns.

    Raises:
        DataError: There is none of them.
    """
    wanted = list(names)
    home, _ = find_home_of(root, wanted, what)
    paths = sorted({path for name in wanted for path in home.glob(name) if path.is_file()})
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(home).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def find_home_of(root: Path, names: Sequence[str], what: str) -> tuple[Path, Path]:
    """The folder in which one of the names, or patterns, is: the root, or one level below it; and the first file.

    Raises:
        DataError: There is none.
    """
    root = Path(root)
    folders = [root, *sorted(child for child in root.iterdir() if child.is_dir())] if root.is_dir() else []
    for folder in folders:
        for name in names:
            if found := next(iter(sorted(folder.glob(name))), None):
                return folder.absolute(), found.absolute()
    return find_home(root, names, what)  # says what is missing
