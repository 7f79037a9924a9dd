"""What one phantom chest film is made of: site setting, patient, positioning, lung fields and drawing primitives.

The phantom is an optical-density model. A film shows the negative logarithm of transmission, which is the *sum* of the
attenuation along each ray, so every structure is a layer ``[n, n]`` that is added, and a finding adds density as it
does in a real radiograph. Coordinates are unit fractions of the film: x runs to the right of the image (the patient's
right is on the left, as radiographs are read), y runs down. Densities are in arbitrary units, soft tissue near 0.6.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

GENERATOR_VERSION = "chest-1"
"""Changes whenever one pixel or label of a generated cohort would change; it is stored in every result."""

FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
)
"""The findings that are drawn; every other CheXpert label is derived from them, from the devices, or never set."""

Points = Sequence[tuple[float, float]]

# Each layer draws from its own random stream, so that two films that differ in one finding differ in nothing else.
_STREAMS = ("pose", "tissue", "texture", "amplitude", "bones", "devices", "detector", "finish", *FINDINGS)


@dataclass(frozen=True)
class ChestSetting:
    """How a site takes and processes its films, and how subtle its findings are.

    A setting was fixed once, from the look of the films and from linear baselines on pixels; it is never tuned on the
    result of an adapter. The difference between ``default`` and ``pretrain`` is the domain gap between a benchmark and
    the encoders that were pre-trained for it.

    Attributes:
        name: Key in ``SETTINGS``.
        hard: Difficulty in [0, 1]: positioning error, overlying clutter, fainter findings.
        ap_log_odds: Log odds of an AP (bedside) film for a patient at the mean of the intensive-care factor.
        contrast: Factor on the density that aerated lung takes away.
        kv_shift: Shift of the beam quality, in standard deviations between films.
        scatter: Share of the signal that is scattered, in [0, 1].
        shoulder: Density at which the film starts to saturate.
        log_gamma: Mean of the logarithm of the display gamma.
        s_curve: Share of an S-shaped look-up table in the display, in [0, 1].
        noise: Factor on the quantum noise.
    """

    name: str
    hard: float = 0.5
    ap_log_odds: float = 1.1
    contrast: float = 1.0
    kv_shift: float = 0.0
    scatter: float = 0.12
    shoulder: float = 0.72
    log_gamma: float = 0.0
    s_curve: float = 0.0
    noise: float = 1.0


SETTINGS: Mapping[str, ChestSetting] = {
    "default": ChestSetting("default"),
    "pretrain": ChestSetting(
        "pretrain",
        hard=0.2,
        ap_log_odds=-0.8,
        contrast=1.1,
        kv_shift=1.0,
        scatter=0.06,
        shoulder=0.80,
        log_gamma=-0.18,
        s_curve=0.45,
        noise=0.8,
    ),
}


@dataclass(frozen=True)
class Anatomy:
    """What stays the same in every film of one patient.

    Attributes:
        sex: 1 for female, 0 for male.
        age: Years.
        half_width: Half of the widest inner thorax, fraction of the film.
        taper: How fast the lungs widen below the apex, standard normal.
        habitus: Amount of soft tissue, standard normal.
        heart_ratio: Cardiothoracic ratio without disease, about 0.46.
        rib_tilt: Downward slope of the posterior ribs, about 0.34.
        bone: Factor on the density of bone, about 1.
        rotation: Habitual rotation of the trunk, fraction of the half width.
        vessel_seed: Seed of the patient's own vessel tree.
    """

    sex: int
    age: int
    half_width: float
    taper: float
    habitus: float
    heart_ratio: float
    rib_tilt: float
    bone: float
    rotation: float
    vessel_seed: int


def sample_anatomy(rng: np.random.Generator, sex: int, age: int) -> Anatomy:
    """Draws the lasting anatomy of one patient of the given sex (1 female) and age in years."""
    return Anatomy(
        sex=sex,
        age=age,
        half_width=0.415 + rng.normal(0, 0.02),
        taper=rng.normal(0, 0.6),
        habitus=rng.normal(),
        heart_ratio=0.455 + rng.normal(0, 0.022),
        rib_tilt=0.34 + rng.normal(0, 0.05),
        bone=math.exp(rng.normal(0, 0.25)),
        rotation=rng.normal(0, 0.014),
        vessel_seed=int(rng.integers(2**31)),
    )


@dataclass(frozen=True)
class Finding:
    """One drawn finding.

    Attributes:
        severity: 0 is invisible and 1 is extreme; the heart and the mediastinum may go below 0 (smaller than average).
        side: -1 the patient's right, 1 the left, 0 both.
        zone: 0 upper, 1 mid, 2 lower lung.
    """

    severity: float
    side: int = 0
    zone: int = 2


@dataclass(frozen=True)
class Film:
    """Everything that defines the pixels of one film; rendering it twice gives the same bytes.

    Attributes:
        anatomy: The patient.
        view: ``"AP"`` or ``"PA"``.
        findings: Finding name -> what to draw.
        devices: Whether lines, tubes or leads lie over the chest.
        seed: Seed of positioning, clutter, texture and noise of this exposure.
        setting: How the site takes its films.
    """

    anatomy: Anatomy
    view: str
    findings: Mapping[str, Finding]
    devices: bool
    seed: int
    setting: ChestSetting = SETTINGS["default"]


@dataclass(frozen=True)
class Pose:
    """How the patient stood and breathed for one film, in fractions of the film unless said otherwise."""

    midline: float
    apex: float
    inspiration: float
    rotation: float
    habitus: float
    heart_ratio: float
    contrast: float
    clutter: float
    shift: tuple[float, float]
    tilt_degrees: float
    magnification: float


def sample_pose(film: Film, rng: np.random.Generator) -> Pose:
    """Draws the positioning of a film: bedside (AP) films are less inspired, more tilted and magnify the heart."""
    bedside, hard, person = film.view == "AP", film.setting.hard, film.anatomy
    return Pose(
        midline=0.5 + rng.normal(0, 0.012),
        apex=0.085 + rng.normal(0, 0.013),
        inspiration=rng.normal(0, 0.025) - 0.02 * bedside,
        rotation=person.rotation + rng.normal(0, 0.014),
        habitus=person.habitus + 0.3 * bedside,
        heart_ratio=person.heart_ratio + 0.02 * bedside,
        contrast=film.setting.contrast * math.exp(rng.normal(0, 0.13)),
        clutter=(0.004 + 0.014 * hard) * math.exp(rng.normal(0, 0.35)),
        shift=(hard * rng.normal(0, 0.028), hard * rng.normal(0, 0.03)),
        tilt_degrees=hard * rng.normal(0, 2.2) * (1.4 if bedside else 1.0),
        magnification=math.exp(hard * rng.normal(0, 0.06)),
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function of ``[...]`` without overflow; every soft edge of the phantom is one."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def gauss(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A bell ``exp(-((x - centre) / width)^2)`` at ``x``, ``[...]``; peak 1."""
    return np.exp(-(((x - centre) / width) ** 2))


def smooth_noise(
    rng: np.random.Generator, n: int, cells: int, octaves: int = 1, persistence: float = 0.5
) -> np.ndarray:
    """Smooth unit-variance noise ``[n, n]`` with about ``cells`` bumps across; the draw does not depend on ``n``."""
    out = np.zeros((n, n), np.float32)
    for octave in range(octaves):
        side = cells * 2**octave + 3
        grid = Image.fromarray(rng.standard_normal((side, side), dtype=np.float32))
        out += persistence**octave * np.asarray(grid.resize((n, n), Image.Resampling.BICUBIC))
    return out / (out.std() + 1e-6)


def strokes(n: int, lines: Iterable[Points], width: float) -> np.ndarray:
    """Anti-aliased polylines as a layer ``[n, n]`` in [0, 1]; points and width in unit coordinates."""
    image = Image.new("L", (2 * n, 2 * n), 0)
    draw = ImageDraw.Draw(image)
    pixels = max(1, round(width * 2 * n))
    for line in lines:
        draw.line([(x * 2 * n, y * 2 * n) for x, y in line], fill=255, width=pixels)
    return np.asarray(image.reduce(2), np.float32) / 255


def blur(layer: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of ``[n, n]``, ``sigma`` in pixels; wide ones on a four times coarser grid (n divisible by 4)."""
    if sigma < 4:
        return ndimage.gaussian_filter(layer, sigma, truncate=3)
    n = layer.shape[0]
    coarse = layer.reshape(n // 4, 4, n // 4, 4).mean((1, 3))
    coarse = ndimage.gaussian_filter(coarse, sigma / 4, truncate=3).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((n, n), Image.Resampling.BILINEAR))


@functools.lru_cache(maxsize=8)
def _axis(n: int) -> np.ndarray:
    return ((np.arange(n) + 0.5) / n).astype(np.float32)


@dataclass
class Lung:
    """One lung field; ``distance`` grows outwards from the midline, all in unit coordinates.

    Attributes:
        side: -1 the patient's right, 1 the left.
        mask: Soft mask ``[n, n]`` in [0, 1].
        distance: ``[1, n]`` from the midline.
        height: ``[n, 1]``, 0 at the apex and 1 at the base.
        base: y of the base before the dome of the diaphragm.
        floor: ``[1, n]`` y of the diaphragm.
        outer: ``[n, 1]`` distance of the chest wall.
        inner: ``[n, 1]`` distance of the mediastinal border.
    """

    side: int
    mask: np.ndarray
    distance: np.ndarray
    height: np.ndarray
    base: float
    floor: np.ndarray
    outer: np.ndarray
    inner: np.ndarray

    @property
    def across(self) -> np.ndarray:
        """Position ``[n, n]`` from the mediastinum (0) to the chest wall (1)."""
        return np.clip((self.distance - self.inner) / np.maximum(self.outer - self.inner, 0.02), 0, 1)


@dataclass
class Scene:
    """A film being drawn: its grid, its geometry and its random streams.

    Attributes:
        film: What is drawn.
        n: Side in pixels, divisible by 4.
        x: ``[1, n]`` and y: ``[n, 1]``, unit coordinates of the pixel centres.
        pose: Positioning of this film.
        lungs: Side (-1, 1) -> lung.
        lung: Both lungs, soft mask ``[n, n]``.
        masks: Structure name -> soft mask ``[n, n]``, for tasks that need regions.
    """

    film: Film
    n: int
    y: np.ndarray = field(init=False)
    x: np.ndarray = field(init=False)
    pose: Pose = field(init=False)
    lungs: dict[int, Lung] = field(init=False)
    lung: np.ndarray = field(init=False)
    masks: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.x, self.y = _axis(self.n)[None, :], _axis(self.n)[:, None]
        self.pose = sample_pose(self.film, self.rng("pose"))
        self.lungs = {side: _lung(self, side) for side in (-1, 1)}
        self.lung = np.maximum(self.lungs[-1].mask, self.lungs[1].mask)
        self.masks["Lung"] = self.lung

    def rng(self, layer: str) -> np.random.Generator:
        """The random stream of one layer of this film."""
        return np.random.default_rng([self.film.seed, _STREAMS.index(layer)])

    def severity(self, finding: str) -> float:
        """Severity of a finding, 0 where it is not drawn."""
        return self.film.findings[finding].severity if finding in self.film.findings else 0.0

    @property
    def offset(self) -> np.ndarray:
        """Signed distance ``[1, n]`` from the midline, positive to the patient's left."""
        return self.x - self.pose.midline


def sides_of(finding: Finding) -> tuple[int, ...]:
    """The sides that a finding touches."""
    return (-1, 1) if finding.side == 0 else (finding.side,)


def _lung(scene: Scene, side: int) -> Lung:
    pose, person, edge = scene.pose, scene.film.anatomy, 1 / 0.006
    base = 0.83 + pose.inspiration + (0.0 if side < 0 else 0.025)
    collapse = scene.film.findings.get("Atelectasis")
    if collapse is not None and side in sides_of(collapse):
        base -= 0.05 * max(0.0, collapse.severity)  # volume loss lifts the diaphragm
    height = (scene.y - pose.apex) / (base - pose.apex)
    inside = np.clip(height, 1e-4, 1)
    outer = person.half_width * (1 + side * pose.rotation) * inside ** (0.25 + 0.05 * person.taper)
    notch = 0.0 if side < 0 else 0.012 * gauss(height, 0.25, 0.07)  # the aortic knob indents the left lung
    inner = 0.050 + 0.045 * inside + notch
    distance = side * scene.offset
    arch = np.sin(np.pi * np.clip((distance - 0.03) / (person.half_width - 0.02), 0, 1))
    sulcus = np.clip((distance - 0.62 * person.half_width) / (0.38 * person.half_width), 0, 1) ** 2
    floor = base - (0.055 * arch - 0.077 * sulcus)
    walls = sigmoid((outer - distance) * edge) * sigmoid((distance - inner) * edge)
    mask = walls * sigmoid((floor - scene.y) * edge) * sigmoid((scene.y - pose.apex) * edge)
    return Lung(side, mask, distance, height, base, floor, outer, inner)
