"""Questions on chest CTs with answers from the facts: rows of RadGenome-Chest CT and of M3D-VQA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.phantoms.ct.anatomy import LOBES
from medgraft.benchmarks.phantoms.ct.findings import KINDS, Finding
from medgraft.benchmarks.phantoms.ct.renderer import Person

ORGANS = {
    "heart": ("cardiomegaly", "pericardial effusion", "coronary artery wall calcification"),
    "pleura": ("pleural effusion", "pneumothorax"),
    "esophagus": ("hiatal hernia",),
    "mediastinum": ("lymphadenopathy", "arterial wall calcification"),
    "lung": tuple(
        name
        for name in KINDS
        if KINDS[name].place == "lobe"
        or name in ("emphysema", "mosaic attenuation pattern", "interlobular septal thickening")
    ),
    "trachea and bronchie": ("peribronchial thickening",),
}
"""Organ, in RadGenome's own spelling, -> findings in it."""
REGIONS = {
    "heart": "heart/heart",
    "pleura": "pleura/pleura",
    "esophagus": "esophagus/esophagus",
    "mediastinum": "mediastinum/mediastinal tissue",
    "lung": "lung/lung",
    "trachea and bronchie": "trachea and bronchie/bronchie",
}
"""Organ -> path of its region in RadGenome's column ``Anatomy``."""
PLANES, PHASES = ("Axial", "Coronal", "Sagittal"), ("Non-contrast", "Arterial phase")
OTHER_PHASES = ("Portal venous phase", "Delayed phase")


def region_of(finding: Finding) -> str:
    """Path of the region of a finding, as ``lung/lung/right lung/right lung upper lobe``; empty for none."""
    if finding.lobe:
        side, rest = finding.lobe.split(" ", 1)
        return f"lung/lung/{side} lung/{side} lung {rest}"
    return next((REGIONS[organ] for organ, kinds in ORGANS.items() if finding.kind in kinds), "")


@dataclass(frozen=True)
class RegionAnswers:
    """Rows of RadGenome's four tables for one volume, without its name.

    Attributes:
        abnormality: Anatomy and abnormalities.
        presence: Anatomy, findings, and ``Yes.`` or ``No.``.
        location: Anatomy and abnormality.
        size: Anatomy, abnormality and size in words.
    """

    abnormality: list[tuple[str, str]]
    presence: list[tuple[str, str, str]]
    location: list[tuple[str, str]]
    size: list[tuple[str, str, str]]


def region_answers(person: Person, rng: np.random.Generator) -> RegionAnswers:
    """Rows of the tables for a person's volume; as many absent findings are asked for as present ones, three at least."""
    by_region: dict[str, list[Finding]] = {}
    for finding in person.findings:
        if region := region_of(finding):
            by_region.setdefault(region, []).append(finding)
    abnormality = [(region, ", ".join(each.kind for each in found)) for region, found in by_region.items()]
    present = [(region, each.kind, "Yes.") for region, found in by_region.items() for each in found]
    absent = [(REGIONS[organ], kind) for organ, kinds in ORGANS.items() for kind in kinds if kind not in person.kinds]
    chosen = rng.permutation(len(absent))[: max(3, len(present))]
    return RegionAnswers(
        abnormality=abnormality,
        presence=present + [(*absent[int(i)], "No.") for i in sorted(chosen)],
        location=[(region, each.kind) for region, found in by_region.items() for each in found],
        size=[
            (region, each.kind, f"{each.millimetres:.0f} mm")
            for region, found in by_region.items()
            for each in found
            if each.millimetres
        ],
    )


@dataclass(frozen=True)
class Choice:
    """A question with four options.

    Attributes:
        kind: Number in M3D-VQA: 1 plane, 2 phase, 3 organ, 4 abnormality, 5 location.
        question: The question.
        options: Texts of A to D; ``NA`` for none.
        answer: Number of the right one.
    """

    kind: int
    question: str
    options: tuple[str, str, str, str]
    answer: int


def choices_on(person: Person, plane: str, rng: np.random.Generator) -> list[Choice]:
    """Questions on a volume, one of each type that has an answer, and one to be answered by yes or no."""
    phase = PHASES[int(person.body.contrast > 0)]
    asked = [
        _shuffled(
            1, "In which plane is this image displayed?", plane, [p for p in (*PLANES, "Oblique") if p != plane], rng
        ),
        _shuffled(
            2,
            "In which phase was this image acquired?",
            phase,
            [p for p in (*PHASES, *OTHER_PHASES) if p != phase],
            rng,
        ),
    ]
    present = [each for each in person.findings if region_of(each)]
    if present:
        finding = present[int(rng.integers(len(present)))]
        organ = next(name for name, kinds in ORGANS.items() if finding.kind in kinds)
        healthy = [name for name, kinds in ORGANS.items() if not person.kinds & set(kinds)]
        wrong = [name.capitalize() for name in (*healthy, "liver", "kidney", "thyroid")][:3]
        asked.append(_shuffled(3, "Which organ shows an abnormality?", organ.capitalize(), wrong, rng))
        absent = [kind.capitalize() for kind in KINDS if kind not in person.kinds]
        wrong = [absent[int(i)] for i in rng.permutation(len(absent))[:3]]
        asked.append(_shuffled(4, "Which abnormality is seen in this image?", finding.kind.capitalize(), wrong, rng))
    asked.append(_yes_or_no(person, rng))
    if place := _place(person, rng):
        asked.append(place)
    return asked


def _yes_or_no(person: Person, rng: np.random.Generator) -> Choice:
    absent = [kind for kind in KINDS if kind not in person.kinds]
    names = sorted(person.kinds) if person.kinds and rng.random() < 0.5 else absent
    name = names[int(rng.integers(len(names)))]
    return Choice(4, f"Is {name} present in this image?", ("Yes", "No", "NA", "NA"), int(name not in person.kinds))


def _place(person: Person, rng: np.random.Generator) -> Choice | None:
    lobed = [each for each in person.findings if each.lobe]
    if lobed:
        finding = lobed[int(rng.integers(len(lobed)))]
        wrong = [lobe.capitalize() for lobe in LOBES if lobe != finding.lobe]
        chosen = [wrong[int(i)] for i in rng.permutation(4)[:3]]
        return _shuffled(5, f"Where is the {finding.kind} located?", finding.lobe.capitalize(), chosen, rng)
    sided = [each for each in person.findings if each.side]
    if not sided:
        return None
    words = {"right": "Right side", "left": "Left side", "both": "Both sides"}
    right = words.pop(sided[0].side)
    return _shuffled(5, f"Where is the {sided[0].kind} located?", right, [*words.values(), "Mediastinum"], rng)


def _shuffled(kind: int, question: str, right: str, wrong: list[str], rng: np.random.Generator) -> Choice:
    options = [right, *wrong[:3]]
    order = [int(i) for i in rng.permutation(4)]
    mixed = [options[i] for i in order]
    return Choice(kind, question, (mixed[0], mixed[1], mixed[2], mixed[3]), order.index(0))
