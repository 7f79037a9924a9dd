"""What can be found in a phantom chest CT: which findings a person has, where and how large.

Each finding acts on the voxels through its own latents only (side, lobe, millimetres, place), so a model can be checked
against them. All but one are CT-RATE's labels (Hamamci et al., 2024, arXiv 2403.17834), under the names that
:mod:`medgraft.benchmarks.metrics.texts.labeller` gives them: a nodule of 30 mm is called a mass and stays a nodule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.cohorts.ct.ct_rate import CT_RATE_LABELS
from medgraft.benchmarks.phantoms.ct.anatomy import LOBES, Body, find_lungs, lobe_of
from medgraft.benchmarks.phantoms.ct.canvas import Canvas, Point, Volume

MASS_FROM = 30.0
"""Millimetres from which reports call a nodule a mass."""

HEALTHY = 0.1
"""Share of people without any finding."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        label: Column of CT-RATE that it sets; empty for none.
        share: Of the people who have it.
        millimetres: Smallest and largest size; both 0 where it has none that a report would say.
        place: ``lobe``, ``side`` (of the chest) or empty.
        limits: Millimetres from which it is called moderate and large; unused without a size.
    """

    label: str
    share: float
    millimetres: tuple[float, float] = (0.0, 0.0)
    place: str = ""
    limits: tuple[float, float] = (0.0, 0.0)


KINDS = {
    "lung nodule": Kind("Lung nodule", 0.38, (9, 58), "lobe", (16, MASS_FROM)),
    "consolidation": Kind("Consolidation", 0.2, (36, 78), "lobe", (46, 62)),
    "lung opacity": Kind("Lung opacity", 0.22, (36, 80), "lobe", (46, 62)),
    "pleural effusion": Kind("Pleural effusion", 0.24, (10, 48), "side", (20, 34)),
    "pneumothorax": Kind("", 0.1, (10, 40), "side", (18, 28)),
    "emphysema": Kind("Emphysema", 0.22),
    "atelectasis": Kind("Atelectasis", 0.24, (0, 0), "lobe"),
    "bronchiectasis": Kind("Bronchiectasis", 0.14, (0, 0), "lobe"),
    "pulmonary fibrotic sequela": Kind("Pulmonary fibrotic sequela", 0.2, (0, 0), "lobe"),
    "mosaic attenuation pattern": Kind("Mosaic attenuation pattern", 0.12),
    "peribronchial thickening": Kind("Peribronchial thickening", 0.14),
    "interlobular septal thickening": Kind("Interlobular septal thickening", 0.12),
    "cardiomegaly": Kind("Cardiomegaly", 0.22),
    "pericardial effusion": Kind("Pericardial effusion", 0.14, (6, 24), "", (11, 18)),
    "coronary artery wall calcification": Kind("Coronary artery wall calcification", 0.26),
    "arterial wall calcification": Kind("Arterial wall calcification", 0.28),
    "lymphadenopathy": Kind("Lymphadenopathy", 0.2, (12, 30), "", (16, 22)),
    "hiatal hernia": Kind("Hiatal hernia", 0.16, (24, 62), "", (34, 48)),
    "support devices": Kind("Medical material", 0.12),
}
"""Name as reports say it -> kind, in the order in which findings are drawn and painted."""


@dataclass(frozen=True)
class Finding:
    """One finding of a person.

    Attributes:
        kind: Name in :data:`KINDS`.
        side: ``left``, ``right`` or ``both``; empty where it has none.
        lobe: Name in :data:`~medgraft.benchmarks.phantoms.ct.anatomy.LOBES`, or empty.
        millimetres: Size; 0 where it has none.
        place: Its middle in mm; the origin where its kind decides that.
        strength: How marked it is, 0 to 1, where it has no size.
    """

    kind: str
    side: str = ""
    lobe: str = ""
    millimetres: float = 0.0
    place: Point = (0.0, 0.0, 0.0)
    strength: float = 0.7

    @property
    def size(self) -> str:
        """``small``, ``moderate`` or ``large``; empty where it has no size."""
        if not self.millimetres:
            return ""
        moderate, large = KINDS[self.kind].limits
        return "small" if self.millimetres < moderate else "moderate" if self.millimetres < large else "large"

    @property
    def seen_on(self) -> tuple[str, ...]:
        """Sides on which it is, for findings with one."""
        return ("right", "left") if self.side == "both" else (self.side,)


def sample_findings(rng: np.random.Generator, body: Body) -> tuple[Finding, ...]:
    """Draws the findings of a person; each kind at most once, calcifications more often in the old.

    No lung has both free air and an effusion, and no lobe two of nodule and opacities, so that each can be told.
    """
    if rng.random() < HEALTHY:
        return ()
    found: list[Finding] = []
    free = list(LOBES)
    room = Room(body)
    for name, kind in KINDS.items():
        odds = rng.random()
        share = kind.share * (np.clip((body.age - 20) / 40, 0.1, 1.6) if "calcification" in name else 1.0)
        if odds >= share:
            rng.random(8)  # later draws do not depend on who has what
            continue
        draws = rng.random(8)
        size = round(kind.millimetres[0] + (kind.millimetres[1] - kind.millimetres[0]) * float(draws[0]) ** 1.3)
        strength = 0.45 + 0.55 * float(draws[1])
        side, lobe, place = "", "", (0.0, 0.0, 0.0)
        if kind.place == "side":
            taken = {each.kind: each.side for each in found}.get("pleural effusion", "")
            if name == "pneumothorax" and taken == "both":
                continue
            side = ("right", "left", "both")[int(draws[2] * (2.99 if name == "pleural effusion" else 2))]
            side = {"right": "left", "left": "right"}[taken] if name == "pneumothorax" and taken else side
        elif kind.place == "lobe":
            lobe = _lobe(name, free, float(draws[2]))
            if not lobe:
                continue
            side = lobe.partition(" ")[0]
            place = room.place_in(lobe, size or 24.0, float(draws[3]))
        found.append(Finding(name, side, lobe, float(size), place, strength))
    return tuple(found)


def _lobe(name: str, free: list[str], draw: float) -> str:
    """A lobe for a finding; solid ones take one that no other solid one has."""
    if name == "atelectasis":
        return ("right lower lobe", "left lower lobe")[int(draw * 2)]
    if name == "pulmonary fibrotic sequela":
        return ("right upper lobe", "left upper lobe")[int(draw * 2)]
    if name == "bronchiectasis":
        return LOBES[int(draw * len(LOBES))]
    if not free:
        return ""
    return free.pop(int(draw * len(free)))


_COARSE = (48, 48, 39)


class Room:
    """Where in a person's lungs something fits; worked out coarsely, and only where it is asked for.

    Args:
        body: Whose lungs. They are taken with an enlarged heart, so that what fits always fits.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self._canvas: Canvas | None = None
        self._lungs: Volume | None = None

    def place_in(self, lobe: str, size: float, draw: float) -> Point:
        """A point of a lobe from which half of ``size`` mm fits into it, if any does; else one of the roomiest.

        Args:
            lobe: Name of the lobe.
            size: Diameter in mm.
            draw: Which of the points, 0 to 1.
        """
        from scipy.ndimage import distance_transform_edt

        if self._canvas is None or self._lungs is None:
            self._canvas = Canvas(_COARSE)
            self._lungs = find_lungs(self._canvas, self.body, 1.15).both
        canvas = self._canvas
        inside = (self._lungs > 0.5) & (lobe_of(*canvas.grid()) == LOBES.index(lobe))
        room = distance_transform_edt(inside, sampling=canvas.spacing)
        fitting = np.argwhere(room >= min(size / 2, 0.8 * float(room.max())))
        x, y, z = (float(axis[i]) for axis, i in zip(canvas.axes, fitting[int(draw * len(fitting))], strict=True))
        return x, y, z


def labels_of(names: set[str]) -> dict[str, int]:
    """CT-RATE's labels of some kinds of findings.

    Example:
        >>> [label for label, value in labels_of({"lung nodule", "pneumothorax"}).items() if value]
        ['Lung nodule']
    """
    positive = {KINDS[name].label for name in names}
    return {label: int(label in positive) for label in CT_RATE_LABELS}
