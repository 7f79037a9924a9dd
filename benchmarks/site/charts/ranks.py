"""The critical-difference diagram, one line for each adapter so that a telephone shows it, too."""

from __future__ import annotations

from markupsafe import Markup

from medgraft.benchmarks.site.charts.svg import LETTER, Drawing, Scale, plain_number
from medgraft.benchmarks.site.mean_ranks import MeanRanks

ROW, WIDTH = 24, 640


def ranks_chart(found: MeanRanks) -> Markup:
    """Mean ranks as points; uprights join adapters that the tasks do not tell apart (Demsar 2006, figure 1)."""
    k = len(found.names)
    left = min(30 + max(map(len, found.names)) * LETTER, 260)
    groups = found.groups()
    right = WIDTH - 24 - 10 * len(groups)
    top = 46
    bottom = top + ROW * k
    d = Drawing(WIDTH, bottom + 46)
    scale = Scale(1, k, left + 6, right - 6)
    half = min(found.difference, k - 1)
    d.line(scale(1), 16, scale(1 + half), 16, "front")
    d.line(scale(1), 11, scale(1), 21, "front")
    d.line(scale(1 + half), 11, scale(1 + half), 21, "front")
    said = f"critical difference {found.difference:.2f}"
    if scale(1 + half) + 6 + len(said) * LETTER < WIDTH:
        d.text(scale(1 + half) + 6, 20, said)
    else:
        d.text(scale(1 + half), 34, said, "label", "end")
    for tick in range(1, k + 1, max(1, -(-k // 12))):
        d.line(scale(tick), top - 6, scale(tick), bottom, "grid")
        d.text(scale(tick), bottom + 15, str(tick), "tick", "middle")
    for place, (name, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
        y = top + ROW * (place + 0.5)
        d.text(left - 8, y + 4, name if len(name) <= 38 else f"{name[:37]}…", "label", "end")
        d.line(left, y, right, y, "grid")
        d.dot(scale(rank), y, "best", 4.5, f"{name}: mean rank {plain_number(round(rank, 2))}")
    for number, (first, last) in enumerate(groups):
        x = right + 14 + 10 * number
        d.line(x, top + ROW * (first + 0.5) - 6, x, top + ROW * (last + 0.5) + 6, "group")
    d.text((left + right) / 2, bottom + 34, "mean rank over tasks, 1 is best", "name", "middle")
    words = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(found.names, found.ranks, strict=True))
    together = "; ".join(f"{found.names[a]} to {found.names[b]}" for a, b in groups) or "none"
    label = f"Mean ranks over {len(found.tasks)} tasks: {words}. Not told apart: {together}."
    return d.svg(label)
