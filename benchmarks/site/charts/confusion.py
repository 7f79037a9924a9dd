"""Confusion matrices: how often a class was taken for another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.site.charts.lines import Chart
from medgraft.benchmarks.site.charts.svg import LETTER, Drawing

MOST_CLASSES = 15
"""Classes above which a matrix is a carpet, not a table."""
CELL = 46


def confusion_chart(counts: NDArray[np.float64], classes: Sequence[str], note: str = "") -> Chart | None:
    """Counts ``[K, K]``, true class by predicted class, as shares of the true class; ``None`` for too many classes."""
    K = len(classes)
    if not 2 <= K <= MOST_CLASSES:
        return None
    names = [name if len(name) <= 18 else f"{name[:17]}…" for name in classes]
    left = 34 + max(map(len, names)) * LETTER
    top = 26
    d = Drawing(round(left + CELL * K + 12), round(top + CELL * K + 24 + max(map(len, names)) * 4))
    totals = counts.sum(axis=1)
    for i in range(K):
        d.text(left - 8, top + CELL * (i + 0.5) + 4, names[i], "label", "end")
        for j in range(K):
            share = counts[i, j] / totals[i] if totals[i] else 0.0
            level = min(int(share * 10 + 0.5), 10)
            x, y = left + CELL * j, top + CELL * i
            title = f"{classes[i]} taken for {classes[j]}: {counts[i, j]:g} of {totals[i]:g}"
            d.box(x + 1, y + 1, CELL - 2, CELL - 2, f"heat h{level}", title)
            d.text(x + CELL / 2, y + CELL / 2 + 1, f"{100 * share:.0f}%", f"cell c{level}", "middle")
            d.text(x + CELL / 2, y + CELL / 2 + 14, f"{counts[i, j]:.4g}", f"small c{level}", "middle")
    for j in range(K):
        x, y = left + CELL * (j + 0.5), top + CELL * K + 12
        d.parts.append(f'<g transform="translate({x:.1f} {y:.1f}) rotate(-35)">')
        d.text(0, 0, names[j], "label", "end")
        d.parts.append("</g>")
    d.text(left + CELL * K / 2, 14, "predicted", "name", "middle")
    d.upright(12, top + CELL * K / 2, "true")
    right = [
        f"{name} right in {counts[k, k]:g} of {totals[k]:g}" for k, name in enumerate(classes)
    ]
    return Chart("Confusion matrix", d.svg(f"Confusion matrix: {'; '.join(right)}."), note=note)
