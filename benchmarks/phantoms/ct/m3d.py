"""Writes the chest-CT phantom in the layout of M3D-Cap and M3D-VQA.

Arrays are ``float32 [1, 32, H, W]`` in 0..1, slices of an axial, coronal or sagittal stack, as M3D's preparation saves
them (there with 256 x 256 places, here smaller). Numbers of cases begin at 900,001; the real ones end below 30,000.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.ct.m3d import TRUTH_FILE
from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.metrics.texts.statements import to_json
from medgraft.benchmarks.phantoms.chest.studies import map_chunks
from medgraft.benchmarks.phantoms.ct.canvas import Volume
from medgraft.benchmarks.phantoms.ct.questions import PLANES, choices_on
from medgraft.benchmarks.phantoms.ct.renderer import GENERATOR_VERSION, STREAMS, Person, render, sample_person
from medgraft.benchmarks.phantoms.ct.reports import statements, write_report
from medgraft.errors import ConfigError

FIRST_CASE = 900_001
SLICES = 32
WINDOW = (-1000.0, 600.0)
COLUMNS = (
    *("Image Path", "Text", "Question Type", "Question", "Choice A", "Choice B", "Choice C", "Choice D", "Answer"),
    "Answer Choice",
)
_ENHANCED, _SECOND_PLANE = 0.4, 0.6


@dataclass(frozen=True)
class _Stack:
    """One array: whose, and in which plane."""

    person: Person
    index: int
    plane: str
    path: Path


def write_m3d(
    out: Path, *, n_train: int, n_validation: int, n_test: int, seed: int, size: int = 64, jobs: int = 1
) -> None:
    """Writes a cohort; the same arguments give the same bytes, whatever ``jobs`` is.

    Args:
        out: Folder to write into.
        n_train: Cases to train on.
        n_validation: Cases to validate on.
        n_test: Cases to test on.
        seed: Not negative.
        size: Places along height and width of the arrays.
        jobs: Processes.

    Raises:
        ConfigError: A number is out of range.
    """
    counts = {"train": n_train, "validation": n_validation, "test": n_test}
    if min(*counts.values(), seed) < 0 or sum(counts.values()) > 90_000 or size < 16:
        raise ConfigError(f"cases {counts} and seed {seed} must not be negative, and size {size} at least 16")
    folder = out / "M3D_Cap_npy"
    listed: dict[str, list[dict[str, str]]] = {}
    truths: list[tuple[str, str]] = []
    index = 0
    (out / "M3D-VQA").mkdir(parents=True)
    for split, count in counts.items():
        stacks = [each for i in range(index, index + count) for each in _stacks_of(folder, seed, i)]
        index += count
        for _ in map_chunks(functools.partial(_write_stacks, size=size), stacks, jobs):
            pass
        questions = []
        listed[split] = []
        for each in stacks:
            text = write_report(each.person, seed, "m3d", each.index).findings
            (each.path.parent / "text.txt").write_text(text, encoding="utf-8")
            image = each.path.relative_to(out).as_posix()
            listed[split].append({"image": image, "text": f"{Path(image).parent.as_posix()}/text.txt"})
            truths.append((image, to_json(statements(each.person))))
            rng = np.random.default_rng([seed, STREAMS["m3d"], each.index, PLANES.index(each.plane), 4])
            for asked in choices_on(each.person, each.plane, rng):
                answer = (asked.options[asked.answer], "ABCD"[asked.answer])
                questions.append((image, text, asked.kind, asked.question, *asked.options, *answer))
        name = {"validation": "val"}.get(split, split)
        pd.DataFrame(questions, columns=list(COLUMNS)).to_csv(out / "M3D-VQA" / f"M3D_VQA_{name}.csv", index=False)
    folder.mkdir(exist_ok=True)
    (folder / "M3D_Cap.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    pd.DataFrame(truths, columns=["Image Path", "Statements"]).to_csv(out / TRUTH_FILE, index=False)
    marker = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "config": {**counts, "size": size},
        "statement": "generated; no person",
    }
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _stacks_of(folder: Path, seed: int, index: int) -> list[_Stack]:
    person = sample_person(seed, "m3d", index, enhanced=_ENHANCED)
    rng = np.random.default_rng([seed, STREAMS["m3d"], index, 2])
    phase = "C__arterial_phase" if person.body.contrast else "non_contrast"
    planes = ["Axial", *([PLANES[1 + int(rng.integers(2))]] if rng.random() < _SECOND_PLANE else [])]
    case = folder / "ct_case" / f"{FIRST_CASE + index:06d}"
    return [_Stack(person, index, plane, case / f"{plane}_{phase}.npy") for plane in planes]


def _write_stacks(stacks: Sequence[_Stack], size: int) -> int:
    for each in stacks:
        stack = in_plane(each.person, each.plane, size)
        each.path.parent.mkdir(parents=True, exist_ok=True)
        np.save(each.path, stack)
    return len(stacks)


def in_plane(person: Person, plane: str, size: int) -> Volume:
    """A person's volume as a stack of slices in 0..1, ``float32 [1, 32, size, size]``; the first row is front or top."""
    if plane == "Axial":
        hu = render(person, (size, size, SLICES))[::-1, ::-1].transpose(2, 1, 0)
    elif plane == "Coronal":
        hu = render(person, (size, SLICES, size))[::-1, ::-1, ::-1].transpose(1, 2, 0)
    else:
        hu = render(person, (SLICES, size, size))[:, ::-1, ::-1].transpose(0, 2, 1)
    grey = np.clip((hu - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)
    return np.ascontiguousarray(grey[None], np.float32)
