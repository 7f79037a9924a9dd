"""Normal anatomy of the chest phantom: soft tissue, mediastinum, heart, vessels and bones, each a density layer."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medgraft.benchmarks.phantoms.chest.scene import Points, Scene, blur, gauss, sigmoid, smooth_noise, strokes


def soft_tissue(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Trunk, neck and abdomen less the air in the lungs: ``density, body``, ``[n, n]``; ``body`` is a soft mask."""
    pose, y, lateral = scene.pose, scene.y, np.abs(scene.offset)
    shoulder = 0.13 + 0.25 * lateral**1.6
    half = 0.47 + 0.03 * pose.habitus + 0.02 * np.tanh((y - 0.5) * 3)
    body = sigmoid((half - lateral) / 0.012) * sigmoid((y - shoulder * 0.35 + 0.02) / 0.02)
    neck = sigmoid((0.115 - lateral) / 0.012) * sigmoid((0.14 - y) / 0.02)
    density = (0.62 + 0.05 * pose.habitus) * np.clip(body + neck, 0, 1) + 0.30 * np.clip(lateral - 0.36, 0, 1)
    for lung in scene.lungs.values():
        across = lung.across
        air = np.clip(4 * across * (1 - across), 0, 1) ** 0.35 * (0.75 + 0.25 * np.clip(lung.height, 0, 1))
        density -= 0.50 * pose.contrast * lung.mask * air
    density += 0.10 * sigmoid((y - (0.84 + pose.inspiration)) / 0.02)
    density += pose.clutter * smooth_noise(scene.rng("tissue"), scene.n, 3, 3, 0.6) * body  # folds, clothes, bedding
    return density, body


def mediastinum(scene: Scene) -> np.ndarray:
    """Spine, great vessels, aortic knob, trachea, heart and hila, ``[n, n]``."""
    pose, x, y, offset = scene.pose, scene.x, scene.y, scene.offset
    widening = scene.severity("Enlarged Cardiomediastinum")
    spine = gauss(x, pose.midline + 0.2 * pose.rotation, 0.036) * (1 - 0.45 * sigmoid((y - 0.5) / 0.05))
    density = 0.13 * spine * (1 + 0.10 * np.sin(2 * np.pi * y / 0.062)) * sigmoid((y - 0.03) / 0.02)
    knob = ((offset - 0.065 - 0.02 * widening) / 0.032) ** 2 + ((y - 0.30) / 0.036) ** 2
    density += 0.17 * (0.6 + 0.006 * scene.film.anatomy.age + 0.4 * widening) * np.exp(-(knob**2))
    density -= 0.13 * gauss(offset, 0.1 * pose.rotation, 0.014) * sigmoid((0.36 - y) / 0.03)
    half = (0.062 + 0.012 * (scene.film.view == "AP") + 0.030 * widening) * (1 + 0.25 * np.clip(y - 0.35, 0, 1))
    vessels = sigmoid((half - np.abs(offset)) / 0.010) * sigmoid((0.80 - y) / 0.03) * sigmoid((y - 0.09) / 0.03)
    density += np.maximum(0.21 * vessels, _heart(scene))
    for side in (-1, 1):
        density += 0.10 * gauss(offset, side * 0.105, 0.045) * gauss(y, 0.45, 0.07)
    return density


def _heart(scene: Scene) -> np.ndarray:
    """The heart: the cardiothoracic ratio sets its transverse width, two thirds of it left of the midline."""
    pose, enlarged, offset = scene.pose, scene.severity("Cardiomegaly"), scene.offset
    width = (pose.heart_ratio + 0.135 * enlarged) * 2 * scene.film.anatomy.half_width
    left, right = 0.70 * width, 0.30 * width
    up = (scene.y - (0.665 + pose.inspiration)) / (0.165 * (1 + 0.35 * enlarged) + 0.01)
    lean = 0.16 * left * np.clip(up, -1, 1) * (offset > 0)  # the apex points down and to the left
    across = (offset - lean) / np.where(offset > 0, left, right)
    radius = np.sqrt(across**2 + up**2)
    mask = sigmoid((1 - radius) / 0.035) * sigmoid((0.86 + pose.inspiration - scene.y) / 0.03)
    scene.masks["Heart"] = mask
    return 0.27 * mask * (0.6 + 0.4 * np.sqrt(1 - np.clip(radius, 0, 1) ** 2))


def vessel_tree(scene: Scene) -> np.ndarray:
    """The patient's pulmonary vessels as a layer ``[n, n]`` in [0, 1]; edema engorges and blurs them."""
    edema, n, rng = scene.severity("Edema"), scene.n, np.random.default_rng(scene.film.anatomy.vessel_seed)
    fan = np.linspace(-1.25, 1.3, 6)
    angle = np.concatenate([np.pi - fan, fan]) + rng.normal(0, 0.1, 12)
    x = scene.pose.midline + 0.095 * np.repeat([-1.0, 1.0], 6)
    y = 0.45 + 0.03 * np.sin(np.tile(fan, 2))
    length, width, levels = rng.uniform(0.075, 0.11, 12), 0.0095 * (1 + 0.45 * edema), []
    for _ in range(5):
        xs, ys = [x], [y]
        for _ in range(3):
            angle = angle + rng.normal(0, 0.12, len(angle))
            x, y = x + length / 3 * np.cos(angle), y + length / 3 * np.sin(angle)
            xs.append(x)
            ys.append(y)
        levels.append((np.stack([xs, ys]) * 2 * n, width))  # [2, 4, branches]
        turn = rng.uniform(0.25, 0.55, (2, len(angle))) * np.array([[-1.0], [1.0]])
        length = (length * rng.uniform(0.62, 0.85, (2, len(angle)))).ravel()
        angle, x, y, width = (angle + turn).ravel(), np.tile(x, 2), np.tile(y, 2), 0.70 * width
    image = Image.new("L", (2 * n, 2 * n), 0)
    draw = ImageDraw.Draw(image)
    for points, width in reversed(levels):  # thick branches last: a fine one never cuts through them
        fill, pixels = int(255 * min(1.0, 0.35 + width * 55)), max(1, round(width * 2 * n))
        for branch in points.transpose(2, 1, 0).reshape(points.shape[2], -1).tolist():
            draw.line(branch, fill=fill, width=pixels)
    layer = np.asarray(image.reduce(2), np.float32) / 255
    return ndimage.gaussian_filter(layer, (0.5 + 0.9 * max(0.0, edema)) * n / 256, truncate=3)


def bones(scene: Scene, body: np.ndarray) -> np.ndarray:
    """Ribs, clavicles, scapulae and, in women, the breasts, ``[n, n]``."""
    n, rng, person, y = scene.n, scene.rng("bones"), scene.film.anatomy, scene.y
    posterior, anterior = _ribs(scene)
    rib = strokes(n, posterior, 0.0185) + 0.42 * strokes(n, anterior, 0.021)
    cortex = np.clip(rib - 0.55 * blur(rib, 0.008 * n), 0, 2)  # the edge of a rib is denser than its middle
    density = 0.115 * person.bone * blur(cortex, 0.0016 * n) * body
    u, clavicles = np.linspace(0, 1, 16), []
    for side in (-1, 1):
        height = 0.165 + 0.3 * side * scene.pose.rotation + rng.normal(0, 0.01)
        level = height - 0.055 * u + 0.018 * np.sin(2 * np.pi * u)
        x = scene.pose.midline + side * (0.045 + 0.33 * u)
        clavicles.append(list(zip(x.tolist(), level.tolist(), strict=True)))
        lateral = np.abs(side * scene.offset - 0.40)
        density += 0.06 * sigmoid((0.055 - lateral) / 0.01) * sigmoid((y - 0.17) / 0.02) * sigmoid((0.42 - y) / 0.03)
        if person.sex:
            radius = ((scene.offset - side * 0.21) / 0.17) ** 2 + ((y - 0.66) / 0.16) ** 2
            density += 0.055 * sigmoid((1 - radius) / 0.25) * (1 + 0.3 * scene.pose.habitus)
    shaft, marrow = strokes(n, clavicles, 0.024), strokes(n, clavicles, 0.010)
    return density + person.bone * (0.13 * blur(shaft, 0.0025 * n) - 0.05 * blur(marrow, 0.002 * n))


def _ribs(scene: Scene) -> tuple[list[Points], list[Points]]:
    """Nine posterior and seven anterior rib arcs per side, as polylines."""
    pose, person, posterior, anterior = scene.pose, scene.film.anatomy, [], []
    full, front = np.linspace(0, 1, 14), np.linspace(0.25, 1, 10)
    for side in (-1, 1):
        for i in range(9):
            top = pose.apex + 0.005 + i * 0.083
            reach = (person.half_width + 0.012) * ((i + 0.55) / 9) ** 0.22 - 0.02
            x = pose.midline + side * (0.035 + reach * np.sin(full * np.pi / 2))
            y = top + 0.375 * person.rib_tilt * (1 - np.cos(full * np.pi / 2)) - 0.018 * np.sin(full * np.pi)
            posterior.append(list(zip(x.tolist(), y.tolist(), strict=True)))
            if i < 7:
                x = pose.midline + side * (0.035 + reach * np.sin(front * np.pi / 2))
                y = top + 0.195 + 0.30 * person.rib_tilt - 0.13 * front**2
                anterior.append(list(zip(x.tolist(), y.tolist(), strict=True)))
    return posterior, anterior
