"""The picture of embeddings: a row per cell, before training on the left and after it on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from medgraft.benchmarks.figures.legends import legend_below
from medgraft.benchmarks.figures.style import blank, point_style, styled
from medgraft.benchmarks.figures.titles import figure_title, side_label
from medgraft.benchmarks.figures.writing import write_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
Method = Literal["tsne", "pca"]
METHODS = {"tsne": "t-SNE", "pca": "two principal components"}
ROW_HEIGHT = 3.6
"""Inches."""


@dataclass(frozen=True)
class Plane:
    """A cell's test samples in the plane.

    Attributes:
        title: Which cell it is, and how good.
        classes: Names of the classes.
        targets: ``int64 [n]``.
        before: Places before training, ``[n, 2]``.
        after: Places after training, ``[n, 2]``.
    """

    title: str
    classes: tuple[str, ...]
    targets: Array
    before: Array
    after: Array


def draw_planes(planes: Sequence[Plane], out: Path, method: Method = "tsne") -> None:
    """Writes an SVG, the same for the same places.

    Raises:
        MedgraftError: The file cannot be written.
    """
    said = "; ".join(f"{each.title}: {len(each.targets)} samples of {', '.join(each.classes)}" for each in planes)
    title = f"Test samples by {METHODS[method]} before and after training"
    write_svg(embedding_figure(planes, method), out, title, f"{title}, one row of panels per cell. {said}.")


def embedding_figure(planes: Sequence[Plane], method: Method = "tsne") -> Figure:
    """The figure itself."""
    with styled():
        figure = blank(8, ROW_HEIGHT * len(planes) + 0.8)
        panels = figure.subplots(len(planes), 2, squeeze=False)
        names = list(dict.fromkeys(name for each in planes for name in each.classes))
        for row, each in zip(panels, planes, strict=True):
            for panel, places, when in zip(row, (each.before, each.after), ("before", "after"), strict=True):
                for k, name in enumerate(each.classes):
                    style = point_style(names.index(name))
                    panel.scatter(*places[each.targets == k].T, s=26, alpha=0.85, linewidths=0, label=name, **style)
                panel.set(xticks=[], yticks=[], title=f"{when} training")
            side_label(row[0], each.title, ROW_HEIGHT - 0.5)
        figure_title(figure, f"Test samples by {METHODS[method]}")
        legend_below(figure, list(panels.flat))
    return figure
