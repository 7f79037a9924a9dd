"""Maps as pictures: over an image, and over slices of a volume along each axis."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medgraft.benchmarks.figures.style import SMALL, blank, styled
from medgraft.benchmarks.figures.titles import figure_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 1024
"""Longest side of an image that is drawn; larger ones are thinned out."""

SLICES = 6
"""Slices of a volume along each axis."""

FAINT = 0.15
"""Share of the largest value below which a map is not drawn, so that what lies under it is seen."""

PLANES = (("sagittal", 0, "P", "A"), ("coronal", 1, "L", "R"), ("axial", 2, "L", "R"))
"""Name, axis that is cut, and what is at the left and the right end of the picture, of a volume whose axes run to the
right, the front and the top."""


def draw_image(image: np.ndarray, heat: np.ndarray, title: str, unit: str) -> bytes:
    """An image beside itself with a map over it, as PNG; ``uint8 [H, W]`` and the rest as in :func:`image_figure`."""
    return _png(image_figure(image, heat, title, unit), title, unit)


def draw_volume(volume: np.ndarray, heat: np.ndarray, title: str, unit: str, *, oriented: bool) -> bytes:
    """Slices of a volume with a map over them, as PNG; ``[D, H, W]`` and the rest as in :func:`volume_figure`."""
    return _png(volume_figure(volume, heat, title, unit, oriented=oriented), title, unit)


@styled()
def image_figure(image: np.ndarray, heat: np.ndarray, title: str, unit: str) -> Figure:
    """An image beside itself with a map over it.

    Args:
        image: ``[H, W]`` of any scale.
        heat: The map, ``[H, W]``.
        title: Above both.
        unit: Of the map's values.
    """
    step = max(1, -(-max(image.shape) // SIDE))
    image, heat = image[::step, ::step], heat[::step, ::step]
    height, width = image.shape
    figure = blank(2 * 4.2 * min(2.0, max(0.5, width / height)) + 1.4, 4.6)
    grid = figure.subplots(1, 2)
    limits = _limits(image)
    for place in grid:
        place.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
        place.set_axis_off()
    shown = _Scale.of(heat).over(grid[1], heat)
    return _finished(figure, list(grid), shown, title, unit)


@styled()
def volume_figure(volume: np.ndarray, heat: np.ndarray, title: str, unit: str, *, oriented: bool) -> Figure:
    """Slices of a volume with a map over them; along each axis the slice with most of the map is among them.

    Args:
        volume: ``[D, H, W]``, as it was read: axes to the right, the front and the top.
        heat: The map, ``[D, H, W]``.
        title: Above all.
        unit: Of the map's values.
        oriented: The axes are those; ``False`` for an encoder's own slices, of which the first axis counts them.
    """
    planes = PLANES if oriented else (("slice", 0, "", ""),)
    rows = len(planes) if oriented else 2
    figure = blank(2.0 * SLICES + 1.2, 2.3 * rows + 0.5)
    grid = figure.subplots(rows, SLICES)
    for place in grid.flat:
        place.set_axis_off()
    scale, limits, shown = _Scale.of(heat), _limits(volume), None
    for row, (name, axis, left, right) in enumerate(planes):
        count = SLICES if oriented else 2 * SLICES
        places = list(grid[row]) if oriented else list(grid.flat)
        for place, at in zip(places, _chosen(volume, heat, axis, count), strict=False):
            under, over = (_plane(np.take(values, at, axis), oriented) for values in (volume, heat))
            place.imshow(under, cmap="gray", vmin=limits[0], vmax=limits[1])
            shown = scale.over(place, over)
            place.set_title(f"{name} {at}", fontsize=SMALL, pad=2)
            for text, x, side in ((left, 0.02, "left"), (right, 0.98, "right")):
                place.text(x, 0.97, text, color="w", fontsize=SMALL, ha=side, va="top", transform=place.transAxes)
    return _finished(figure, list(grid.flat), shown, title, unit)


def _plane(values: np.ndarray, oriented: bool) -> np.ndarray:
    """A slice as it is looked at: what is behind or below at the bottom, the patient's right at the right."""
    return values.T[::-1] if oriented else values


def _chosen(volume: np.ndarray, heat: np.ndarray, axis: int, count: int) -> list[int]:
    """Slices evenly spread over what is not background; the one with most of the map takes the place of the nearest."""
    others = tuple(k for k in range(volume.ndim) if k != axis)
    full = np.flatnonzero((np.abs(volume - volume.min()) > 0).mean(axis=others) > 0.05)
    low, high = (int(full[0]), int(full[-1])) if len(full) else (0, volume.shape[axis] - 1)
    places = np.unique(np.linspace(low, high, count + 2)[1:-1].round().astype(int))
    most = int(np.abs(heat).max(axis=others).argmax())
    places[np.abs(places - most).argmin()] = most
    return sorted({int(place) for place in places})


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)


class _Scale(NamedTuple):
    """Colours of a map: from 0 to its largest value, or from minus to plus that where it has both signs."""

    top: float
    signed: bool

    @classmethod
    def of(cls, heat: np.ndarray) -> _Scale:
        finite = heat[np.isfinite(heat)]
        top = float(np.abs(finite).max()) if finite.size else 0.0
        return cls(top if top > 0 else 1.0, bool((finite < 0).any()))

    def over(self, place: Any, heat: np.ndarray) -> Any:
        """Draws a map ``[h, w]``, the stronger the less transparent; red speaks for the class, blue against it.

        In grey both are dark, so a dashed line goes round what speaks against it.
        """
        strength = np.clip(np.abs(np.nan_to_num(heat)) / self.top, 0, 1)
        opacity = np.where(strength < FAINT, 0.0, 0.25 + 0.5 * strength)
        colours, low = ("RdBu_r", -self.top) if self.signed else ("inferno", 0.0)
        against = -2 * FAINT * self.top
        if min(heat.shape) > 1 and np.nanmin(heat, initial=0.0) < against < np.nanmax(heat, initial=-self.top):
            place.contour(np.nan_to_num(heat), levels=[against], colors="white", linewidths=0.8, linestyles="dashed")
        return place.imshow(heat, cmap=colours, vmin=low, vmax=self.top, alpha=opacity)


def _finished(figure: Figure, places: Sequence[Any], shown: Any, title: str, unit: str) -> Figure:
    figure_title(figure, title)
    if shown is not None:
        from matplotlib.cm import ScalarMappable

        scale = ScalarMappable(norm=shown.norm, cmap=shown.cmap)  # without the transparency of what was drawn
        label = f"{unit}; dashed: below zero" if shown.norm.vmin < 0 else unit
        figure.colorbar(scale, ax=places, label=label, shrink=0.8)
    return figure


@styled()
def _png(figure: Figure, title: str, unit: str) -> bytes:
    content = io.BytesIO()
    said = {"Title": title, "Description": f"{title}: {unit}", "Software": None}
    figure.savefig(content, format="png", metadata=said)
    return content.getvalue()
