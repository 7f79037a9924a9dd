"""Reader of PMC-VQA: questions of four options about figures of open-access articles.

Zhang et al., "PMC-VQA: visual instruction tuning for medical visual question answering", 2023 (arXiv 2305.10415).
Published are ``train.csv``, ``test.csv`` and ``images``; a second version has ``train_2.csv``, ``test_2.csv`` and
``images_2`` or ``figures``. The columns of figure, question, options and answer were checked against code that reads
both versions; that the options begin with their letter (``" A:CT "``), and that ``Answer`` is a letter in the second
version and the option's text in the first, beside ``Answer_label``, is as recalled, so that either is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table
from medgraft.benchmarks.cohorts.texts.records import (
    ImageQuestion,
    Images,
    QuestionTable,
    find_home_of,
    image_folders,
    question_table,
    text_of,
)

TABLES = {"1": ("train.csv", "test.csv"), "2": ("train_2.csv", "test_2.csv")}
"""Version -> its tables of training and test."""

FOLDERS = ("images", "images_2", "figures")
LETTERS = "ABCD"
_COLUMNS = ("Figure_path", "Question", "Answer", *(f"Choice {letter}" for letter in LETTERS))
_ARTICLE = re.compile(r"PMC\d+")


def options_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Texts of the four options without their letters.

    Example:
        >>> options_of({"Choice A": " A:CT ", "Choice B": "B: MRI", "Choice C": "X-ray", "Choice D": "D:D-dimer"})
        ('CT', 'MRI', 'X-ray', 'D-dimer')
    """
    texts = (text_of(row.get(f"Choice {letter}")) for letter in LETTERS)
    return tuple(re.sub(rf"^{letter}\s*[:.)]\s*", "", text) for letter, text in zip(LETTERS, texts, strict=True))


def right_of(row: Mapping[str, Any], options: tuple[str, ...]) -> int:
    """Number of the right option: by the letter, else by the text; -1 where neither tells, or they tell two.

    Example:
        >>> options = ("CT", "MRI", "X-ray", "PET")
        >>> right_of({"Answer": "MRI"}, options), right_of({"Answer": " C "}, options)
        (1, 2)
        >>> right_of({"Answer": "MRI", "Answer_label": "A"}, options)
        -1
    """
    label, answer = text_of(row.get("Answer_label")).upper(), text_of(row.get("Answer"))
    lettered = answer.upper() if len(answer) == 1 and answer.upper() in LETTERS and answer not in options else ""
    plain = re.sub(r"^[A-D]\s*[:.)]\s*", "", answer).lower()
    by_text = {i for i, option in enumerate(options) if option.lower() in (answer.lower(), plain) and option}
    letter = label if label and label in LETTERS else lettered
    if letter:
        right = LETTERS.index(letter)
        return -1 if by_text and right not in by_text else right
    return next(iter(by_text)) if len(by_text) == 1 else -1


def read_pmc_vqa(root: Path, version: str = "1") -> QuestionTable:
    """Reads a copy.

    Args:
        root: The folder with the tables, or the folder that holds it.
        version: ``1`` or ``2``.

    Returns:
        The questions whose figure is there and whose right option is known. The subject is the article.

    Raises:
        DataError: A table is missing or lacks a column, or no question can be used.
    """
    train, test = TABLES[version]
    home, _ = find_home_of(root, (train,), f"PMC-VQA, version {version}")
    report, questions = ReadReport(), []
    images = Images(image_folders(home, FOLDERS if version == "1" else FOLDERS[::-1]))
    for split, name in (("train", train), ("test", test)):
        for row in read_table(home / name, _COLUMNS).astype(object).to_dict("records"):
            figure, question = text_of(row["Figure_path"]), text_of(row["Question"])
            options = options_of(row)
            right = right_of(row, options)
            if not figure or not question:
                report.skip("row without figure or question")
            elif not all(options) or len(set(options)) < len(options):
                report.skip("an option empty, or the same as another")
            elif right < 0:
                report.skip("right option unknown, or named twice", figure)
            elif not images.path(figure):
                report.skip("image missing", figure)
            else:
                article = _ARTICLE.search(figure)
                questions.append(
                    ImageQuestion(
                        image=images.path(figure),
                        key=Path(figure).stem,
                        subject=article[0] if article else figure,
                        question=question,
                        answer=options[right],
                        kind="closed:figure",
                        split=split,
                        choices=options,
                        right=right,
                    )
                )
    names = (question.subject for question in questions)
    return question_table("pmc_vqa", home, questions, images, report, names)
