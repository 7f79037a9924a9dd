"""Phantom twins of RSNA, SIIM-ACR and NIH ChestX-ray14: the real trees and tables, generated content.

They use the generator of :mod:`medgraft.benchmarks.phantoms.chest.cohort`, each from a random stream of its own, so
that no phantom person is in two of them. Numbers of persons and images are ones that the real cohorts do not have.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from medgraft.benchmarks.cohorts.chest.nih import NIH_14, NO_FINDING
from medgraft.benchmarks.cohorts.chest.rsna import CLASSES, IMAGES, LABELS
from medgraft.benchmarks.cohorts.chest.siim import IMAGES as SIIM_IMAGES
from medgraft.benchmarks.cohorts.chest.siim import NO_MASK, rle_encode
from medgraft.benchmarks.phantoms.chest.cohort import appearing
from medgraft.benchmarks.phantoms.chest.mimic import with_pairs
from medgraft.benchmarks.phantoms.chest.studies import ChestSetting, Study, plan_films, setting_named
from medgraft.benchmarks.phantoms.chest.writing import Job, check_numbers, drawn_masks, first_studies, mark

MIN_REGION = 0.0015
"""Share of the image below which a region is too small for anyone to have drawn it."""

_NIH_NAMES = {"Pleural Effusion": "Effusion", "Lung Lesion": "Nodule"}
_NIH_FIRST = 90_001  # the real patients end at 30,805


def boxes_of(mask: np.ndarray) -> np.ndarray:
    """Boxes around the parts of a mask, largest first, ``float64 [k, 4]`` as left, top, width and height."""
    parts, _ = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    boxes = []
    for number, places in enumerate(ndimage.find_objects(parts), start=1):
        area = int((parts[places] == number).sum())
        if area >= MIN_REGION * mask.size:
            rows, columns = places
            boxes.append((area, columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start))
    return np.array([box[1:] for box in sorted(boxes, reverse=True)], float).reshape(-1, 4)


def write_rsna(
    out: Path,
    *,
    n_images: int,
    seed: int,
    setting: str | ChestSetting = "default",
    size: int = 256,
    positive_share: float = 0.25,
    n_pairs: int = 0,
    jobs: int = 1,
) -> None:
    """Writes a phantom of the RSNA challenge: both tables and DICOM files, a box around each consolidation.

    Args:
        out: Folder to create; it may exist if it is empty.
        n_images: Images, each of a person of its own.
        seed: Seed of the cohort, not negative.
        setting: Name of a setting, or a setting.
        size: Side of the images in pixels; 1024 in the challenge.
        positive_share: Share of images drawn with a consolidation; a box too faint or small to draw makes it negative.
        n_pairs: Image-report pairs in the layout of MIMIC-CXR beside it, for adapters that train on pairs.
        jobs: Processes; any number gives the same bytes.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` is a file or a folder with something in it.
    """
    check_numbers(n_images, seed, size, positive_share, n_pairs)
    site = setting_named(setting)
    studies = first_studies(
        n_images, positive_share, seed, "rsna", site, lambda study: study.truth["Consolidation"] == 1
    )
    with appearing(out) as folder:
        names = [f"ffffffff-0000-4000-8000-{seed % 2**16:04x}{row:08x}" for row in range(n_images)]
        plan = [
            Job(study, 0, name, folder / IMAGES / f"{name}.dcm", "Consolidation")
            for study, name in zip(studies, names, strict=True)
        ]
        labels, classes = [], []
        for job, mask in zip(plan, drawn_masks(plan, size, jobs), strict=True):
            shown = job.study.truth["Consolidation"] == 1
            boxes = boxes_of(mask) if shown else np.zeros((0, 4))
            kind = "Lung Opacity" if len(boxes) else "No Lung Opacity / Not Normal"
            if not len(boxes) and job.study.truth["No Finding"] == 1:
                kind = "Normal"
            labels += [(job.name, *box, 1) for box in boxes.tolist()] or [(job.name, *[np.nan] * 4, 0)]
            classes += [(job.name, kind)] * max(1, len(boxes))
        columns = ["patientId", "x", "y", "width", "height", "Target"]
        pd.DataFrame(labels, columns=columns).to_csv(folder / LABELS, index=False)
        pd.DataFrame(classes, columns=["patientId", "class"]).to_csv(folder / CLASSES, index=False)
        with_pairs(folder, n_pairs, seed, site, size, jobs)
        mark(folder, site, seed, images=n_images, positive_share=positive_share, pairs=n_pairs, size=size)


def write_siim(
    out: Path,
    *,
    n_images: int,
    seed: int,
    setting: str | ChestSetting = "default",
    size: int = 256,
    positive_share: float = 0.25,
    n_pairs: int = 0,
    jobs: int = 1,
) -> None:
    """Writes a phantom of the SIIM-ACR challenge: ``train-rle.csv`` and the tree of DICOM files.

    The mask is the air in the pleural space. Every third mask is written as two rows, as the challenge has it where
    two regions were drawn.

    Args:
        out: See :func:`write_rsna`.
        n_images: See :func:`write_rsna`.
        seed: See :func:`write_rsna`.
        setting: See :func:`write_rsna`.
        size: See :func:`write_rsna`.
        positive_share: Share of images drawn with a pneumothorax.
        n_pairs: See :func:`write_rsna`.
        jobs: See :func:`write_rsna`.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` is a file or a folder with something in it.
    """
    check_numbers(n_images, seed, size, positive_share, n_pairs)
    site = setting_named(setting)
    studies = first_studies(
        n_images, positive_share, seed, "siim", site, lambda study: study.truth["Pneumothorax"] == 1
    )
    with appearing(out) as folder:
        plan = []
        for row, study in enumerate(studies):
            study_uid, series_uid, name = (f"2.25.999.{seed}.{kind}.{row}" for kind in (1, 2, 3))
            path = folder / SIIM_IMAGES / study_uid / series_uid / f"{name}.dcm"
            plan.append(Job(study, 0, name, path, "Pneumothorax", (study_uid, series_uid)))
        rows, positives = [], 0
        for job, mask in zip(plan, drawn_masks(plan, size, jobs), strict=True):
            if job.study.truth["Pneumothorax"] != 1 or mask.mean() < MIN_REGION:
                rows.append((job.name, f" {NO_MASK}"))
                continue
            positives += 1
            rows += [(job.name, f" {text}") for text in _as_regions(mask, split=positives % 3 == 0)]
        table = pd.DataFrame(rows, columns=["ImageId", " EncodedPixels"])  # the blank is the challenge's
        table.to_csv(folder / "train-rle.csv", index=False)
        with_pairs(folder, n_pairs, seed, site, size, jobs)
        mark(folder, site, seed, images=n_images, positive_share=positive_share, pairs=n_pairs, size=size)


def _as_regions(mask: np.ndarray, split: bool) -> list[str]:
    """A mask as one encoded region, or as its upper and lower half."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not split or len(rows) < 2:
        return [rle_encode(mask)]
    middle = int(rows[len(rows) // 2])
    upper, lower = mask.copy(), mask.copy()
    upper[middle:], lower[:middle] = False, False
    return [rle_encode(upper), rle_encode(lower)]


def write_nih(
    out: Path,
    *,
    n_images: int,
    seed: int,
    setting: str | ChestSetting = "default",
    size: int = 256,
    test_share: float = 0.25,
    n_pairs: int = 0,
    jobs: int = 1,
) -> None:
    """Writes a phantom of NIH ChestX-ray14: the table, the lists of the official split and PNG files in two folders.

    Labels are those of the simulated reports, in training and test alike, as NIH's were mined from reports. The
    phantom has no infiltration, mass, emphysema, fibrosis, pleural thickening or hernia.

    Args:
        out: See :func:`write_rsna`.
        n_images: Images; persons have several.
        seed: See :func:`write_rsna`.
        setting: See :func:`write_rsna`.
        size: See :func:`write_rsna`.
        test_share: Share of the persons on the test list.
        n_pairs: See :func:`write_rsna`.
        jobs: See :func:`write_rsna`.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` is a file or a folder with something in it.
    """
    check_numbers(n_images, seed, size, test_share, n_pairs)
    site = setting_named(setting)
    films = plan_films(n_images, seed, "nih", site)
    persons = list(dict.fromkeys(study.patient for study, _ in films))
    tested = set(persons[len(persons) - max(1, round(len(persons) * test_share)) :])
    with appearing(out) as folder:
        plan, rows, seen = [], [], dict.fromkeys(persons, 0)
        for row, (study, film) in enumerate(films):
            patient = _NIH_FIRST + study.patient
            name = f"{patient:08d}_{seen[study.patient]:03d}.png"
            seen[study.patient] += 1
            part = f"images_{1 + 2 * row // n_images:03d}"
            plan.append(Job(study, film, name, folder / part / "images" / name))
            sex = "F" if study.sex else "M"
            person = (seen[study.patient] - 1, patient, study.age, sex, study.view)
            rows.append((name, _nih_findings(study), *person, size, size, 0.143, 0.143))
        drawn_masks(plan, size, jobs)
        columns = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"]
        columns += ["View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"]
        pd.DataFrame(rows, columns=columns).to_csv(folder / "Data_Entry_2017.csv", index=False)
        for name, in_test in (("train_val_list.txt", False), ("test_list.txt", True)):
            listed = [job.name for job in plan if (job.study.patient in tested) is in_test]
            (folder / name).write_text("\n".join(listed) + "\n", encoding="utf-8")
        with_pairs(folder, n_pairs, seed, site, size, jobs)
        mark(folder, site, seed, images=n_images, test_share=test_share, pairs=n_pairs, size=size)


def _nih_findings(study: Study) -> str:
    present = {_NIH_NAMES.get(name, name) for name, label in study.reported.items() if label == 1}
    return "|".join(name for name in NIH_14 if name in present) or NO_FINDING
