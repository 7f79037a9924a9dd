"""Reader of SLAKE: questions in English and Chinese about CT, MRI and X-ray images.

Liu et al., "SLAKE: a semantically-labeled knowledge-enhanced dataset for medical visual question answering", ISBI 2021
(arXiv 2102.09542). Published are ``train.json``, ``validate.json`` (``validation.json`` on the Hugging Face hub),
``test.json`` and ``imgs/xmlab1/source.jpg``. The fields were checked against the record that its readers show; the
names of files are as recalled.
"""

from __future__ import annotations

from pathlib import Path

from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.cohorts.texts.records import (
    ImageQuestion,
    Images,
    QuestionTable,
    find_home_of,
    image_folders,
    question_table,
    read_records,
    text_of,
)
from medgraft.errors import DataError

TABLES = {
    "train": ("train.json",),
    "val": ("validate.json", "validation.json", "val.json"),
    "test": ("test.json",),
}
FOLDERS = ("imgs",)
_FIELDS = ("img_name", "question", "answer")


def read_slake(root: Path, *, english: bool = True) -> QuestionTable:
    """Reads a copy.

    Args:
        root: The folder with the JSON files, or the folder that holds it.
        english: Leave out questions whose ``q_lang`` is not ``en``, and count them.

    Returns:
        The questions whose image is there. The subject is the image, since nothing tells which are of one person.

    Raises:
        DataError: A file is missing (but that of validation) or something else, or no question can be used.
    """
    home, _ = find_home_of(root, TABLES["train"], "SLAKE")
    report, questions, seen = ReadReport(), [], set[tuple[str, str]]()
    images = Images(image_folders(home, FOLDERS))
    for split, names in TABLES.items():
        path = next((home / name for name in names if (home / name).is_file()), None)
        if path is None:
            if split == "val":
                continue
            raise DataError(f"{home} has no {names[0]}, which SLAKE has; put it beside the others")
        for row in read_records(path, _FIELDS):
            name, question, number = (text_of(row.get(field)) for field in ("img_name", "question", "qid"))
            language = text_of(row.get("q_lang")).lower()
            if not name or not question:
                report.skip("record without image or question", number)
            elif english and language not in ("en", ""):
                report.skip(f"question not English ({language})", number)
            elif not images.path(name):
                report.skip("image missing", name)
            elif number and (number, question) in seen:
                report.skip("qid twice", number)
            else:
                seen.add((number, question))
                closed = text_of(row.get("answer_type")).lower() == "closed"
                kind = text_of(row.get("content_type")).lower() or "other"
                questions.append(
                    ImageQuestion(
                        image=images.path(name),
                        key=name.split("/")[0],
                        subject=name,
                        question=question,
                        answer=text_of(row.get("answer")),
                        kind=f"{'closed' if closed else 'open'}:{kind}",
                        split=split,
                    )
                )
    names = (question.key for question in questions)
    return question_table("slake", home, questions, images, report, names)
