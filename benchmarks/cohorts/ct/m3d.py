"""Reads M3D-Cap and M3D-VQA.

Bai et al., "M3D", 2024 (arXiv 2404.00578). Names and columns are those of its repository's loaders::

    M3D_Cap_npy/M3D_Cap.json             {"train": [{"image": path, "text": path}], "validation": [...], "test": [...]}
    M3D_Cap_npy/ct_case/006708/Axial_bone_window.npy, text.txt
    M3D-VQA/M3D_VQA_{train,val,test}.csv  Image Path, Text, Question Type, Question, Choice A..D, Answer, Answer Choice

Paths are relative to the folder above. No person is named; the folder of a case stands for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table
from medgraft.errors import DataError
from medgraft.files.documents import read_json, read_text

TYPES = {"1": "plane", "2": "phase", "3": "organ", "4": "abnormality", "5": "location"}
"""Question types of M3D-VQA in words."""
CHOICES = ("Choice A", "Choice B", "Choice C", "Choice D")
TRUTH_FILE = "phantom_truth.csv"


@dataclass(frozen=True)
class Stack:
    """One array.

    Attributes:
        path: Absolute path.
        case: Key of the case.
        split: ``train``, ``val`` or ``test``.
        text: What is said of it; empty for questions.
        truth: Statements of a phantom as JSON, or empty.
    """

    path: str
    case: str
    split: str
    text: str = ""
    truth: str = ""


@dataclass(frozen=True)
class StackQuestion:
    """One question on one array.

    Attributes:
        stack: The array.
        type: Question type in words.
        question: The question.
        choices: The four options.
        right: Number of the right one.
        answer: The right answer in words.
    """

    stack: Stack
    type: str
    question: str
    choices: tuple[str, ...]
    right: int
    answer: str


@dataclass(frozen=True)
class M3dCopy:
    """A copy of the data.

    Attributes:
        root: Folder with ``M3D_Cap_npy`` and ``M3D-VQA``.
        report: What was left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, ``None`` for a real copy.
    """

    root: Path
    report: ReadReport
    phantom: bool
    generator: str | None


def open_m3d(root: Path) -> M3dCopy:
    """The copy at a folder.

    Raises:
        DataError: It has neither of the two folders.
    """
    if not (root / "M3D_Cap_npy").is_dir():
        raise DataError(f"{root} is no copy of M3D: it has no folder M3D_Cap_npy; name the folder above it")
    return M3dCopy(root, ReadReport(), is_phantom(root), generator_of(root))


def read_cap(copy: M3dCopy, test: str = "test") -> list[Stack]:
    """The arrays with their texts; those whose array or text is not there are left out and counted.

    Args:
        copy: The copy.
        test: Key of the test split in ``M3D_Cap.json``.

    Raises:
        DataError: The list is missing or of another form, or no array is there.
    """
    path = copy.root / "M3D_Cap_npy" / "M3D_Cap.json"
    if not path.is_file():
        raise DataError(f"{path} does not exist; the reader needs this list")
    listed: Any = read_json(path, DataError)
    truths, found = _truths(copy), []
    for split in ("train", "validation", test):
        entries = listed.get(split) if isinstance(listed, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path} has no list {split!r}; it must hold train, validation and {test}")
        for entry in entries:
            if (
                not isinstance(entry, dict)
                or not isinstance(entry.get("image"), str)
                or not isinstance(entry.get("text"), str)
            ):
                raise DataError(f"{path} has an entry without the paths 'image' and 'text'")
            image, text = _inside(copy.root, entry["image"]), _inside(copy.root, entry["text"])
            if image is None:
                copy.report.skip("volume missing", entry["image"])
            else:
                said = read_text(text, DataError) if text is not None else ""
                name = {"train": "train", "validation": "val"}.get(split, "test")
                found.append(Stack(str(image), _case(entry["image"]), name, said, truths.get(entry["image"], "")))
    if not found:
        raise DataError(f"none of the arrays that {path} lists is there; download M3D-Cap's arrays beside it")
    return found


def read_vqa(copy: M3dCopy, rows: dict[str, int | None]) -> list[StackQuestion]:
    """The questions; those whose array is not there, or that have no right choice, are left out and counted.

    Args:
        copy: The copy.
        rows: Split (``train``, ``val``, ``test``) -> how many rows of its table are read, ``None`` for all.

    Raises:
        DataError: A table is missing, or no question is left.
    """
    truths, asked, folder = _truths(copy), [], copy.root / "M3D-VQA"
    needed = ("Image Path", "Question Type", "Question", *CHOICES, "Answer", "Answer Choice")
    there: dict[str, Path | None] = {}
    for split, most in rows.items():
        for record in read_table(folder / f"M3D_VQA_{split}.csv", needed, rows=most).to_dict("records"):
            image = str(record["Image Path"])
            if image not in there:
                there[image] = _inside(copy.root, image)
            path, letter = there[image], str(record["Answer Choice"]).strip().rstrip(".").upper()
            kind = TYPES.get(str(record["Question Type"]).split(".")[0].strip(), "other")
            choices = tuple(
                "NA" if each is None or each != each else str(each).strip() for each in map(record.get, CHOICES)
            )
            answer = (
                ""
                if record["Answer"] is None or record["Answer"] != record["Answer"]
                else str(record["Answer"]).strip()
            )
            if path is None:
                copy.report.skip("volume missing", image)
            elif letter not in ("A", "B", "C", "D") or not answer:
                copy.report.skip("question without an answer")
            else:
                stack = Stack(str(path), _case(image), split, truth=truths.get(image, ""))
                question = str(record["Question"]).strip()
                asked.append(StackQuestion(stack, kind, question, choices, "ABCD".index(letter), answer))
    if not asked:
        raise DataError(f"no question of {folder} is about an array that is there")
    return asked


def _inside(root: Path, path: str) -> Path | None:
    """The file of a relative path, from the folder above ``M3D_Cap_npy`` or from it; ``None`` where it is not there.

    Raises:
        DataError: The path leads out of the folder.
    """
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts:
        raise DataError(f"{path!r} leads out of {root}; paths of M3D are relative to it")
    for base in (root, root / "M3D_Cap_npy"):
        if (file := base / inside).is_file():
            return file
    return None


def _case(image: str) -> str:
    parts = PurePosixPath(image).parts
    return "/".join(parts[-3:-1]) if len(parts) > 2 else "/".join(parts[:-1]) or image


def _truths(copy: M3dCopy) -> dict[str, str]:
    path = copy.root / TRUTH_FILE
    if not copy.phantom or not path.is_file():
        return {}
    table = read_table(path, ("Image Path", "Statements"))
    return dict(zip(table["Image Path"].astype(str), table["Statements"].astype(str), strict=True))
