"""The example cohort of a new task: forty tiny images of discs and squares, in the layout that its template reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
SUBJECTS, IMAGES = 20, 2
LABELS = ("disc", "square")
MARKER = {"generator": "medgraft new task", "version": 1}


def write_example(root: Path) -> None:
    """Writes ``labels.csv``, ``images/*.png`` and the marker of a generated cohort; the same bytes every time.

    Args:
        root: New folder.
    """
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows: list[tuple[str, str, str]] = []
    for subject in range(SUBJECTS):
        label = LABELS[subject % len(LABELS)]
        for image in range(IMAGES):
            file = f"images/{subject:02d}-{image}.png"
            Image.fromarray(_drawing(label, generator)).save(root / file)
            rows.append((file, f"subject-{subject:02d}", label))
    with (root / "labels.csv").open("w", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([("file", "subject", "label"), *rows])
    (root / "PHANTOM").write_text(json.dumps(MARKER) + "\n")


def _drawing(label: str, generator: np.random.Generator) -> np.ndarray:
    """A bright shape somewhere on a dark, noisy ground, ``uint8 [SIDE, SIDE]``."""
    row, column = generator.integers(12, SIDE - 12, 2)
    rows, columns = np.abs(np.arange(SIDE) - row)[:, None], np.abs(np.arange(SIDE) - column)[None]
    inside = rows**2 + columns**2 <= 81 if label == "disc" else np.maximum(rows, columns) <= 8
    return np.clip(generator.normal(60, 15, (SIDE, SIDE)) + 120 * inside, 0, 255).astype(np.uint8)
