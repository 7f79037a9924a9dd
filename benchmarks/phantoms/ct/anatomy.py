"""Chests without a finding: latents of a body, its lungs and lobes, and how it is painted.

Lengths are in mm in the axes of :mod:`medgraft.benchmarks.phantoms.ct.canvas`, origin in the middle of the chest. Sizes
and HU are those of textbooks by order of magnitude; nothing was fitted to data of people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.phantoms.ct.canvas import Canvas, Volume, ellipsoid, noise

LOBES = ("right upper lobe", "right middle lobe", "right lower lobe", "left upper lobe", "left lower lobe")
FAT, MUSCLE, BLOOD, BONE, LUNG, LIVER = -95.0, 50.0, 42.0, 320.0, -860.0, 58.0
VESSELS = 56
"""Vessels of both lungs that are large enough to be drawn."""


@dataclass(frozen=True)
class Body:
    """Latents of a person; none of them is a finding.

    Attributes:
        female: Sex.
        age: Years.
        size: Scale of the skeleton, about 1.
        fat: Thickness of the subcutaneous fat in mm.
        depth: Front to back, relative to the usual.
        heart: Scale of the heart, about 1; a large one is a finding and kept elsewhere.
        breath: Height of the diaphragm in mm above the usual.
        lung_hu: Density of the lungs.
        contrast: HU that contrast medium adds to the blood; 0 without.
        seed: Of vessels, texture and the noise of the scanner.
        noise: Standard deviation of the scanner's noise in HU.
    """

    female: bool
    age: int
    size: float
    fat: float
    depth: float
    heart: float
    breath: float
    lung_hu: float
    contrast: float
    seed: int
    noise: float


def sample_body(rng: np.random.Generator, *, enhanced: float = 0.0) -> Body:
    """Draws a person; a share ``enhanced`` of them is given contrast medium."""
    female = bool(rng.random() < 0.45)
    return Body(
        female=female,
        age=int(np.clip(rng.normal(56, 15), 18, 92)),
        size=float(np.clip(rng.normal(0.94 if female else 1.0, 0.04), 0.84, 1.08)),
        fat=float(np.clip(rng.normal(17 if female else 12, 6), 4, 32)),
        depth=float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15)),
        heart=float(np.clip(rng.normal(0.95, 0.05), 0.84, 1.04)),
        breath=float(rng.normal(0, 7)),
        lung_hu=float(rng.normal(LUNG, 18)),
        contrast=float(rng.uniform(90, 160)) if rng.random() < enhanced else 0.0,
        seed=int(rng.integers(2**32)),
        noise=float(rng.uniform(12, 28)),
    )


@dataclass(frozen=True)
class Lungs:
    """Where the lungs of a body are, at some resolution.

    Attributes:
        right: Share of each voxel that is right lung, ``[x, y, z]``.
        left: Likewise.
        rim: Signed distance in mm from the inner wall of the chest, negative inside.
        floor: Signed distance in mm above the diaphragm, negative above.
    """

    right: Volume
    left: Volume
    rim: Volume
    floor: Volume

    @property
    def both(self) -> Volume:
        """Share of each voxel that is lung."""
        return np.maximum(self.right, self.left)


def _walls(body: Body, x: Volume, y: Volume, z: Volume) -> tuple[Volume, Volume]:
    """Signed distances in mm of skin and of the inner wall of the chest; both narrow towards the top."""
    size, deep = body.size, body.size * body.depth
    taper = np.clip((z - 40) / 120, 0, 1) ** 2
    wide = 132 * size * (1 - 0.42 * taper)
    thick = 92 * deep * (1 - 0.36 * taper)
    inner = (np.sqrt((np.abs(x) / wide) ** 2.3 + (np.abs(y + 4) / thick) ** 2.3) ** (2 / 2.3) - 1) * np.minimum(
        wide, thick
    )
    out_wide = 132 * size + 30 + body.fat + 10 * taper
    out_thick = 92 * deep + 22 + 0.8 * body.fat - 8 * taper
    outer = (np.sqrt((x / out_wide) ** 2 + (y / out_thick) ** 2) - 1) * np.minimum(out_wide, out_thick)
    return outer, inner


def _diaphragm(body: Body, x: Volume, y: Volume) -> Volume:
    """Height in mm of the diaphragm, ``[x, y, 1]``: a dome for each lung, the right one higher."""
    dome = 46 * np.clip(1 - ((np.abs(x) - 66) / 85) ** 2 - ((y - 6) / 120) ** 2, -1, 1)
    return -122 + body.breath + dome + np.where(x > 0, 9.0, 0.0)


def heart_ellipsoid(body: Body, scale: float = 1.0) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Centre and radii of the heart in mm; ``scale`` is that of an enlarged one."""
    grown = body.heart * body.size * scale
    return (-24.0 * body.size * scale, 24.0 * body.depth, -62.0 + body.breath / 2), (59 * grown, 43 * grown, 52 * grown)


def find_lungs(canvas: Canvas, body: Body, heart_scale: float = 1.0) -> Lungs:
    """The lungs of a body: inside the wall of the chest, above the diaphragm, beside mediastinum and heart."""
    x, y, z = canvas.grid()
    _, inner = _walls(body, x, y, z)
    rim = inner + 4
    floor = _diaphragm(body, x, y) - z
    high = np.clip((z - 30) / 110, 0, 1)
    front = np.clip((y - 18) / 50, 0, 1)
    half = body.size * ((21 - 4 * high + 9 * np.exp(-(((z + 8) / 30) ** 2))) * (1 - 0.7 * front) + 6 * (y < -62))
    middle = half - np.abs(x)
    centre, radii = heart_ellipsoid(body, heart_scale)
    heart = -ellipsoid(centre, (radii[0] + 4, radii[1] + 4, radii[2] + 4))(x, y, z)
    apex = z - body.size * (132 - 0.011 * ((np.abs(x) - 52) ** 2 + (y + 8) ** 2))
    distance = np.maximum(np.maximum(np.maximum(rim, floor), np.maximum(middle, heart)), apex)
    share = canvas.cover(distance)
    return Lungs(share * (x > 0), share * (x < 0), rim, floor)


def fissures(x: Volume, y: Volume, z: Volume) -> tuple[Volume, Volume]:
    """Distances in mm above the oblique and the horizontal fissure; the left lung has no horizontal one."""
    oblique = (z - 6 + 0.82 * y) / 1.29
    return oblique + 0 * x, (z - 4 - 0.08 * y) + 0 * x


def lobe_of(x: Volume, y: Volume, z: Volume) -> Volume:
    """Number of the lobe in :data:`LOBES` of places inside the lungs; ``int8``, of the shape of the coordinates."""
    oblique, horizontal = fissures(x, y, z)
    right = np.where(oblique < 0, 2, np.where(horizontal > 0, 0, 1))
    return np.where(x > 0, right, np.where(oblique < 0, 4, 3)).astype(np.int8)


def lobe_share(canvas: Canvas, lungs: Lungs, lobe: str) -> Volume:
    """Share of each voxel that is this lobe, ``[x, y, z]``."""
    x, y, z = canvas.grid()
    return lungs.both * (lobe_of(x, y, z) == LOBES.index(lobe))


def paint_body(canvas: Canvas, body: Body, lungs: Lungs, heart_scale: float = 1.0, wall: float = 1.4) -> None:
    """Paints a chest.

    Args:
        canvas: What is painted into.
        body: Latents.
        lungs: Where its lungs are.
        heart_scale: That of an enlarged heart.
        wall: Thickness of the walls of the airways in mm.
    """
    rng = np.random.default_rng(body.seed)
    x, y, z = canvas.grid()
    outer, inner = _walls(body, x, y, z)
    canvas.paint(FAT, canvas.cover(outer))
    canvas.paint(MUSCLE, canvas.cover(np.maximum(inner - 21, outer + body.fat)))
    if body.female:
        for side in (1, -1):
            canvas.ball(FAT + 18, (side * 68.0, 96 * body.depth * body.size, 2.0), (52, 24 + body.fat * 0.7, 46))
    _abdomen(canvas, body, inner)
    _mediastinum(canvas, body, inner, heart_scale)
    canvas.paint(body.lung_hu, lungs.both)
    _vessels(canvas, body, lungs, rng)
    _airways(canvas, body, wall)
    _bones(canvas, body, inner)
    oblique, horizontal = fissures(x, y, z)
    canvas.paint(-600.0, 0.5 * canvas.cover(np.abs(oblique) - 0.6) * lungs.both)
    canvas.paint(-640.0, 0.5 * canvas.cover(np.abs(horizontal) - 0.6) * (oblique > 0) * lungs.right)


def _abdomen(canvas: Canvas, body: Body, inner: Volume) -> None:
    x, y, z = canvas.grid()
    below = canvas.cover(np.maximum(inner + 6, z - _diaphragm(body, x, y)))
    canvas.paint(FAT + 10, below)
    liver = np.maximum(inner + 8, z - _diaphragm(body, x, y) + 4)
    canvas.paint(LIVER + 0.4 * body.contrast, canvas.cover(np.maximum(liver, -18 - x + 0.25 * (y + 20))))
    canvas.ball(46.0 + 0.5 * body.contrast, (-88.0 * body.size, -38.0, -118.0 + body.breath), (27, 36, 30), below)
    canvas.ball(20.0, (-58.0, 28.0, -124.0 + body.breath), (36, 30, 28), below)
    canvas.ball(-900.0, (-56.0, 44.0, -116.0 + body.breath), (20, 11, 16), below)


def _mediastinum(canvas: Canvas, body: Body, inner: Volume, heart_scale: float) -> None:
    x, y, z = canvas.grid()
    canvas.paint(FAT + 25, canvas.cover(np.maximum(np.abs(x) - 30, inner + 2)))
    blood = BLOOD + body.contrast
    centre, radii = heart_ellipsoid(body, heart_scale)
    canvas.ball(FAT + 10, centre, (radii[0] + 3, radii[1] + 3, radii[2] + 3))
    canvas.ball(45.0 + 0.8 * body.contrast, centre, radii)
    canvas.ball(
        blood, (centre[0] - 14, centre[1] - 2, centre[2] - 4), (radii[0] * 0.5, radii[1] * 0.52, radii[2] * 0.6)
    )
    canvas.ball(
        blood, (centre[0] + 24, centre[1] - 6, centre[2] + 8), (radii[0] * 0.42, radii[1] * 0.6, radii[2] * 0.6)
    )
    d = body.depth
    canvas.tube(blood, (-20.0, -46 * d, -150.0), (-18.0, -44 * d, 52.0), 12 * body.size)  # descending aorta
    canvas.tube(blood, (-18.0, -42 * d, 52.0), (10.0, 12 * d, 58.0), 12 * body.size)  # arch
    canvas.tube(blood, (10.0, 14 * d, 56.0), (4.0, 16 * d, -18.0), 14 * body.size)  # ascending aorta
    canvas.tube(blood, (22.0, 14 * d, 110.0), (24.0, 8 * d, -20.0), 8.5 * body.size)  # superior vena cava
    canvas.tube(blood, (-8.0, 26 * d, 8.0), (-32.0, -4 * d, 20.0), 12.5 * body.size)  # pulmonary trunk
    canvas.tube(blood, (-14.0, 10 * d, 14.0), (34.0, -4 * d, 10.0), 10 * body.size)  # right pulmonary artery
    for end in ((-34.0, 4 * d, 132.0), (-12.0, 10 * d, 132.0), (16.0, 10 * d, 132.0)):
        canvas.tube(blood, (end[0] * 0.6, end[1] - 6, 62.0), end, 5.5)
    canvas.tube(32.0, (-8.0, -34 * d, 140.0), (-12.0, -34 * d, -110.0), 7.0)  # oesophagus
    canvas.tube(-300.0, (-8.0, -34 * d, 140.0), (-9.0, -34 * d, 30.0), 1.6)


def _vessels(canvas: Canvas, body: Body, lungs: Lungs, rng: np.random.Generator) -> None:
    """Vessels from each hilum outwards, thinner on their way, and a haze of those too small to be drawn."""
    blood = BLOOD + body.contrast
    for number in range(VESSELS):
        side = 1 if number % 2 else -1
        part = lungs.right if side > 0 else lungs.left
        start = np.array([side * 33.0, -2.0, 6.0])
        direction = np.array([side * abs(rng.normal(0.8, 0.5)), rng.normal(-0.1, 0.8), rng.normal(-0.1, 1.0)])
        direction /= np.linalg.norm(direction)
        radius, place = float(rng.uniform(2.2, 4.4)), start
        for _ in range(5):
            nxt = place + direction * rng.uniform(16, 26)
            canvas.tube(blood, _point(place), _point(nxt), radius, part)
            direction = direction + rng.normal(0, 0.28, 3)
            direction /= np.linalg.norm(direction)
            place, radius = nxt, radius * 0.74
    texture = noise(rng, canvas.shape, 26)
    canvas.hu += 26 * texture * lungs.both
    back = np.clip(-canvas.axes[1] / 100, -1, 1)[None, :, None]
    canvas.hu += 22 * back * lungs.both  # dependent lung holds more blood


def _point(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def airways(body: Body) -> list[tuple[tuple[float, float, float], tuple[float, float, float], float]]:
    """Start, end and radius in mm of trachea, main and lobar bronchi."""
    d = body.depth
    carina = (2.0, -16 * d, 34.0)
    right, left = (30.0, -14 * d, 14.0), (-34.0, -16 * d, 10.0)
    return [
        ((2.0, -12 * d, 140.0), carina, 8.5 * body.size),
        (carina, right, 6.5),
        (carina, left, 6.0),
        (right, (52.0, -6 * d, 34.0), 3.6),
        (right, (56.0, 14 * d, -14.0), 3.0),
        (right, (54.0, -34 * d, -38.0), 3.6),
        (left, (-54.0, 4 * d, 30.0), 3.6),
        (left, (-56.0, -36 * d, -40.0), 3.6),
    ]


def _airways(canvas: Canvas, body: Body, wall: float) -> None:
    for start, end, radius in airways(body):
        canvas.tube(-960.0, start, end, radius, wall=wall)


def _bones(canvas: Canvas, body: Body, inner: Volume) -> None:
    x, y, z = canvas.grid()
    d = body.depth * body.size
    back = -74 * d
    column = (np.sqrt((x / 18) ** 2 + ((y - back) / 15) ** 2) - 1) * 15
    disc = np.abs((z % 26.0) - 13) > 10.5
    canvas.paint(95.0, canvas.cover(column))
    canvas.paint(BONE - 130, canvas.cover(column + 2.5) * ~disc)
    canvas.paint(BONE + 120, canvas.cover(np.abs(column + 1) - 1.2) * ~disc)
    arch = (np.sqrt((x / 13) ** 2 + ((y - back + 23) / 11) ** 2) - 1) * 11
    canvas.paint(BONE, canvas.cover(arch) * ~disc)
    canvas.paint(22.0, canvas.cover((np.sqrt((x / 8.5) ** 2 + ((y - back + 20) / 7.5) ** 2) - 1) * 7.5))
    # Ribs slope down towards the front: what a transversal slice shows of each is a piece of an oblique ring.
    slope = z + 0.55 * (y - 40) * 0.6
    rib = np.abs((slope % 27.0) - 13.5) - 5
    shell = np.abs(inner - 8) - 4.2
    gap = 26 - np.abs(x) - 12 * (y < 0)
    ribs = np.maximum(np.maximum(rib, shell), gap)
    canvas.paint(BONE + 60, canvas.cover(ribs))
    canvas.paint(130.0, canvas.cover(ribs + 2.6))
    front = 92 * d + 7
    sternum = np.maximum((np.sqrt((x / 19) ** 2 + ((y - front) / 6.5) ** 2) - 1) * 6.5, np.maximum(z - 78, -42 - z))
    canvas.paint(BONE - 90, canvas.cover(sternum))
    for side in (1.0, -1.0):
        canvas.tube(BONE, (side * 92, -78 * d, 120.0), (side * 128, -62 * d, 6.0), 5.0)
        canvas.tube(BONE - 20, (side * 92, -78 * d, 120.0), (side * 104, -92 * d, 20.0), 4.0)
        canvas.tube(BONE, (side * 16, front - 16, 104.0), (side * 140, front - 74, 132.0), 6.5)
