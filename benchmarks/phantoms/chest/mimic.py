"""Phantom twin of MIMIC-CXR: the trees of its image and report releases, generated content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.phantoms.chest.cohort import appearing
from medgraft.benchmarks.phantoms.chest.studies import ChestSetting, Study, plan_films, setting_named
from medgraft.benchmarks.phantoms.chest.writing import Job, check_numbers, drawn_masks, mark

PAIRS_FOLDER = "mimic-cxr"
"""Where a cohort that is only evaluated on keeps the image-report pairs that an adapter trains on."""

_FIRST_SUBJECT, _FIRST_STUDY = 99_000_001, 99_000_001  # the real numbers have eight digits too and end below 20,000,000


def write_mimic(
    out: Path,
    *,
    n_images: int,
    seed: int,
    setting: str | ChestSetting = "default",
    size: int = 256,
    test_share: float = 0.2,
    jobs: int = 1,
) -> None:
    """Writes a phantom of MIMIC-CXR-JPG with its reports: three compressed tables, JPEG files and texts.

    Args:
        out: Folder to create; it may exist if it is empty.
        n_images: Images; persons have several.
        seed: Seed of the cohort, not negative.
        setting: Name of a setting, or a setting.
        size: Side of the images in pixels.
        test_share: Share of the persons in the test split, and half as many in the validation split.
        jobs: Processes; any number gives the same bytes.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` is a file or a folder with something in it.
    """
    check_numbers(n_images, seed, size, test_share)
    site = setting_named(setting)
    with appearing(out) as folder:
        _mimic_tree(folder, n_images, seed, site, size, test_share, jobs)
        mark(folder, site, seed, images=n_images, test_share=test_share, size=size)


def with_pairs(folder: Path, n_pairs: int, seed: int, site: ChestSetting, size: int, jobs: int) -> None:
    """Writes pairs for training into a cohort that has none of its own; none of 0."""
    if n_pairs:
        pairs = folder / PAIRS_FOLDER
        pairs.mkdir()
        _mimic_tree(pairs, n_pairs, seed, site, size, 0.1, jobs)


def planned(config: Mapping[str, Any], seed: int, site: ChestSetting) -> dict[str, Study]:
    """Name of the study (``s99000001``) -> what was drawn, of what a marker says; nothing is rendered."""
    films = plan_films(int(config["images"]), seed, "mimic", site)
    numbers = _numbers(films)
    return {f"s{numbers[study.patient, study.number]}": study for study, _ in films}


def _numbers(films: Sequence[tuple[Study, int]]) -> dict[tuple[int, int], int]:
    """(Patient, study of the patient) -> number of the study in the cohort."""
    keys = dict.fromkeys((study.patient, study.number) for study, _ in films)
    return {key: _FIRST_STUDY + i for i, key in enumerate(keys)}


def _mimic_tree(
    folder: Path, n_images: int, seed: int, site: ChestSetting, size: int, test_share: float, jobs: int
) -> None:
    films = plan_films(n_images, seed, "mimic", site)
    persons = list(dict.fromkeys(study.patient for study, _ in films))
    n_test = max(1, round(len(persons) * test_share))
    n_validate = max(1, n_test // 2)
    split_of = dict.fromkeys(persons, "train")
    split_of |= dict.fromkeys(persons[-n_test - n_validate : -n_test], "validate")
    split_of |= dict.fromkeys(persons[-n_test:], "test")
    numbers = _numbers(films)
    plan, split, metadata, labels = [], [], [], {}
    for study, film in films:
        subject = _FIRST_SUBJECT + study.patient
        number = numbers[study.patient, study.number]
        digest = hashlib.sha256(f"phantom {seed} {number} {film}".encode()).hexdigest()
        name = "-".join(digest[i : i + 8] for i in range(0, 40, 8))
        home = folder / "files" / f"p{str(subject)[:2]}" / f"p{subject}"
        plan.append(Job(study, film, name, home / f"s{number}" / f"{name}.jpg"))
        split.append((name, number, subject, split_of[study.patient]))
        metadata.append((name, subject, number, f"CHEST ({study.view})", study.view, size, size))
        labels[number] = (subject, number, *(study.reported[label] for label in CHEXPERT_14))
        home.mkdir(parents=True, exist_ok=True)
        (home / f"s{number}.txt").write_text(_report(study), encoding="utf-8")
    drawn_masks(plan, size, jobs)
    described = ["PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns"]
    kinds = {
        "split": (split, ["dicom_id", "study_id", "subject_id", "split"]),
        "metadata": (metadata, ["dicom_id", "subject_id", "study_id", *described]),
        "chexpert": (list(labels.values()), ["subject_id", "study_id", *CHEXPERT_14]),
    }
    for kind, (rows, columns) in kinds.items():
        path = folder / f"mimic-cxr-2.0.0-{kind}.csv.gz"
        # A fixed time in the archive's header, so that equal cohorts are equal files.
        pd.DataFrame(rows, columns=columns).to_csv(path, index=False, compression={"method": "gzip", "mtime": 1})


def _report(study: Study) -> str:
    """A report in the form of the real ones; findings first, and the last sentence as the impression."""
    sentences = [f"{part.strip()}." for part in study.report.split(".") if part.strip()]
    findings, impression = " ".join(sentences[:-1]), sentences[-1] if sentences else ""
    body = f" FINDINGS:\n \n {findings}\n \n" if findings else ""
    return (
        "                                 FINAL REPORT\n"
        f" EXAMINATION:  CHEST ({study.view})\n \n"
        f" INDICATION:  ___ year old {'woman' if study.sex else 'man'}, phantom.\n \n"
        f" COMPARISON:  None.\n \n{body} IMPRESSION:\n \n {impression}\n"
    )
