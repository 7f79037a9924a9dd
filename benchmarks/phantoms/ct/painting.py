"""How each finding looks in the voxels: one function of canvas, body, lungs and finding for each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from medgraft.benchmarks.phantoms.ct.anatomy import Body, Lungs, heart_ellipsoid, lobe_share
from medgraft.benchmarks.phantoms.ct.canvas import Canvas, Volume, ellipsoid, noise
from medgraft.benchmarks.phantoms.ct.findings import MASS_FROM, Finding

FLUID, SOLID, CALCIUM, METAL, HAZE = 8.0, 38.0, 620.0, 2400.0, -480.0


class Scene(NamedTuple):
    """What a painter works on.

    Attributes:
        canvas: The volume.
        body: Latents of the person.
        lungs: Where the lungs are.
        heart: Scale of an enlarged heart; 1 for a usual one.
    """

    canvas: Canvas
    body: Body
    lungs: Lungs
    heart: float

    def random(self, salt: int) -> np.random.Generator:
        """Draws of one kind of finding, which no other changes."""
        return np.random.default_rng([self.body.seed, salt])

    def lung(self, side: str) -> Volume:
        """Share of each voxel that is lung of a side."""
        return {"right": self.lungs.right, "left": self.lungs.left}.get(side, self.lungs.both)


def heart_scale(findings: tuple[Finding, ...]) -> float:
    """Scale of the heart that the findings ask for."""
    enlarged = [each for each in findings if each.kind == "cardiomegaly"]
    return 1.16 + 0.14 * enlarged[0].strength if enlarged else 1.0


def airway_wall(findings: tuple[Finding, ...]) -> float:
    """Thickness of the walls of the airways in mm that the findings ask for."""
    thick = [each for each in findings if each.kind == "peribronchial thickening"]
    return 3.2 + 1.6 * thick[0].strength if thick else 1.4


def paint_findings(scene: Scene, findings: tuple[Finding, ...]) -> None:
    """Paints all findings, those of the lungs' texture first."""
    for finding in sorted(findings, key=lambda each: _ORDER.get(each.kind, len(_ORDER))):
        if finding.kind in PAINTERS:
            PAINTERS[finding.kind](scene, finding)


def _nodule(scene: Scene, finding: Finding) -> None:
    scene.canvas.ball(SOLID, finding.place, finding.millimetres / 2)
    if finding.millimetres >= MASS_FROM:
        rng, radius = scene.random(11), finding.millimetres / 2
        for direction in rng.normal(size=(9, 3)):
            far = np.array(finding.place) + direction / np.linalg.norm(direction) * radius * 1.45
            scene.canvas.tube(SOLID, finding.place, (far[0], far[1], far[2]), 1.6, scene.lungs.both)


def _patch(scene: Scene, finding: Finding, salt: int) -> Volume:
    """A ragged region of a lobe around the finding's place, as shares of voxels."""
    canvas, radius = scene.canvas, finding.millimetres / 2
    x, y, z = canvas.grid()
    ragged = 0.3 * radius * noise(scene.random(salt), canvas.shape, 14)
    distance = ellipsoid(finding.place, (radius, radius, radius))(x, y, z) + np.clip(ragged, -9, 9)
    return canvas.cover(distance) * lobe_share(canvas, scene.lungs, finding.lobe)


def _consolidation(scene: Scene, finding: Finding) -> None:
    patch = _patch(scene, finding, 12)
    scene.canvas.paint(SOLID, patch)
    px, py, pz = finding.place
    rng = scene.random(13)
    for _ in range(3):  # air bronchograms
        off = rng.normal(0, finding.millimetres / 5, 3)
        scene.canvas.tube(-820.0, (px * 0.75, py * 0.8, pz), (px + off[0], py + off[1], pz + off[2]), 2.2, patch)


def _ground_glass(scene: Scene, finding: Finding) -> None:
    scene.canvas.paint(HAZE, 0.8 * _patch(scene, finding, 14))


def _effusion(scene: Scene, finding: Finding) -> None:
    canvas = scene.canvas
    x, y, z = canvas.grid()
    for side in finding.seen_on:
        # Fluid lies at the back and at the bottom; its front is a meniscus, its thickness what is reported.
        top = -70 + 2.6 * finding.millimetres
        thick = finding.millimetres * np.clip((top - z) / 55, 0, 1)
        back = -92 * scene.body.size * scene.body.depth
        front = y - (back + thick) - 0.0022 * (np.abs(x) - 66) ** 2 * (thick > 0)
        share = canvas.cover(np.where(thick > 0, front, 50.0)) * scene.lung(side)
        canvas.paint(FLUID, share)
        squeezed = canvas.cover(np.where(thick > 8, front - 7, 50.0)) * (1 - share) * scene.lung(side)
        canvas.paint(-150.0, 0.8 * squeezed)


def _pneumothorax(scene: Scene, finding: Finding) -> None:
    canvas = scene.canvas
    _, y, z = canvas.grid()
    for side in finding.seen_on:
        high = np.clip((z + 90) / 120, 0.15, 1)
        depth = finding.millimetres * high * np.clip((y + 70) / 90, 0.35, 1)
        share = canvas.cover(-scene.lungs.rim - depth) * scene.lung(side)
        canvas.paint(-1000.0, share)
        line = canvas.cover(np.abs(-scene.lungs.rim - depth - 1.5) - 1.2) * scene.lung(side)
        canvas.paint(-300.0, 0.6 * line)


def _emphysema(scene: Scene, finding: Finding) -> None:
    canvas, rng = scene.canvas, scene.random(15)
    _, _, z = canvas.grid()
    upper = np.clip((z + 70) / 120, 0.1, 1) * scene.lungs.both
    canvas.hu -= 45 * finding.strength * upper
    places = np.argwhere(scene.lungs.both > 0.9)
    for _ in range(int(70 + 110 * finding.strength)):
        i, j, k = places[int(rng.integers(len(places)))]
        if rng.random() < (canvas.axes[2][k] + 90) / 190:
            centre = (float(canvas.axes[0][i]), float(canvas.axes[1][j]), float(canvas.axes[2][k]))
            canvas.ball(-985.0, centre, float(rng.uniform(4, 10.5)), scene.lungs.both)


def _band(scene: Scene, finding: Finding, salt: int, *, thick: float, count: int) -> None:
    """Straight bands of tissue across a part of a lobe."""
    rng, canvas = scene.random(salt), scene.canvas
    share = lobe_share(canvas, scene.lungs, finding.lobe)
    for _ in range(count):
        start = np.array(finding.place) + rng.normal(0, 8, 3)
        end = start + np.array([rng.normal(0, 30), rng.normal(0, 34), rng.normal(0, 9)])
        middle = (start + end) / 2
        canvas.tube(-10.0, tuple(2 * start - middle), tuple(2 * end - middle), thick, share)


def _atelectasis(scene: Scene, finding: Finding) -> None:
    """A plate above the diaphragm at the back of a lower lobe, which has lost volume."""
    canvas = scene.canvas
    x, y, z = canvas.grid()
    thick = 5 + 6 * finding.strength
    plate = np.maximum(np.abs(z - 0.25 * y + 50 - scene.body.breath) - thick, y + 14)
    canvas.paint(25.0, 0.9 * canvas.cover(plate + 0 * x) * lobe_share(canvas, scene.lungs, finding.lobe))


def _fibrotic(scene: Scene, finding: Finding) -> None:
    """Scars towards the apex."""
    x = 58.0 if finding.side == "right" else -58.0
    apical = Finding(finding.kind, finding.side, finding.lobe, place=(x, -8.0, 96.0 * scene.body.size))
    _band(scene, apical, 17, thick=2.6, count=6)


def _bronchiectasis(scene: Scene, finding: Finding) -> None:
    rng, canvas = scene.random(18), scene.canvas
    share = lobe_share(canvas, scene.lungs, finding.lobe)
    for _ in range(7):
        start = np.array(finding.place) + rng.normal(0, 12, 3)
        end = start + rng.normal(0, 9, 3) + np.array([0, 0, 16.0])
        canvas.tube(-965.0, tuple(start), tuple(end), 4.2 + 2 * finding.strength, share, wall=2.4)


def _mosaic(scene: Scene, finding: Finding) -> None:
    pattern = np.tanh(3 * noise(scene.random(19), scene.canvas.shape, 9))
    scene.canvas.hu += (55 + 45 * finding.strength) * pattern * scene.lungs.both


def _septa(scene: Scene, finding: Finding) -> None:
    canvas = scene.canvas
    x, y, z = canvas.grid()
    bend = 6 * noise(scene.random(20), canvas.shape, 14)
    lines = np.minimum(np.abs(((x + 0.4 * z + bend) % 19) - 9.5), np.abs(((y - 0.5 * z + bend) % 19) - 9.5))
    outer = canvas.cover(-scene.lungs.rim - 34) * scene.lungs.both * np.clip(1.1 - (z + 40) / 130, 0.3, 1)
    canvas.paint(-260.0, (0.5 + 0.4 * finding.strength) * canvas.cover(lines - 1.6) * outer)


def _pericardial(scene: Scene, finding: Finding) -> None:
    centre, radii = heart_ellipsoid(scene.body, scene.heart)
    canvas, extra = scene.canvas, finding.millimetres
    x, y, z = canvas.grid()
    within = ellipsoid(centre, radii)(x, y, z)
    around = np.maximum(
        ellipsoid(centre, (radii[0] + extra, radii[1] + extra, radii[2] + 0.6 * extra))(x, y, z), -within
    )
    canvas.paint(FLUID + 4, canvas.cover(around))


def _coronary(scene: Scene, finding: Finding) -> None:
    centre, radii = heart_ellipsoid(scene.body, scene.heart)
    rng = scene.random(21)
    for angle in np.linspace(0.15, 1.25, int(5 + 5 * finding.strength)):
        x = centre[0] - radii[0] * 0.62 * np.sin(angle) + rng.normal(0, 1.5)
        y = centre[1] + radii[1] * 0.85 * np.cos(angle) + rng.normal(0, 1.5)
        scene.canvas.ball(CALCIUM + 250, (x, y, centre[2] + radii[2] * (0.7 - 0.45 * angle)), 3.4)


def _arterial(scene: Scene, finding: Finding) -> None:
    rng, d = scene.random(22), scene.body.depth
    for _ in range(int(16 + 18 * finding.strength)):
        angle, z = rng.uniform(0, 2 * np.pi), rng.uniform(-130, 46)
        centre = (-19 + 12 * np.cos(angle), -45 * d + 12 * np.sin(angle), z)
        scene.canvas.ball(CALCIUM + 200, (float(centre[0]), float(centre[1]), float(z)), float(rng.uniform(2.4, 4)))
    for t in rng.uniform(0, 1, 8):
        scene.canvas.ball(CALCIUM, (-18 + 28 * t, (-42 + 54 * t) * d, 68.0), 3.6)


def _nodes(scene: Scene, finding: Finding) -> None:
    short, d = finding.millimetres / 2, scene.body.depth
    for x, y, z in ((20, -8, 44), (18, -20, 18), (-24, -6, 34), (4, -26, 10), (24, 4, 62)):
        grown = short if z == 18 else 0.8 * short
        scene.canvas.ball(SOLID, (float(x), y * d, float(z)), (grown, grown, 1.25 * grown))


def _hernia(scene: Scene, finding: Finding) -> None:
    radius, d = finding.millimetres / 2, scene.body.depth
    centre = (-14.0, -40 * d - 0.1 * radius, -92.0 + scene.body.breath + 0.3 * radius)
    scene.canvas.ball(34.0, centre, (radius, 0.85 * radius, radius))
    inner = (centre[0], centre[1] + 0.25 * radius, centre[2] + 0.15 * radius)
    scene.canvas.ball(-850.0, inner, (0.55 * radius, 0.3 * radius, 0.55 * radius))


def _device(scene: Scene, finding: Finding) -> None:
    """A pacemaker below the left clavicle with a lead to the heart."""
    front = 84 * scene.body.depth * scene.body.size
    scene.canvas.ball(METAL, (-84.0, front, 84.0), (22, 6, 19))
    centre, _ = heart_ellipsoid(scene.body, scene.heart)
    way = [(-84.0, front - 4, 84.0), (-30.0, 22.0, 92.0), (22.0, 10.0, 70.0), (16.0, 10.0, -20.0), centre]
    for start, end in zip(way, way[1:], strict=False):
        scene.canvas.tube(METAL, start, end, 1.8)


PAINTERS: dict[str, Callable[[Scene, Finding], None]] = {
    "mosaic attenuation pattern": _mosaic,
    "emphysema": _emphysema,
    "interlobular septal thickening": _septa,
    "lung opacity": _ground_glass,
    "consolidation": _consolidation,
    "lung nodule": _nodule,
    "bronchiectasis": _bronchiectasis,
    "pulmonary fibrotic sequela": _fibrotic,
    "atelectasis": _atelectasis,
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "pericardial effusion": _pericardial,
    "lymphadenopathy": _nodes,
    "hiatal hernia": _hernia,
    "coronary artery wall calcification": _coronary,
    "arterial wall calcification": _arterial,
    "support devices": _device,
}
"""Kind -> what paints it, in the order of painting; an enlarged heart and thick walls of airways are the body's own."""

_ORDER = {name: place for place, name in enumerate(PAINTERS)}
