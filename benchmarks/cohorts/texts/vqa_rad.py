"""Reader of VQA-RAD: questions of clinicians about images of head, chest and abdomen.

Lau et al., "A dataset of clinically generated visual questions and answers about radiology images", Scientific Data
2018. Published are ``VQA_RAD Dataset Public.json`` and the folder ``VQA_RAD Image Folder``. Its ``phrase_type`` names
the test split (``test_freeform``, ``test_para``); most tested images are among the training images, too.

The fields were checked against code that reads the public file; the spelling of question types (``PRES``, ``POS``)
and the blank behind some answer types are as recalled.
"""

from __future__ import annotations

import re
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

TABLES = ("VQA_RAD Dataset Public.json", "VQA_RAD*.json")
FOLDERS = ("VQA_RAD Image Folder", "images", "osfstorage-archive/VQA_RAD Image Folder")
_FIELDS = ("image_name", "question", "answer", "answer_type", "phrase_type")
_SPLITS = {"freeform": "train", "para": "train", "test_freeform": "test", "test_para": "test"}
_TYPES = {
    "pres": "presence",
    "abn": "abnormality",
    "pos": "position",
    "attrib": "attribute",
    "color": "colour",
}


def kind_of(answer_type: str, question_type: str) -> str:
    """``closed:presence``; of several types the first.

    Example:
        >>> kind_of("CLOSED ", "PRES, POS"), kind_of("OPEN", "")
        ('closed:presence', 'open:other')
    """
    first = re.split(r"[,;/&]", question_type.lower())[0].strip()
    return f"{'closed' if answer_type.strip().lower() == 'closed' else 'open'}:{_TYPES.get(first, first) or 'other'}"


def read_vqa_rad(root: Path) -> QuestionTable:
    """Reads a copy.

    Args:
        root: The folder with the JSON file, or the folder that holds it.

    Returns:
        The questions whose image is there; a question without image, question or split is left out and counted. The
        subject is the case that the image is of, else the image.

    Raises:
        DataError: There is no such file, it is something else, or no question can be used.
    """
    home, path = find_home_of(root, TABLES, "VQA-RAD")
    report, questions, seen = ReadReport(), [], set[str]()
    images = Images([*image_folders(home, FOLDERS), *image_folders(home.parent, FOLDERS)])
    for row in read_records(path, _FIELDS):
        name, question = text_of(row.get("image_name")), text_of(row.get("question"))
        split = _SPLITS.get(text_of(row.get("phrase_type")).lower(), "")
        number = text_of(row.get("qid"))
        if not name or not question:
            report.skip("record without image or question", number)
        elif not split:
            report.skip("phrase_type unknown", number)
        elif not images.path(name):
            report.skip("image missing", name)
        elif number and number in seen:
            report.skip("qid twice", number)
        else:
            seen.add(number)
            questions.append(
                ImageQuestion(
                    image=images.path(name),
                    key=Path(name).stem,
                    subject=text_of(row.get("image_case_url")) or name,
                    question=question,
                    answer=text_of(row.get("answer")),
                    kind=kind_of(text_of(row.get("answer_type")), text_of(row.get("question_type"))),
                    split=split,
                )
            )
    names = (question.key for question in questions)
    return question_table("vqa_rad", home, questions, images, report, names)
