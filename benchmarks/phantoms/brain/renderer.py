"""Renderer of T1-weighted brain phantoms: one warp of a template, then a scanner.

Three things decide the warp: the subject's own anatomy (a smooth random field, the same at every visit), the pose of
the visit, and the three atrophy latents along the template's displacement fields. Atrophy also turns part of the
hippocampal shell and of the gyral crowns into CSF. The scanner then sets contrast, bias field, blur and Rician noise.
Images are skull-stripped, as the template is, and in MNI space, where heads are larger than life (ICV about 2 l).

Tell-tales of a phantom: the folds are one average brain's, there are no lesions, and the ventricles keep their shape.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medgraft.benchmarks.phantoms.brain.latents import (
    SETTINGS,
    STREAM_AGEING,
    STREAM_ANATOMY,
    STREAM_VISIT,
    BrainSetting,
    Scanner,
    bayes_macro_f1,
    draw_ageing,
    get_setting,
    make_scanners,
)
from medgraft.benchmarks.phantoms.brain.template import (
    CENTRE,
    GENERATOR_VERSION,
    STRUCTURES,
    BrainTemplate,
    load_template,
)
from medgraft.errors import ConfigError

__all__ = [
    "AGEING_TARGETS",
    "GENERATOR_VERSION",
    "SETTINGS",
    "Anatomy",
    "BrainRenderer",
    "BrainSetting",
    "bayes_macro_f1",
    "brain_renderer",
    "check_seed",
    "generate_ageing",
    "one_thread",
    "subject_anatomy",
    "visit_rng",
    "worker_pool",
]

Array = NDArray[Any]

AGEING_TARGETS = ("hippocampus_icv", "ventricles_icv", "brain_icv", "icv", "age", "sex")
UINT8_PER_UNIT = 160.0
"""Grey values of the uint8 volumes per intensity unit; 1 unit is about the brightest tissue before the gamma curve."""

# Displacement in mm at zero atrophy, and per SD of the latent, in the order of STRUCTURES.
_FIELD_OFFSET, _FIELD_SLOPE = (0.20, 0.0, 0.05), (0.95, 0.32, 0.24)
_WARP_CONTROL = (((5, 6, 5), 2.2), ((12, 14, 12), 0.65))  # control points, SD in mm
_POSE_DEGREES, _POSE_MM = 2.0, 1.2


@dataclass(frozen=True)
class Anatomy:
    """What makes one subject's brain its own, at every visit.

    Attributes:
        warp: Displacement at the renderer's points, mm, ``[3, P]``.
        scale: Head size per axis relative to the template, ``[3]``.
    """

    warp: Tensor
    scale: Array


class BrainRenderer:
    """Renders volumes on one output grid; not tied to a setting or a seed.

    Attributes:
        shape: Output grid ``(x, y, z)``, axes to the right, front and top (RAS).
        affine: Voxel to MNI mm, ``[4, 4]``.
        spacing: Edge of a voxel, mm.
    """

    def __init__(self, template: BrainTemplate) -> None:
        """Unpacks the template into float tensors (about 180 MB)."""
        self.spacing, self.shape, self.affine = template.spacing, template.shape, template.affine
        self._coarse = tuple(max(2, n // 3) for n in self.shape)
        self._points = torch.from_numpy(template.points.astype(np.int64))
        grid = np.stack(np.unravel_index(template.points, self.shape))
        mm = grid * self.spacing + self.affine[:3, 3:]
        self._mm = torch.from_numpy((mm - CENTRE[:, None]).astype(np.float32))
        self._basis = torch.from_numpy(template.basis.astype(np.float32))
        self._table = torch.from_numpy(template.table).float()
        self._table[:, 1:] /= 255.0
        self._table_shape = template.table_shape
        self._to_table = torch.from_numpy((CENTRE - template.table_origin).astype(np.float32))
        self._csf = template.means["csf"] - 15.0

    def anatomy(self, rng: np.random.Generator, female: bool) -> Anatomy:
        """Draws a subject's smooth deformation and head size."""
        size = (0.965 if female else 1.035) + 0.02 * rng.standard_normal()
        scale = size * (1 + 0.025 * rng.standard_normal(3))
        warp = sum(self._smooth_noise(rng, control, sd, 3) for control, sd in _WARP_CONTROL)
        assert isinstance(warp, Tensor)
        return Anatomy(self._at_points(warp), scale)

    def render(
        self, rng: np.random.Generator, anatomy: Anatomy, atrophy: tuple[float, float, float], scanner: Scanner
    ) -> tuple[Array, dict[str, float]]:
        """Renders one visit.

        Args:
            rng: Pose, bias field and noise of this visit.
            anatomy: The subject's, from :meth:`anatomy`.
            atrophy: Hippocampus, ventricles, sulci; 0 for a healthy 74-year-old, in SDs.
            scanner: Where the visit takes place.

        Returns:
            The image, ``float32 [x, y, z]`` of ``shape``, 0 outside the brain and about 0..1.5 inside; and the true
            volumes in mm3 as ``Hippocampus``, ``Ventricles``, ``WholeBrain``, ``ICV``.
        """
        hippocampus, _, sulci = atrophy
        t1, gm, wm, shell, crown, hippocampus_map, ventricle_map, head = self._sample(
            self._pull_back(rng, anatomy, atrophy)
        ).unbind(1)
        image = t1 + gm * scanner.gm + wm * scanner.wm
        loss = (0.11 * max(hippocampus, -1.0) * shell).clamp_(-0.2, 0.8)
        loss += (0.05 * max(sulci, -1.0) * crown).clamp_(-0.2, 0.6)
        image += loss.clamp(min=-0.1) * (self._csf - image) * (t1 > 0)
        image = self._scan(rng, image, scanner) * (t1 > 12)
        out = torch.zeros(self.shape)
        out.view(-1)[self._points] = image
        voxel = self.spacing**3
        volumes = {
            "Hippocampus": (hippocampus_map - loss.clamp(min=0) * shell).clamp_(min=0),
            "Ventricles": ventricle_map,
            "WholeBrain": gm + wm,
            "ICV": head,
        }
        return out.numpy(), {name: float(part.sum(dtype=torch.float64)) * voxel for name, part in volumes.items()}

    def _pull_back(
        self, rng: np.random.Generator, anatomy: Anatomy, atrophy: tuple[float, float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Template position of every output point, in table voxels, one tensor per axis."""
        angles = np.deg2rad(_POSE_DEGREES * rng.standard_normal(3))
        shift = _POSE_MM * rng.standard_normal(3)
        matrix = _rotation(angles) / anatomy.scale
        amounts = dict(zip(("hippocampus", "ventricles", "sulci"), atrophy, strict=True))
        x, y, z = self._mm
        out = []
        for axis in range(3):
            a, b, c = (float(value) for value in matrix[axis])
            position = a * x + b * y + c * z + (float(shift[axis]) + float(self._to_table[axis]))
            position += anatomy.warp[axis]
            for name, offset, slope, field in zip(STRUCTURES, _FIELD_OFFSET, _FIELD_SLOPE, self._basis, strict=True):
                position += (offset + slope * amounts[name]) * field[axis]
            out.append(position)
        return out[0], out[1], out[2]

    def _sample(self, position: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """All template channels at fractional table positions, trilinear, ``[P, 8]``.

        The eight corners of a point are eight rows of the table, so an embedding bag with the trilinear weights is the
        interpolation; with the channels last it reads a fraction of the cache lines that ``grid_sample`` does.
        """
        base, upper = [], []
        for values, n in zip(position, self._table_shape, strict=True):
            values = values.clamp_(0, n - 1.001)
            floor = values.floor()
            base.append(floor.to(torch.int32))
            upper.append(values - floor)
        stride_x, stride_y = self._table_shape[1] * self._table_shape[2], self._table_shape[2]
        first = base[0] * stride_x + base[1] * stride_y + base[2]
        index = first.new_empty((len(first), 8))
        weight = upper[0].new_empty((len(first), 8))
        lower = [1 - part for part in upper]
        for corner in range(8):
            i, j, k = corner >> 2 & 1, corner >> 1 & 1, corner & 1
            index[:, corner] = first + (i * stride_x + j * stride_y + k)
            weight[:, corner] = (upper if i else lower)[0] * (upper if j else lower)[1] * (upper if k else lower)[2]
        return F.embedding_bag(index, self._table, mode="sum", per_sample_weights=weight)

    def _scan(self, rng: np.random.Generator, image: Tensor, scanner: Scanner) -> Tensor:
        """Contrast, bias field, point spread and Rician noise at the points."""
        bias = self._at_points(self._smooth_noise(rng, (3, 3, 3), scanner.bias, 1))[0]
        image = (image / 230.0).clamp_(min=0).pow_(scanner.gamma) * bias.exp_() * scanner.gain
        if scanner.blur > 0:
            dense = torch.zeros(self.shape)
            dense.view(-1)[self._points] = image
            image = _three_tap(dense, scanner.blur).view(-1)[self._points]
        noise = torch.from_numpy(rng.standard_normal((2, len(image)), dtype=np.float32)) * scanner.noise
        return torch.hypot(image + noise[0], noise[1])

    def _smooth_noise(self, rng: np.random.Generator, control: tuple[int, int, int], sd: float, n: int) -> Tensor:
        """Smooth random field, ``n`` channels, standard deviation ``sd``, at a third of the resolution."""
        knots = torch.from_numpy(rng.standard_normal((1, n, *control)).astype(np.float32))
        field = F.interpolate(knots, size=self._coarse, mode="trilinear", align_corners=True)
        field = F.avg_pool3d(field, 3, 1, 1, count_include_pad=False)[0]
        return field * (sd / field.std())

    def _at_points(self, field: Tensor) -> Tensor:
        """A coarse field ``[n, ...]`` at the points, ``[n, P]``."""
        dense = F.interpolate(field[None], size=self.shape, mode="trilinear", align_corners=True)[0]
        return dense.flatten(1).index_select(1, self._points)


def _rotation(angles: Array) -> Array:
    """Rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _three_tap(volume: Tensor, side: float) -> Tensor:
    """Separable blur with weights (side, 1, side), normalised; zeros beyond the border."""
    for axis in range(3):
        n = volume.shape[axis]
        blurred = volume.clone()
        blurred.narrow(axis, 1, n - 1).add_(volume.narrow(axis, 0, n - 1), alpha=side)
        blurred.narrow(axis, 0, n - 1).add_(volume.narrow(axis, 1, n - 1), alpha=side)
        volume = blurred.div_(1 + 2 * side)
    return volume


@lru_cache(maxsize=1)
def brain_renderer(spacing: float = 3.0, cache_dir: Path | None = None) -> BrainRenderer:
    """The renderer of one spacing; the last one asked for is kept in memory."""
    return BrainRenderer(load_template(spacing, cache_dir))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread and restores the former number: sums then add up in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_seed(seed: int) -> None:
    """Refuses seeds that would not be one word of a generator's key.

    Raises:
        ConfigError: ``seed`` is outside 0..2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed {seed} is out of range; use 0 to 2^32 - 1")


def _start_worker(spacing: float, cache_dir: Path | None) -> None:
    torch.set_num_threads(1)
    brain_renderer(spacing, cache_dir)


def worker_pool(jobs: int, spacing: float, cache_dir: Path | None) -> ProcessPoolExecutor:
    """A pool of fresh processes that each hold the renderer; the template is prepared here, once, before they start."""
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}; it must be 1 or more")
    load_template(spacing, cache_dir)
    # A forked copy of a process that runs threads (torch does) may deadlock: start clean ones.
    method = "forkserver" if os.name == "posix" else "spawn"
    return ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context(method), initializer=_start_worker, initargs=(spacing, cache_dir)
    )


def subject_anatomy(renderer: BrainRenderer, seed: int, index: int, female: bool) -> Anatomy:
    """Anatomy of subject ``index`` of the cohort of ``seed``; the same whenever it is asked for."""
    return renderer.anatomy(np.random.default_rng([seed, STREAM_ANATOMY, index]), female)


def visit_rng(seed: int, index: int, month: int) -> np.random.Generator:
    """Random numbers of one visit's image."""
    return np.random.default_rng([seed, STREAM_VISIT, index, month])


def _render_ageing(args: tuple[int, int, BrainSetting, float, Path | None]) -> tuple[Array, Array]:
    """One healthy-ageing subject: uint8 volume and its six targets."""
    index, seed, setting, spacing, cache_dir = args
    renderer = brain_renderer(spacing, cache_dir)
    rng = np.random.default_rng([seed, STREAM_AGEING, index])
    age, female, atrophy = draw_ageing(rng, setting)
    scanners = make_scanners(setting)
    scanner = scanners[int(rng.integers(len(scanners)))]
    image, v = renderer.render(rng, renderer.anatomy(rng, female), atrophy, scanner)
    icv = v["ICV"]
    ratios = [v["Hippocampus"] / icv, v["Ventricles"] / icv, v["WholeBrain"] / icv]
    targets = np.array([*ratios, icv, age, float(female)], dtype=np.float32)
    return np.clip(np.rint(image * UINT8_PER_UNIT), 0, 255).astype(np.uint8), targets


def generate_ageing(
    n: int,
    seed: int,
    setting: str | BrainSetting = "pretrain",
    spacing: float = 3.0,
    jobs: int = 1,
    cache_dir: Path | None = None,
) -> tuple[Array, Array, tuple[str, ...]]:
    """Renders a healthy-ageing population for pre-training an encoder: no diagnosis anywhere in it.

    Args:
        n: Number of subjects, one volume each.
        seed: Subject ``i`` depends on ``seed`` and ``i`` only.
        setting: Scanners, and the ages between which subjects are drawn (``ageing_range``).
        spacing: Edge of a voxel, mm; 3 gives 64 x 80 x 64.
        jobs: Processes; more than 1 needs the caller's script to guard its entry with ``if __name__ == "__main__"``.
        cache_dir: Folder of the prepared template; None for the user's cache.

    Returns:
        Volumes uint8 ``[n, x, y, z]`` (RAS, 160 per intensity unit, 0 outside the brain); targets float32 ``[n, 6]``
        in natural units (three volumes over ICV, ICV in mm3, age in years, sex 1 = female); ``AGEING_TARGETS``.
    """
    setting = get_setting(setting)
    if n < 1:
        raise ConfigError(f"n is {n}; a population has 1 or more subjects")
    check_seed(seed)
    tasks = [(index, seed, setting, spacing, cache_dir) for index in range(n)]
    targets = np.empty((n, len(AGEING_TARGETS)), dtype=np.float32)
    with contextlib.ExitStack() as stack:
        if jobs == 1:
            stack.enter_context(one_thread())
            results: Iterator[tuple[Array, Array]] = map(_render_ageing, tasks)
        else:
            results = stack.enter_context(worker_pool(jobs, spacing, cache_dir)).map(_render_ageing, tasks, chunksize=8)
        shape = brain_renderer(spacing, cache_dir).shape
        volumes = np.empty((n, *shape), dtype=np.uint8)
        for index, (volume, target) in enumerate(results):
            volumes[index], targets[index] = volume, target
    return volumes, targets, AGEING_TARGETS
