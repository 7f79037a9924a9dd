"""Phantom twins of VQA-RAD, SLAKE and PMC-VQA: their files and fields, questions about phantom films.

Only chest films are in them, and only questions that the drawn scene answers: what is there, on which side, how large,
in which zone, which projection, and what kind of picture it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.chest.questions import FilmQuestion, questions_of
from medgraft.benchmarks.phantoms.chest.cohort import appearing
from medgraft.benchmarks.phantoms.chest.studies import ChestSetting, Study, setting_named
from medgraft.benchmarks.phantoms.chest.texts.plan import films_of, numbers_of, parted
from medgraft.benchmarks.phantoms.chest.texts.truth import film_statements
from medgraft.benchmarks.phantoms.chest.writing import Job, check_numbers, drawn_masks, mark

LETTERS = "ABCD"
_MODALITIES = ("X-ray", "CT", "MRI", "Ultrasound")
_ORGANS = ("Lung", "Liver", "Brain", "Kidney")
_RAD_TYPES = {"presence": "PRES", "side": "POS", "place": "POS", "size": "SIZE", "plane": "PLANE", "abnormality": "ABN"}
_SLAKE_TYPES = {
    "presence": "Abnormality",
    "abnormality": "Abnormality",
    "side": "Position",
    "place": "Position",
    "size": "Size",
    "plane": "Plane",
}
_CHINESE = {"Modality": ("这张图片是用什么方式拍摄的？", "X光"), "Organ": ("图中的主要器官是什么？", "肺")}


def write_vqa_rad(out: Path, **options: Any) -> None:
    """Writes a phantom of VQA-RAD: ``VQA_RAD Dataset Public.json`` and ``VQA_RAD Image Folder``.

    Args:
        out: Folder to create; it may exist if it is empty.
        **options: Of :func:`_written`.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` is a file or a folder with something in it.
    """
    _written(out, "vqa_rad", lambda name: f"VQA_RAD Image Folder/{name}.jpg", _vqa_rad, **options)


def write_slake(out: Path, **options: Any) -> None:
    """Writes a phantom of SLAKE: three JSON files in English and Chinese, and ``imgs/xmlab.../source.jpg``.

    Arguments and errors are those of :func:`write_vqa_rad`.
    """
    _written(out, "slake", lambda name: f"imgs/{name}/source.jpg", _slake, **options)


def write_pmc_vqa(out: Path, **options: Any) -> None:
    """Writes a phantom of PMC-VQA: ``train.csv``, ``test.csv`` and ``images``; each question has four options.

    Arguments and errors are those of :func:`write_vqa_rad`.
    """
    _written(out, "pmc_vqa", lambda name: f"images/{name}.jpg", _pmc_vqa, **options)


def _written(
    out: Path,
    layout: str,
    place: Callable[[str], str],
    tables: Callable[[Path, dict[str, Study], int, int, float], None],
    *,
    n_images: int,
    seed: int,
    setting: str | ChestSetting = "default",
    size: int = 256,
    per_image: int = 6,
    test_share: float = 0.2,
    jobs: int = 1,
) -> None:
    """Writes films and tables.

    Args:
        out: Folder to create.
        layout: Name of the cohort.
        place: Name of a film -> its file below the folder.
        tables: Writes the questions.
        n_images: Films, each of a person of its own.
        seed: Seed of the cohort, not negative.
        setting: Name of a setting, or a setting.
        size: Side of the images in pixels.
        per_image: Questions about each film at most.
        test_share: Share of the films in the test split.
        jobs: Processes; any number gives the same bytes.
    """
    check_numbers(n_images, seed, size, test_share)
    site = setting_named(setting)
    films = films_of(layout, n_images, seed, site)
    with appearing(out) as folder:
        drawn_masks([Job(study, 0, name, folder / place(name)) for name, study in films.items()], size, jobs)
        tables(folder, films, seed, per_image, test_share)
        mark(folder, site, seed, layout=layout, images=n_images, size=size, per_image=per_image, test_share=test_share)


def _drawn(name: str, study: Study, seed: int, count: int) -> Iterator[tuple[FilmQuestion, int]]:
    """Questions about one film, as many of "yes" as of "no" where the film has both, with a number for the wording."""
    asked = list(questions_of(film_statements(study), study.view))
    numbers = numbers_of(name, seed, len(asked))
    order = [asked[i] for i in np.argsort(numbers, kind="stable")]
    present = [q for q in order if q.type == "presence" and q.answer == "Yes"]
    absent = [q for q in order if q.type == "presence" and q.answer == "No"][: max(1, len(present))]
    others = [q for q in order if q.type != "presence"]
    merged = sorted([*present, *absent, *others], key=order.index)[:count]
    yield from zip(merged, numbers, strict=False)


def _vqa_rad(folder: Path, films: dict[str, Study], seed: int, per_image: int, test_share: float) -> None:
    rows: list[dict[str, Any]] = []
    for name, split in parted(list(films), test_share).items():
        for question, number in _drawn(name, films[name], seed, per_image):
            phrase = ("freeform", "para")[number % 2]
            closed = question.type in ("presence", "plane")
            rows.append(
                {
                    "qid": len(rows),
                    "phrase_type": f"test_{phrase}" if split == "test" else phrase,
                    "qid_linked_id": f"phantom-{len(rows)}",
                    "image_case_url": f"phantom/{name}",
                    "image_name": f"{name}.jpg",
                    "image_organ": "CHEST",
                    "evaluation": "not evaluated",
                    "question": question.words(number),
                    "question_rephrase": "NULL",
                    "question_relation": "NULL",
                    "question_frame": "NULL",
                    "question_type": _RAD_TYPES[question.type],
                    "answer": question.answer,
                    "answer_type": "CLOSED" if closed else "OPEN",
                }
            )
    text = json.dumps(rows, indent=0)
    (folder / "VQA_RAD Dataset Public.json").write_text(text, encoding="utf-8")


def _slake(folder: Path, films: dict[str, Study], seed: int, per_image: int, test_share: float) -> None:
    files: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    qid = 0
    for name, split in parted(list(films), test_share, test_share / 2).items():
        asked = [
            (q.words(n), q.answer, _SLAKE_TYPES[q.type], "en") for q, n in _drawn(name, films[name], seed, per_image)
        ]
        asked += [("What modality is used to take this image?", "X-Ray", "Modality", "en")]
        asked += [("What is the main organ in the image?", "Lung", "Organ", "en")]
        asked += [(*words, kind, "zh") for kind, words in _CHINESE.items()]
        for question, answer, kind, language in asked:
            files[split].append(
                {
                    "img_id": int(name.removeprefix("xmlab")),
                    "img_name": f"{name}/source.jpg",
                    "question": question,
                    "answer": answer,
                    "q_lang": language,
                    "location": "Lung",
                    "modality": "X-Ray",
                    "answer_type": "CLOSED" if answer in ("Yes", "No") else "OPEN",
                    "base_type": "vqa",
                    "content_type": kind,
                    "triple": ["vhead", "_", "_"],
                    "qid": qid,
                }
            )
            qid += 1
    for split, file in (("train", "train.json"), ("val", "validate.json"), ("test", "test.json")):
        (folder / file).write_text(json.dumps(files[split], ensure_ascii=False), encoding="utf-8")


def _pmc_vqa(folder: Path, films: dict[str, Study], seed: int, per_image: int, test_share: float) -> None:
    tables: dict[str, list[tuple[str, ...]]] = {"train": [], "test": []}
    for name, split in parted(list(films), test_share).items():
        asked = [(q.words(n), q.answer, q.options, n) for q, n in _drawn(name, films[name], seed, per_image)]
        asked += [("What imaging modality is shown?", "X-ray", _MODALITIES, len(asked))]
        for question, answer, options, number in asked:
            if not options:
                continue
            # Four options as published: what is missing is filled from other questions, and their order is drawn.
            others = [each for each in (*options, *_ORGANS, *_MODALITIES) if each != answer]
            four = [*dict.fromkeys(others)][:3]
            right = number % 4
            four.insert(right, answer)
            choices = [f" {letter}:{text} " for letter, text in zip(LETTERS, four, strict=True)]
            tables[split].append((f"{name}.jpg", question, answer, *choices, LETTERS[right]))
    columns = ["Figure_path", "Question", "Answer", *(f"Choice {letter}" for letter in LETTERS), "Answer_label"]
    for split, rows in tables.items():
        pd.DataFrame(rows, columns=columns).to_csv(folder / f"{split}.csv", index=False)
