"""One legend for all panels of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medgraft.benchmarks.figures.style import SMALL
from medgraft.benchmarks.figures.titles import text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_COLUMNS = 4


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them, each label once."""
    pairs = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in pairs}
    if not handles:
        return
    widest = max(text_width(label, SMALL) for label in handles) + 0.6  # inches of a handle and the gaps beside it
    columns = max(1, min(LEGEND_COLUMNS, len(handles), int(figure.get_figwidth() / widest)))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)
