"""Template channels of the brain phantom, made from the ICBM152 average brain that the nilearn wheel carries.

The template is the MNI ICBM152 2009a nonlinear symmetric average (T1, grey and white matter, 1 mm; Copyright (C)
1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University). Cite
V. S. Fonov et al., "Unbiased nonlinear average age-appropriate brain templates from birth to adulthood", NeuroImage 47,
2009, S102. Nothing of it is copied into this project: the files are read from the installed nilearn.

Three structures are derived from it without an atlas: the lateral ventricles (dark, deep voxels), the hippocampus (a
tube along its long axis, cut by grey matter; approximate) and the sulci (superficial CSF). Each gives one displacement
field, the normalised gradient of its smoothed mask: following it grows or shrinks that structure and little else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

GENERATOR_VERSION = "brain-1"
"""Part of every cache key and result: a change of the generator makes older numbers incomparable."""

_SHA256 = {
    "t1": "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
    "gm": "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed",
    "wm": "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db",
}
_FILENAME = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
CHANNELS = ("t1", "gm", "wm", "hippocampal_shell", "gyral_crown", "hippocampus", "ventricles", "head")
STRUCTURES = ("ventricles", "hippocampus", "sulci")

BOX_LOW = np.array([-96.0, -132.0, -90.0])
BOX_EXTENT = np.array([192.0, 224.0, 192.0])
CENTRE = np.array([0.0, -18.0, 5.0])
"""Point (MNI mm) that head size and head pose turn about."""

# The long axis of the right hippocampus, head to tail (MNI mm), and the tube's radius at each point (mm).
_HIPPOCAMPAL_AXIS = np.array(
    [[24, -7, -21], [28, -13, -20], [30, -20, -15.5], [31, -27, -11], [29, -33, -6], [23, -38, 0]], dtype=float
)
_HIPPOCAMPAL_RADIUS = np.array([6.5, 6.5, 5.8, 5.0, 4.6, 4.0])

# Where a head can reach: the template's head, this much larger and then this many mm wider. Of the 1.5 % largest heads
# up to 34 edge voxels (of 75,000 at 3 mm) fall outside and are cut, as by a tight field of view.
_REACH_SCALE, _REACH_MM = 1.12, 9.0

Array = NDArray[Any]


@dataclass(frozen=True)
class BrainTemplate:
    """What the renderer needs, for one output spacing.

    Attributes:
        spacing: Edge of an output voxel, mm.
        shape: Output grid ``(x, y, z)``; each a multiple of 16.
        affine: Voxel to MNI mm of the output grid, ``[4, 4]``.
        table: Anti-aliased template channels at 1 mm, channel last, uint8 ``[voxels, 8]`` in the order of ``CHANNELS``;
            T1 in template units 0..255, the others 0..255 for 0..1. One layer of zeros surrounds the head.
        table_shape: Grid of ``table``.
        table_origin: MNI mm of the table's first voxel, ``[3]``.
        points: Flat indices of the output voxels that a head can reach, ``[P]``.
        basis: Displacement field of each of ``STRUCTURES`` at ``points``, ``[3, 3, P]`` (structure, axis, point), about
            unit length at its steepest place.
        means: Mean T1 intensity of ``gm``, ``wm`` and ``csf``, template units.
    """

    spacing: float
    shape: tuple[int, int, int]
    affine: Array
    table: Array
    table_shape: tuple[int, int, int]
    table_origin: Array
    points: Array
    basis: Array
    means: dict[str, float]


def default_cache_dir() -> Path:
    """Where prepared templates go if nobody says: ``$XDG_CACHE_HOME/medgraft`` or ``~/.cache/medgraft``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "medgraft"


def load_template(spacing: float = 3.0, cache_dir: Path | None = None) -> BrainTemplate:
    """Template for one output spacing: from the cache, or prepared (some seconds) and then cached.

    Args:
        spacing: Edge of an output voxel in mm, 1..8.
        cache_dir: Folder of the cached file; None for :func:`default_cache_dir`. A folder that cannot be written
            to costs the preparation at every start, nothing else; a damaged cache file is rebuilt.

    Raises:
        ConfigError: ``spacing`` is out of range.
        DataError: nilearn is missing, or its template files are not the expected ones.
    """
    if not 1.0 <= spacing <= 8.0:
        raise ConfigError(f"spacing {spacing} mm is out of range; the brain phantom renders 1 to 8 mm")
    path = Path(cache_dir or default_cache_dir()) / f"{GENERATOR_VERSION}-template-{spacing:g}mm.npz"
    if path.is_file():
        try:
            return _from_npz(path)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("rebuilding the damaged template cache %s (%s)", path, error)
    template = prepare_template(spacing)
    try:
        _to_npz(template, path)
    except OSError as error:
        logger.warning("the brain template is not cached: %s", error)
    return template


def template_t1() -> tuple[Array, Array]:
    """The T1 of the average brain, skull-stripped, 0..255 at 1 mm, ``[x, y, z]``; and its affine from voxel to MNI mm.

    Raises:
        DataError: nilearn is missing, or its template files are not the expected ones.
    """
    anatomy, affine = _read_sources()
    return anatomy["t1"], affine


def prepare_template(spacing: float) -> BrainTemplate:
    """Derives the channels and displacement fields from nilearn's files, without any cache."""
    from scipy import ndimage

    anatomy, affine = _read_sources()
    axes = [np.arange(anatomy["t1"].shape[k], dtype=np.float32) * affine[k, k] + affine[k, 3] for k in range(3)]
    mm = list(np.meshgrid(*axes, indexing="ij", sparse=True))
    t1, gm, wm = anatomy["t1"], anatomy["gm"] / 255, anatomy["wm"] / 255
    brain = np.asarray(ndimage.binary_fill_holes(t1 > 0))
    csf = np.clip(brain - gm - wm, 0, 1)
    depth = _depth(brain)
    hippocampus = _hippocampus(anatomy["gm"], axes)
    ventricles = _ventricles(t1, brain, depth, mm)
    sulci = csf * (depth < 14)
    weight = _thinning_weight(mm)
    shell = _shell(hippocampus, 1.8)
    crown = gm * ndimage.gaussian_filter(sulci, 1.5) * weight
    channels = {
        "t1": t1,
        "gm": gm,
        "wm": wm,
        "hippocampal_shell": np.clip(ndimage.gaussian_filter(shell, 0.7), 0, 1),
        "gyral_crown": np.clip(crown / np.percentile(crown[crown > 0.02], 95), 0, 1),
        "hippocampus": hippocampus,
        "ventricles": ventricles,
        "head": np.clip(gm + wm + csf, 0, 1),
    }
    # Positive amounts of atrophy grow the ventricles, shrink the hippocampus and widen the sulci. The renderer pulls
    # intensities from x + field(x), so a field that points into a structure makes it larger.
    fields = (
        _unit_gradient(ndimage.gaussian_filter(mask, width), amount)
        for mask, width, amount in ((ventricles, 5.0, 1.0), (hippocampus, 2.6, -1.0), (sulci, 2.0, weight))
    )
    means = {name: float((t1 * tissue).sum() / tissue.sum()) for name, tissue in (("gm", gm), ("wm", wm), ("csf", csf))}
    return _on_output_grid(spacing, channels, fields, np.array([axis[0] for axis in axes]), means)


def _on_output_grid(
    spacing: float, channels: dict[str, Array], fields: Iterable[list[Array]], origin: Array, means: dict[str, float]
) -> BrainTemplate:
    """Anti-aliases the channels, finds the reachable output voxels and samples the fields there."""
    from scipy import ndimage

    shape = (int(np.ceil(BOX_EXTENT[0] / spacing / 16) * 16), int(np.ceil(BOX_EXTENT[1] / spacing / 16) * 16),
             int(np.ceil(BOX_EXTENT[2] / spacing / 16) * 16))  # fmt: skip
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = BOX_LOW + 0.5 * spacing
    grid = np.stack(np.meshgrid(*(np.arange(n) * spacing + affine[k, 3] for k, n in enumerate(shape)), indexing="ij"))
    grid = grid.reshape(3, -1)

    distance = _depth(channels["head"] < 0.02)
    shrunk = (grid - CENTRE[:, None]) / _REACH_SCALE + CENTRE[:, None] - origin[:, None]
    reach = ndimage.map_coordinates(distance, shrunk, order=1, mode="nearest")
    edge = np.clip(shrunk, 0, np.array(distance.shape)[:, None] - 1)
    points = np.flatnonzero(reach + np.linalg.norm(shrunk - edge, axis=0) < _REACH_MM)
    at = grid[:, points] - origin[:, None]
    basis = np.stack([[ndimage.map_coordinates(part, at, order=1) for part in field] for field in fields])

    sigma = max(0.0, 0.35 * (spacing - 1.0))
    x, y, z = channels["t1"].shape
    table = np.zeros((x + 2, y + 2, z + 2, len(CHANNELS)), dtype=np.uint8)
    for k, name in enumerate(CHANNELS):
        smooth = ndimage.gaussian_filter(channels[name], sigma) if sigma > 0.2 else channels[name]
        levels = np.rint(smooth * (1.0 if name == "t1" else 255.0))
        table[1:-1, 1:-1, 1:-1, k] = np.clip(levels, 0, 255)
    return BrainTemplate(
        spacing=spacing,
        shape=shape,
        affine=affine,
        table=table.reshape(-1, len(CHANNELS)),
        table_shape=(x + 2, y + 2, z + 2),
        table_origin=origin - 1.0,
        points=points.astype(np.int32),
        basis=basis.astype(np.float16),
        means=means,
    )


def _read_sources() -> tuple[dict[str, Array], Array]:
    """T1, GM and WM in 0..255, cropped to the head with a margin, and the affine of the crop."""
    import nibabel as nib

    volumes, affine = {}, np.eye(4)
    for name, digest in _SHA256.items():
        path = _locate(_FILENAME.format(name))
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DataError(
                f"{path} is not the ICBM152 2009a file that generator {GENERATOR_VERSION} was built on "
                "(sha256 differs); install nilearn 0.12 to 0.14, or raise GENERATOR_VERSION with the new checksum"
            )
        image: Any = nib.load(path)
        volumes[name], affine = np.asarray(image.dataobj).astype(np.float32), np.array(image.affine, dtype=float)
    inside = [np.flatnonzero((volumes["t1"] > 0).any(axis=tuple({0, 1, 2} - {k}))) for k in range(3)]
    low = [max(0, int(index[0]) - 10) for index in inside]
    high = [int(index[-1]) + 11 for index in inside]
    crop = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine[:3, 3] += affine[:3, :3] @ np.array(low)
    return {name: np.ascontiguousarray(volume[crop]) for name, volume in volumes.items()}, affine


def _locate(filename: str) -> Path:
    """Path of a file inside the installed nilearn, which is not imported for it."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise DataError(
            "the brain phantom needs nilearn for its ICBM152 template; install it with: pip install nilearn"
        )
    package = Path(spec.origin).parent
    direct = package / "datasets" / "data" / filename
    path = direct if direct.is_file() else next(package.rglob(filename), None)
    if path is None:
        raise DataError(
            f"{package} holds no {filename}; reinstall nilearn 0.12 to 0.14, whose wheels carry the template"
        )
    return path


def _hippocampus(gm: Array, axes: list[Array]) -> Array:
    """Both hippocampi: grey matter (0..255) inside a curved tube of varying radius."""
    from scipy.spatial import KDTree

    steps = np.linspace(0, len(_HIPPOCAMPAL_AXIS) - 1, 60)
    knots = np.arange(len(_HIPPOCAMPAL_AXIS))
    line = np.stack([np.interp(steps, knots, _HIPPOCAMPAL_AXIS[:, k]) for k in range(3)], axis=1)
    radius = np.interp(steps, knots, _HIPPOCAMPAL_RADIUS)
    x, y, z = axes
    box = np.ix_(np.abs(x) < 42, (y > -46) & (y < 4), (z > -32) & (z < 8))
    where = np.stack(
        np.meshgrid(*(axis[index.ravel()] for axis, index in zip(axes, box, strict=True)), indexing="ij"), -1
    )
    where[..., 0] = np.abs(where[..., 0])
    distance, nearest = KDTree(line).query(where.reshape(-1, 3))
    out = np.zeros(gm.shape, dtype=np.float32)
    out[box] = (distance < radius[nearest]).reshape(where.shape[:3]) & (gm[box] > 110)
    return out


def _ventricles(t1: Array, brain: Array, depth: Array, mm: list[Array]) -> Array:
    """Lateral ventricles: dark, deep, near the middle; islands under 150 mm3 are dropped."""
    from scipy import ndimage

    x, y, z = mm
    box = (np.abs(x) < 42) & (y > -55) & (y < 38) & (z > -12) & (z < 34) & ~((np.abs(x) < 10) & (y < -20))
    labelled: Any = ndimage.label((t1 < 120) & brain & (depth > 14) & box)
    labels = np.asarray(labelled[0])
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes > 150)[labels].astype(np.float32)


def _thinning_weight(mm: list[Array]) -> Array:
    """Where the cortex thins most: temporal lobe and parietal cortex; the cerebellum is nearly spared."""
    x, y, z = mm
    x = np.abs(x)
    temporal = np.exp(-(((x - 45) / 25) ** 2 + ((y + 20) / 40) ** 2 + ((z + 12) / 25) ** 2))
    parietal = np.exp(-((x / 55) ** 2 + ((y + 60) / 28) ** 2 + ((z - 38) / 25) ** 2))
    return (0.55 + 0.6 * temporal + 0.45 * parietal) * np.where((y < -38) & (z < -14), 0.25, 1.0)


def _depth(mask: Array) -> Array:
    """Distance of every voxel inside a mask to its border, voxels (mm at 1 mm)."""
    from scipy import ndimage

    distance: Any = ndimage.distance_transform_edt(mask)
    return np.asarray(distance)


def _shell(mask: Array, thickness: float) -> Array:
    """The outer layer of a mask; looks only at the box around it, since distances over the whole grid take long."""
    inside = np.argwhere(mask)
    box = tuple(slice(int(a) - 1, int(b) + 2) for a, b in zip(inside.min(0), inside.max(0), strict=True))
    out = np.zeros_like(mask)
    out[box] = mask[box] * (_depth(mask[box]) <= thickness)
    return out


def _unit_gradient(smooth: Array, amount: float | Array) -> list[Array]:
    """Gradient of a smoothed mask per axis, scaled so that its steep part (90th percentile) has length ``amount``."""
    gradient: Any = np.gradient(smooth)
    steep = smooth > smooth.max() * 0.2
    length = np.linalg.norm(np.stack([part[steep] for part in gradient]), axis=0)
    unit = np.percentile(length, 90) + 1e-9
    return [part / unit * amount for part in gradient]


def _to_npz(template: BrainTemplate, path: Path) -> None:
    """Writes beside the target and renames, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(
                stream,
                spacing=template.spacing,
                shape=template.shape,
                affine=template.affine,
                table=template.table,
                table_shape=template.table_shape,
                table_origin=template.table_origin,
                points=template.points,
                basis=template.basis,
                means=[template.means[tissue] for tissue in ("gm", "wm", "csf")],
            )
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _from_npz(path: Path) -> BrainTemplate:
    """Reads a cached template; any damage shows as an exception of numpy or zipfile."""
    with np.load(path, allow_pickle=False) as stored:
        shape, table_shape = (tuple(int(n) for n in stored[key]) for key in ("shape", "table_shape"))
        if len(shape) != 3 or len(table_shape) != 3:
            raise ValueError("not a template file")
        return BrainTemplate(
            spacing=float(stored["spacing"]),
            shape=shape,
            affine=stored["affine"],
            table=stored["table"],
            table_shape=table_shape,
            table_origin=stored["table_origin"],
            points=stored["points"],
            basis=stored["basis"],
            means=dict(zip(("gm", "wm", "csf"), stored["means"].tolist(), strict=True)),
        )
