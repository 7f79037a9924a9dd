"""Renderer of the chest radiograph phantom: findings, devices, detector and positioning over the normal anatomy.

``render_film`` turns a ``Film`` into the uint8 image that a viewer would show. Each sign is drawn after its textbook
description; a radiologist would call the result schematic, and it is not meant to pass for a patient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from medgraft.benchmarks.phantoms.chest.anatomy import bones, mediastinum, soft_tissue, vessel_tree
from medgraft.benchmarks.phantoms.chest.scene import (
    FINDINGS,
    GENERATOR_VERSION,
    SETTINGS,
    Anatomy,
    ChestSetting,
    Film,
    Finding,
    Scene,
    blur,
    gauss,
    sample_anatomy,
    sides_of,
    sigmoid,
    smooth_noise,
    strokes,
)

__all__ = [
    "FINDINGS",
    "GENERATOR_VERSION",
    "SETTINGS",
    "Anatomy",
    "ChestSetting",
    "Film",
    "Finding",
    "Rendering",
    "render",
    "render_film",
    "sample_anatomy",
]

MIN_RENDER_SIZE = 192
"""Smaller films are drawn at this size and reduced: below it the pleural line and the fine vessels vanish."""

VISIBLE = 0.02
"""A finding of lower severity leaves no trace on the film."""


@dataclass(frozen=True)
class Rendering:
    """A rendered film.

    Attributes:
        image: ``[size, size]`` uint8, bright is dense.
        masks: Structure or finding -> boolean mask ``[size, size]`` on the same grid; empty unless asked for.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]


def render_film(film: Film, size: int) -> np.ndarray:
    """Renders a film as uint8 ``[size, size]``; the same film and size always give the same bytes."""
    return render(film, size).image


def render(film: Film, size: int, *, masks: bool = False) -> Rendering:
    """Renders a film and, if asked, the masks of what was drawn.

    Args:
        film: What to draw.
        size: Side of the image in pixels, at least 16.
        masks: Whether to return masks too.

    Returns:
        The image and its masks.
    """
    n = 4 * math.ceil(max(size, MIN_RENDER_SIZE) / 4)
    scene = Scene(film, n)
    value = _expose(scene, _density(scene))
    value = _position(scene, value, Image.Resampling.BICUBIC)
    value = _finish(scene, np.clip(value, 0, 1))
    layers = {}
    if masks:
        for name, mask in scene.masks.items():
            layers[name] = _resize(_position(scene, mask, Image.Resampling.BILINEAR), size) > 0.5
    return Rendering((255 * np.clip(_resize(value, size), 0, 1) + 0.5).astype(np.uint8), layers)


def _resize(layer: np.ndarray, size: int) -> np.ndarray:
    if layer.shape[0] == size:
        return layer
    return np.asarray(Image.fromarray(layer.astype(np.float32)).resize((size, size), Image.Resampling.BOX))


def _density(scene: Scene) -> np.ndarray:
    """Sum of all layers ``[n, n]``: anatomy, then findings, then what lies over the chest."""
    amplitude = _amplitude(scene)
    density, body = soft_tissue(scene)
    density += mediastinum(scene)
    vessels, vascular = vessel_tree(scene), scene.lung
    edema = max(0.0, scene.severity("Edema"))
    if scene.severity("Pneumothorax") > VISIBLE:
        layer, free_air = _pneumothorax(scene, amplitude)
        density += layer
        vascular = vascular * (1 - free_air)  # no vessel reaches beyond the visceral pleura
    density += 0.17 * (0.8 + 0.5 * edema) * vessels * vascular
    density += 0.012 * smooth_noise(scene.rng("texture"), scene.n, 26, 2) * scene.lung
    for finding, draw in _DRAWN.items():
        if scene.severity(finding) > VISIBLE:
            density += draw(scene, amplitude, vessels)
    density += bones(scene, body)
    if scene.film.devices:
        density += _devices(scene)
    return density


def _amplitude(scene: Scene) -> float:
    """How plainly the findings of this film show: harder settings have fainter ones."""
    hard = scene.film.setting.hard
    return (1.2 - 0.4 * hard) * math.exp(0.3 * hard * scene.rng("amplitude").normal(0, 0.5))


def _pneumothorax(scene: Scene, amplitude: float) -> tuple[np.ndarray, np.ndarray]:
    """Air in the pleural space: a dark rim, widest at the apex, behind the thin visceral line; returns the air too."""
    finding, rng = scene.film.findings["Pneumothorax"], scene.rng("Pneumothorax")
    lung, severity = scene.lungs[finding.side or 1], finding.severity
    gap = (0.02 + 0.12 * severity) * (np.clip(1 - lung.height, 0, 1) ** 0.7 + 0.12)
    edge = lung.outer - gap - 0.006 * smooth_noise(rng, scene.n, 2)
    rim = sigmoid((lung.distance - edge) / 0.004)
    cap = sigmoid((scene.pose.apex + 0.10 * severity + 0.012 - scene.y) / 0.004)
    air = lung.mask * np.maximum(rim, cap)
    line = np.exp(-(((lung.distance - edge) / 0.0035) ** 2)) * lung.mask * (scene.y > scene.pose.apex + 0.02)
    scene.masks["Pneumothorax"] = air
    collapsed = np.clip(lung.mask - air, 0, None)
    return 0.075 * (0.5 + 0.5 * severity) * line + 0.05 * severity * collapsed - 0.085 * amplitude * air, air


def _edema(scene: Scene, amplitude: float, vessels: np.ndarray) -> np.ndarray:
    """Perihilar haze, reticular interstitium and Kerley B lines; the engorged vessels are drawn with the tree."""
    del vessels
    severity, rng = scene.severity("Edema"), scene.rng("Edema")
    haze = gauss(np.abs(scene.offset), 0.15, 0.13) * gauss(scene.y, 0.52, 0.20)
    net = ndimage.gaussian_filter(np.abs(smooth_noise(rng, scene.n, 34, 2)), 0.6 * scene.n / 256, truncate=3)
    cloudy = 1 + 0.3 * smooth_noise(rng, scene.n, 9, 2)
    layer = amplitude * severity * scene.lung * (0.15 * haze * cloudy + 0.035 * (net - 0.7) * (0.6 + haze) + 0.035)
    for lung in scene.lungs.values():
        septa = np.sin(2 * np.pi * (scene.y + 0.02 * lung.distance) / 0.014) > 0.55
        near = gauss(lung.outer - lung.distance, 0, 0.035) * gauss(lung.height, 0.82, 0.10)
        layer += 0.035 * severity * septa * near * lung.mask
    scene.masks["Edema"] = 2 * severity * haze * scene.lung
    return layer


def _consolidation(scene: Scene, amplitude: float, vessels: np.ndarray) -> np.ndarray:
    """A fluffy airspace opacity in one zone, crossed by air bronchograms."""
    finding, rng = scene.film.findings["Consolidation"], scene.rng("Consolidation")
    size, patch = 0.055 + 0.085 * finding.severity, np.zeros_like(scene.lung)
    for side in sides_of(finding):
        y = (0.30, 0.47, 0.66)[finding.zone] + rng.normal(0, 0.03)
        x = side * (0.20 + rng.normal(0, 0.03))
        wide, high = size * rng.uniform(0.9, 1.3), size * rng.uniform(0.8, 1.2)
        radius = ((scene.offset - x) / wide) ** 2 + ((scene.y - y) / high) ** 2
        patch = np.maximum(patch, sigmoid((1 - radius + 0.35 * smooth_noise(rng, scene.n, 7, 3)) / 0.22))
    patch = patch * scene.lung
    scene.masks["Consolidation"] = patch
    return amplitude * (0.12 + 0.17 * finding.severity) * patch * (1 - 0.35 * (vessels > 0.25))


def _lesion(scene: Scene, amplitude: float, vessels: np.ndarray) -> np.ndarray:
    """A sharply outlined round nodule."""
    del vessels
    finding, rng = scene.film.findings["Lung Lesion"], scene.rng("Lung Lesion")
    x, y = (finding.side or 1) * rng.uniform(0.14, 0.30), rng.uniform(0.25, 0.65)
    radius = np.hypot(scene.offset - x, scene.y - y) / (0.014 + 0.035 * finding.severity)
    nodule = sigmoid((1 - radius) / 0.10) * scene.lung
    scene.masks["Lung Lesion"] = nodule
    return amplitude * (0.10 + 0.08 * finding.severity) * nodule


def _atelectasis(scene: Scene, amplitude: float, vessels: np.ndarray) -> np.ndarray:
    """Plate-like lines and a crowded base; the raised diaphragm is part of the lung geometry."""
    del vessels
    finding, rng = scene.film.findings["Atelectasis"], scene.rng("Atelectasis")
    severity, layer = finding.severity, np.zeros_like(scene.lung)
    width = 0.0035 + 0.006 * severity
    for side in sides_of(finding):
        lung = scene.lungs[side]
        for _ in range(1 + int(2.6 * severity)):
            level, slope = lung.base - rng.uniform(0.05, 0.16), rng.normal(0, 0.18)
            wave = 0.01 * np.sin(lung.distance * 20 + rng.uniform(0, 6))
            start, length = rng.uniform(0.06, 0.14), rng.uniform(0.10, 0.20)
            extent = sigmoid((lung.distance - start) / 0.01) * sigmoid((start + length - lung.distance) / 0.015)
            plate = np.exp(-(((scene.y - level - slope * (lung.distance - 0.2) - wave) / width) ** 2))
            layer = np.maximum(layer, plate * extent * lung.mask)
        crowded = gauss(lung.floor - scene.y, 0, 0.03 + 0.05 * severity) * sigmoid((0.26 - lung.distance) / 0.04)
        layer = np.maximum(layer, 0.75 * severity * crowded * lung.mask)
    scene.masks["Atelectasis"] = layer
    return amplitude * (0.10 + 0.11 * severity) * layer


def _effusion(scene: Scene, amplitude: float, vessels: np.ndarray) -> np.ndarray:
    """Pleural fluid: a meniscus that climbs the chest wall; lying down (AP) it also layers as a haze."""
    del vessels
    finding = scene.film.findings["Pleural Effusion"]
    severity, bedside = finding.severity, scene.film.view == "AP"
    fluid, haze = np.zeros_like(scene.lung), np.zeros_like(scene.lung)
    for side in sides_of(finding):
        lung = scene.lungs[side]
        climb = (0.03 + 0.32 * severity**1.3) * (0.45 + 0.55 * lung.across**2.2)
        level = lung.base + 0.005 - climb + 0.03 * (1 - severity)
        inside = sigmoid((lung.outer - lung.distance) / 0.006) * sigmoid((lung.distance - lung.inner) / 0.006)
        bottom = sigmoid((lung.base + 0.035 - scene.y) / 0.012)
        fluid = np.maximum(fluid, sigmoid((scene.y - level) / (0.04 if bedside else 0.010)) * inside * bottom)
        if bedside:
            haze += 0.05 * severity * lung.mask
    scene.masks["Pleural Effusion"] = fluid * (scene.lung + 0.4)
    return haze + amplitude * (0.22 + 0.12 * severity) * fluid * np.maximum(scene.lung, 0.35)


_DRAWN: dict[str, Callable[[Scene, float, np.ndarray], np.ndarray]] = {
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Lung Lesion": _lesion,
    "Atelectasis": _atelectasis,
    "Pleural Effusion": _effusion,
}


def _devices(scene: Scene) -> np.ndarray:
    """One to three of: central line, endotracheal tube, pacemaker, monitoring leads."""
    rng, layer = scene.rng("devices"), np.zeros((scene.n, scene.n), np.float32)
    kinds = (_central_line, _tracheal_tube, _pacemaker, _leads)
    for _ in range(int(rng.integers(1, 4))):
        layer += kinds[rng.integers(4)](scene, rng)
    return layer


def _central_line(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    side, lift = (-1, 1)[rng.integers(2)], rng.normal(0, 0.01)
    course = ((0.30, 0.12), (0.20, 0.17), (0.09, 0.20), (0.045, 0.30), (0.035, 0.44))
    return 0.22 * strokes(scene.n, [[(scene.pose.midline + side * x, y + lift) for x, y in course]], 0.0055)


def _tracheal_tube(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    mid = scene.pose.midline
    course = [(mid + rng.normal(0, 0.004), 0.0), (mid, 0.15), (mid + rng.normal(0, 0.006), 0.30 + rng.normal(0, 0.02))]
    return 0.16 * strokes(scene.n, [course], 0.010)


def _pacemaker(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    del rng
    mid = scene.pose.midline
    box = (np.abs(scene.offset - 0.24) / 0.055) ** 4 + (np.abs(scene.y - 0.24) / 0.042) ** 4
    lead = [(mid + 0.21, 0.27), (mid + 0.02, 0.32), (mid - 0.03, 0.50), (mid + 0.02, 0.70)]
    return 0.55 * sigmoid((1 - box) / 0.15) + 0.35 * strokes(scene.n, [lead], 0.007)


def _leads(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    mid, layer, cables = scene.pose.midline, np.zeros((scene.n, scene.n), np.float32), []
    for _ in range(3):
        x, y = mid + rng.normal(0, 0.22), rng.uniform(0.20, 0.75)
        layer += 0.35 * sigmoid((0.012 - np.hypot(scene.x - x, scene.y - y)) / 0.002)
        cables.append([(x, y), (x + rng.normal(0, 0.1), y + 0.15), (mid + rng.normal(0, 0.3), 1.0)])
    return layer + 0.12 * strokes(scene.n, cables, 0.004)


def _expose(scene: Scene, density: np.ndarray) -> np.ndarray:
    """Scatter, film shoulder, unsharpness, quantum noise and display window: values ``[n, n]`` in [0, 1]."""
    setting, rng, n = scene.film.setting, scene.rng("detector"), scene.n
    density = density + 0.015 * (setting.kv_shift + rng.normal())
    density = (1 - setting.scatter) * density + setting.scatter * blur(density, 0.05 * n)
    over = np.maximum(density - setting.shoulder, 0)
    density = np.minimum(density, setting.shoulder) + 0.30 * np.tanh(over / 0.30)
    density = ndimage.gaussian_filter(density, rng.uniform(0.35, 0.75) * n / 256, truncate=3)
    level = setting.noise * rng.uniform(0.006, 0.022) * (1.25 if scene.film.view == "AP" else 1.0)
    gamma = math.exp(setting.log_gamma + rng.normal(0, 0.16))
    # Dense parts pass fewer photons and are noisier; the factor n / 256 keeps the noise per area independent of n.
    level = 1.6 * level * n / 256 * np.exp(0.9 * np.clip(density, 0, 1.3) - 0.4)
    grain = rng.standard_normal((n, n), dtype=np.float32)
    density = density + level * ndimage.gaussian_filter(grain, 0.5, truncate=3)
    low, high = (float(q) for q in np.percentile(density[::4, ::4], (1.0, 99.5)))
    value = np.clip((density - low) / max(high - low, 1e-6), 0, 1)
    value = (1 - setting.s_curve) * value + setting.s_curve * value**2 * (3 - 2 * value)
    return value**gamma


def _position(scene: Scene, layer: np.ndarray, resample: Image.Resampling) -> np.ndarray:
    """Moves, tilts and magnifies the finished film, as an imperfectly placed patient would."""
    n, pose = scene.n, scene.pose
    cos = math.cos(math.radians(pose.tilt_degrees)) / pose.magnification
    sin = math.sin(math.radians(pose.tilt_degrees)) / pose.magnification
    x, y = n * (0.5 + pose.shift[0]), n * (0.5 + pose.shift[1])
    inverse = (cos, sin, n / 2 - cos * x - sin * y, -sin, cos, n / 2 + sin * x - cos * y)
    image = Image.fromarray(layer.astype(np.float32))
    return np.asarray(image.transform((n, n), Image.Transform.AFFINE, inverse, resample))


def _finish(scene: Scene, value: np.ndarray) -> np.ndarray:
    """Heel effect, collimation border and the lead letters that name the side or the view."""
    rng, n = scene.rng("finish"), scene.n
    value = value * (1 - 0.12 * ((scene.x - 0.5) ** 2 + (scene.y - 0.5) ** 2))
    border = int(rng.uniform(0, 0.035) * n) if rng.random() < 0.35 else 0
    if border:
        value[:, :border] = 0
        value[:, n - border :] = 0
    if rng.random() < 0.8:
        bedside = scene.film.view == "AP" and rng.random() < 0.2
        value = np.maximum(value, 0.92 * strokes(n, _LETTERS["AP" if bedside else "L"], 0.006))
    return value


# Lead letters in unit coordinates, at the upper right corner of the film: the patient's left.
_LETTERS = {
    "L": [[(0.90, 0.06), (0.90, 0.095), (0.92, 0.095)]],
    "AP": [
        [(0.875, 0.095), (0.8875, 0.06), (0.90, 0.095)],
        [(0.88, 0.083), (0.895, 0.083)],
        [(0.91, 0.095), (0.91, 0.06), (0.925, 0.06), (0.925, 0.078), (0.91, 0.078)],
    ],
}
