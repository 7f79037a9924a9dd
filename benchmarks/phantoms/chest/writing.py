"""What the writers of phantom chest cohorts share: who is drawn, and images written by several processes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.phantoms.chest.dicom import write_dicom
from medgraft.benchmarks.phantoms.chest.renderer import render
from medgraft.benchmarks.phantoms.chest.studies import (
    GENERATOR_VERSION,
    ChestSetting,
    Study,
    map_chunks,
    sample_study,
)
from medgraft.errors import ConfigError


@dataclass(frozen=True)
class Job:
    """One image to be drawn and written.

    Attributes:
        study: Whose film it is.
        film: Number of the film, from 0.
        name: Name of the image; what a DICOM file calls itself and its patient.
        path: New file; its suffix says what kind.
        region: Finding whose mask is wanted, or empty.
        uids: Study and series of a DICOM file; derived from the name where empty.
    """

    study: Study
    film: int
    name: str
    path: Path
    region: str = ""
    uids: tuple[str, str] = ("", "")


def _write_images(jobs: Sequence[Job], size: int) -> list[np.ndarray | None]:
    """Draws and writes images; returns the mask ``[size, size]`` of each job's region, as packed bits."""
    masks: list[np.ndarray | None] = []
    for job in jobs:
        drawn = render(job.study.films[job.film], size, masks=bool(job.region))
        job.path.parent.mkdir(parents=True, exist_ok=True)
        if job.path.suffix == ".dcm":
            sex = "F" if job.study.sex else "M"
            study, series = job.uids
            person = {"sex": sex, "age": job.study.age, "view": job.study.view}
            write_dicom(job.path, drawn.image, name=job.name, study=study, series=series, **person)
        elif job.path.suffix == ".jpg":
            Image.fromarray(drawn.image).save(job.path, "JPEG", quality=90, comment=b"phantom; not a person")
        else:
            Image.fromarray(drawn.image).save(job.path)
        mask = drawn.masks.get(job.region) if job.region else None
        masks.append(None if mask is None else np.packbits(mask))
    return masks


def drawn_masks(jobs: Sequence[Job], size: int, processes: int) -> list[np.ndarray]:
    """Writes all images; returns the boolean mask ``[size, size]`` of each job's region."""
    parts = map_chunks(functools.partial(_write_images, size=size), jobs, processes)
    packed = [mask for part in parts for mask in part]
    empty = np.zeros((size, size), bool)
    return [
        empty if bits is None else np.unpackbits(bits, count=size * size).reshape(size, size).astype(bool)
        for bits in packed
    ]


def first_studies(
    n: int, share: float, seed: int, stream: str, site: ChestSetting, positive: Callable[[Study], bool]
) -> list[Study]:
    """Draws persons until ``round(n * share)`` studies are positive and the others negative, in the order drawn."""
    quota = {True: round(n * share)}
    quota[False] = n - quota[True]
    chosen: list[Study] = []
    index = 0
    while len(chosen) < n:
        study = sample_study(seed, stream, index, site)
        index += 1
        if quota[positive(study)] > 0:
            quota[positive(study)] -= 1
            chosen.append(study)
    return chosen


def check_numbers(n_images: int, seed: int, size: int, share: float = 0.5, n_pairs: int = 0) -> None:
    """Refuses numbers that no cohort can have.

    Raises:
        ConfigError: One of them is out of range.
    """
    if n_images < 1 or seed < 0 or size < 64 or not 0 < share < 1 or n_pairs < 0:
        raise ConfigError(
            f"n_images {n_images} must be at least 1, seed {seed} and n_pairs {n_pairs} not negative, size {size} at "
            f"least 64 and the share of positive or test samples {share} between 0 and 1"
        )


def mark(folder: Path, site: ChestSetting, seed: int, **config: object) -> None:
    """Writes the marker that makes a folder a phantom, with what defines it."""
    marker = {
        "generator": GENERATOR_VERSION,
        "setting": site.name,
        "seed": seed,
        "config": {**config, "site": site.__dict__},
        "statement": "generated; no person",
    }
    (folder / PHANTOM_MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
