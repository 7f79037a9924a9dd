"""The figure of what the harness costs by the number of cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medgraft.benchmarks.figures.legends import legend_below
from medgraft.benchmarks.figures.scales import SIZES, TIMES, logarithmic, plain, unit_of
from medgraft.benchmarks.figures.style import blank, line_style, styled
from medgraft.benchmarks.figures.titles import figure_title
from medgraft.benchmarks.figures.writing import write_svg
from medgraft.benchmarks.simulate.phases import Cost

TITLE = "What the harness costs by the number of cells"
SHOWN = {"dispatch": "running the last 1,000 cells", "resume": "finding what is done", "board": "making the board"}


def plot(found: Mapping[int, Mapping[str, Cost]], path: Path) -> None:
    """Wall time and peak memory over the number of cells, logarithmic on both axes.

    Args:
        found: Number of cells -> phase -> its cost.
        path: File to write.

    Raises:
        MedgraftError: The file cannot be written.
    """
    sizes = list(found)
    last = found[sizes[-1]]
    with styled():
        figure = blank(8.0, 3.5)
        axes = figure.subplots(1, 2)
        values = [[(c[phase].seconds, c[phase].peak) for c in found.values()] for phase in SHOWN]
        for axis, part, units, name in zip(axes, (0, 1), (TIMES, SIZES), ("wall time", "peak memory"), strict=True):
            unit = unit_of((point[part] for points in values for point in points), units)
            for number, (label, points) in enumerate(zip(SHOWN.values(), values, strict=True)):
                axis.plot(sizes, [point[part] / unit[1] for point in points], label=label, **line_style(number))
            logarithmic(axis, "x", sizes, 3.0, at=True)
            logarithmic(axis, "y", [point[part] / unit[1] for points in values for point in points], 2.2)
            axis.set_xlabel("cells")
            axis.set_ylabel(f"{name} ({unit[0]})")
            axis.grid(color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
        figure_title(figure, TITLE)
        legend_below(figure, [axes[0]])
        said = [
            f"{label}: {last[phase].seconds:.1f} s and {last[phase].peak / 1e6:.0f} MB at {plain(sizes[-1])} cells"
            for phase, label in SHOWN.items()
        ]
        write_svg(figure, path, TITLE, f"Two panels over the number of cells, logarithmic. {'; '.join(said)}.")
