"""``table`` and ``folder``: cohorts of one's own, and small generated ones in their place."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import Field

from medgraft.benchmarks.cohorts.own.files import files_below
from medgraft.benchmarks.cohorts.own.tables import tables_in
from medgraft.cohort import Cohort, CohortConfig
from medgraft.errors import DataError

CLASSES = ("large", "none", "small")


class OwnPhantomConfig(CohortConfig):
    """Options of the phantom: discs of two sizes, or none, on noise.

    Attributes:
        patients: Patients, two images each.
        size: Side in pixels.
    """

    patients: int = Field(60, ge=12, le=100_000)
    size: int = Field(64, ge=16, le=1024)


class OwnTable(Cohort):
    """A table of one's own."""

    title = "a table of your own (CSV or TSV), with its images beside it"
    Config = OwnPhantomConfig
    small = MappingProxyType({"patients": 24, "size": 32})
    takes_files = True

    def revision(self, root: Path) -> str:
        """Digest of the table, or of all in a folder; what a task reads of them and beside them, it knows itself."""
        whole = hashlib.sha256(b"tables")
        for path in [root] if root.is_file() else tables_in(root):
            try:
                whole.update(path.read_bytes())
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        return whole.hexdigest()

    def write_phantom(self, out: Path, config: Any, jobs: int) -> None:
        """Writes ``cohort.csv`` and ``images/``."""
        rows = []
        for name, patient, label, image, sex in _discs(config):
            _save(image, out / "images" / name)
            rows.append({"image": f"images/{name}", "patient": patient, "label": label, "sex": sex})
        with (out / "cohort.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


class OwnFolder(Cohort):
    """A folder for each class."""

    title = "a folder of your own, with one folder of images for each class"
    Config = OwnPhantomConfig
    small = MappingProxyType({"patients": 24, "size": 32})

    def revision(self, root: Path) -> str:
        """Digest of the names of the files; what is in them a task knows by its own digest."""
        root = Path(root).resolve()
        names = sorted(str(Path(path).relative_to(root)) for path in files_below(root))
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def write_phantom(self, out: Path, config: Any, jobs: int) -> None:
        """Writes a folder of each class."""
        for name, _, label, image, _ in _discs(config):
            _save(image, out / label / name)


def _discs(config: OwnPhantomConfig) -> list[tuple[str, str, str, np.ndarray, str]]:
    """File, patient, class, image ``uint8 [size, size]`` and sex of each sample."""
    samples = []
    for patient in range(config.patients):
        random = np.random.default_rng([config.seed, patient])
        label, sex = CLASSES[patient % len(CLASSES)], "FM"[int(random.integers(2))]
        for visit in range(2):
            image = random.normal(90, 12, (config.size, config.size))
            row, column = random.uniform(0.3, 0.7, 2) * config.size
            radius = {"large": 0.22, "small": 0.09, "none": 0.0}[label] * config.size
            y, x = np.mgrid[: config.size, : config.size]
            image[(y - row) ** 2 + (x - column) ** 2 < radius**2] += 60
            name = f"p{patient:05d}_{visit}.png"
            samples.append((name, f"P{patient:05d}", label, image.clip(0, 255).astype(np.uint8), sex))
    return samples


def _save(image: np.ndarray, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
