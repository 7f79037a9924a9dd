"""A volume that shapes are painted into, in Hounsfield units and millimetres.

Axes point to the patient's right, front and top, as :func:`medgraft.benchmarks.cohorts.volumes.load.load_volume` gives
volumes. A shape is a signed distance in mm, negative inside; its edge is as blurred as the voxels are large, so that
the same body is seen at any resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Point = tuple[float, float, float]
Shape = Callable[[Volume, Volume, Volume], Volume]
"""Coordinates in mm -> signed distance in mm, all broadcast against each other."""

FIELD = (384.0, 384.0, 312.0)
"""Millimetres that the volume covers to the right, front and top, whatever its resolution."""
AIR = -1000.0


@dataclass
class Canvas:
    """A volume under construction.

    Attributes:
        shape: Voxels along each axis.
        hu: Hounsfield units, ``float32 [x, y, z]``.
    """

    shape: tuple[int, int, int]
    hu: Volume = field(init=False)

    def __post_init__(self) -> None:
        self.hu = np.full(self.shape, AIR, np.float32)
        self.spacing = tuple(size / n for size, n in zip(FIELD, self.shape, strict=True))
        self.axes = [
            ((np.arange(n) + 0.5) * step - size / 2).astype(np.float32)
            for n, step, size in zip(self.shape, self.spacing, FIELD, strict=True)
        ]
        # An edge falls off over about one voxel; the mean of the steps serves all directions.
        self.blur = float(np.mean(self.spacing)) / 2.5

    def grid(self, box: tuple[slice, slice, slice] | None = None) -> tuple[Volume, Volume, Volume]:
        """Coordinates in mm of a part of the volume, to be broadcast: ``[x, 1, 1]``, ``[1, y, 1]``, ``[1, 1, z]``."""
        x, y, z = (
            axis if box is None else axis[part] for axis, part in zip(self.axes, box or (slice(None),) * 3, strict=True)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def box(self, centre: Point, reach: Point | float) -> tuple[slice, slice, slice]:
        """The voxels within ``reach`` mm of a point along each axis, and one more at each end."""
        reaches = (reach,) * 3 if isinstance(reach, int | float) else reach
        parts = []
        for axis, middle, far, step in zip(self.axes, centre, reaches, self.spacing, strict=True):
            low, high = np.searchsorted(axis, [middle - far - 2 * step, middle + far + 2 * step])
            parts.append(slice(int(low), int(high)))
        return parts[0], parts[1], parts[2]

    def cover(self, distance: Volume) -> Volume:
        """How much of each voxel a shape fills, 0 to 1, from its signed distance in mm."""
        return (0.5 - 0.5 * np.tanh(distance / self.blur)).astype(np.float32)

    def paint(self, value: float | Volume, share: Volume, box: tuple[slice, slice, slice] | None = None) -> None:
        """Mixes ``value`` HU into a part of the volume by the share ``[x, y, z]`` of each voxel that it takes."""
        part = self.hu if box is None else self.hu[box]
        part += share * (value - part)

    def ball(self, value: float, centre: Point, radii: Point | float, within: Volume | None = None) -> None:
        """Paints an ellipsoid.

        Args:
            value: HU.
            centre: In mm.
            radii: Along the axes in mm.
            within: Share of each voxel of the whole volume that may change, ``[x, y, z]``.
        """
        three = (radii,) * 3 if isinstance(radii, int | float) else radii
        box = self.box(centre, three)
        share = self.cover(ellipsoid(centre, three)(*self.grid(box)))
        self.paint(value, share if within is None else share * within[box], box)

    def tube(
        self, value: float, start: Point, end: Point, radius: float, within: Volume | None = None, *, wall: float = 0
    ) -> None:
        """Paints a straight tube of ``value`` HU from point to point; with a wall of soft tissue ``wall`` mm thick."""
        middle = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
        reach = tuple(abs(a - b) / 2 + radius + wall for a, b in zip(start, end, strict=True))
        box = self.box((middle[0], middle[1], middle[2]), (reach[0], reach[1], reach[2]))
        distance = capsule(start, end)(*self.grid(box))
        allowed = 1.0 if within is None else within[box]
        if wall:
            self.paint(30.0, self.cover(distance - radius - wall) * allowed, box)
        self.paint(value, self.cover(distance - radius) * allowed, box)


def ellipsoid(centre: Point, radii: Point) -> Shape:
    """Signed distance of an ellipsoid, exact at its surface's order of size and cheap."""

    def distance(x: Volume, y: Volume, z: Volume) -> Volume:
        scaled = np.sqrt(
            ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
        )
        return (scaled - 1) * min(radii)

    return distance


def capsule(start: Point, end: Point) -> Shape:
    """Distance in mm from a line between two points, never negative."""
    a, b = np.array(start, np.float32), np.array(end, np.float32)
    along = b - a
    length = float(along @ along) or 1.0

    def distance(x: Volume, y: Volume, z: Volume) -> Volume:
        t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1] + (z - a[2]) * along[2]) / length, 0, 1)
        return np.sqrt((x - a[0] - t * along[0]) ** 2 + (y - a[1] - t * along[1]) ** 2 + (z - a[2] - t * along[2]) ** 2)

    return distance


def noise(rng: np.random.Generator, shape: tuple[int, int, int], grain: int) -> Volume:
    """Smooth noise of unit variance, ``[x, y, z]``, with about ``grain`` bumps along each axis at any resolution."""
    from scipy.ndimage import zoom

    coarse = rng.standard_normal((grain, grain, grain)).astype(np.float32)
    fine = zoom(coarse, [n / grain for n in shape], order=1, mode="nearest", grid_mode=True)
    return (fine / max(float(fine.std()), 1e-6)).astype(np.float32)
