"""Seeds as points with their intervals, and bars of where time went."""

from __future__ import annotations

from collections.abc import Sequence

from medgraft.benchmarks.site.charts.lines import Chart
from medgraft.benchmarks.site.charts.svg import LETTER, Drawing, Scale, padded, plain_number, series_class

Triple = tuple[float | None, float | None, float | None]
ROW = 26
WIDTH, NAMES = 380, 66


def interval_chart(title: str, rows: Sequence[tuple[str, Triple, str]], x_name: str, note: str = "") -> Chart | None:
    """One line for each of some numbers: a point with its interval.

    Args:
        title: Heading.
        rows: Name, value with both ends, and class of the colour.
        x_name: Name of the axis.
        note: What a reader must know.
    """
    known = [(name, triple, colour) for name, triple, colour in rows if triple[0] is not None]
    if not known:
        return None
    numbers = [value for _, triple, _ in known for value in triple if value is not None]
    width = max(len(name) for name, _, _ in known)
    left = min(max(NAMES, 14 + width * LETTER), 170)
    d = Drawing(WIDTH, 46 + ROW * len(known))
    scale, bottom = Scale(*padded(numbers), left, WIDTH - 20), 8 + ROW * len(known)
    for tick in scale.ticks(5):
        d.line(scale(tick), 4, scale(tick), bottom, "grid")
        d.text(scale(tick), bottom + 15, plain_number(tick), "tick", "middle")
    d.line(left, bottom, WIDTH - 20, bottom, "axis")
    for place, (name, (value, low, high), colour) in enumerate(known):
        y = 8 + ROW * (place + 0.5)
        d.text(left - 10, y + 4, name if len(name) <= 25 else f"{name[:24]}…", "label", "end")
        if low is not None and high is not None:
            d.line(scale(low), y, scale(high), y, f"bar s{colour}")
        d.dot(scale(value or 0.0), y, f"f{colour}", 4.5, f"{name}: {_shown(value, low, high)}")
    d.text((left + WIDTH - 20) / 2, bottom + 33, x_name, "name", "middle")
    words = "; ".join(f"{name} {_shown(*triple)}" for name, triple, _ in known)
    return Chart(title, d.svg(f"{title}, {x_name}: {words}."), note=note)


def _shown(value: float | None, low: float | None, high: float | None) -> str:
    ends = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}{ends}"


def time_chart(rows: Sequence[tuple[str, dict[str, float]]]) -> Chart | None:
    """Seconds of each step, one bar for each seed."""
    rows = [(name, {step: s for step, s in times.items() if s > 0}) for name, times in rows]
    longest = max((sum(times.values()) for _, times in rows), default=0.0)
    if longest <= 0:
        return None
    steps = list(dict.fromkeys(step for _, times in rows for step in times))
    d = Drawing(WIDTH, 46 + ROW * len(rows))
    scale, bottom = Scale(0, longest * 1.02, NAMES, WIDTH - 20), 8 + ROW * len(rows)
    for tick in scale.ticks(5):
        d.line(scale(tick), 4, scale(tick), bottom, "grid")
        d.text(scale(tick), bottom + 15, plain_number(tick), "tick", "middle")
    for place, (name, times) in enumerate(rows):
        y, start = 8 + ROW * place, 0.0
        d.text(NAMES - 10, y + ROW / 2 + 4, name, "label", "end")
        for step, seconds in times.items():
            left, right = scale(start), scale(start + seconds)
            colour = series_class(steps.index(step), "f")
            d.box(left, y + 5, right - left, ROW - 10, colour, f"{step}: {seconds:.2f} s")
            start += seconds
    d.line(NAMES, bottom, WIDTH - 20, bottom, "axis")
    d.text((NAMES + WIDTH - 20) / 2, bottom + 33, "seconds", "name", "middle")
    words = "; ".join(f"{name}: {', '.join(f'{step} {s:.2f} s' for step, s in times.items())}" for name, times in rows)
    legend = tuple((step, series_class(number, "f")) for number, step in enumerate(steps))
    return Chart("Where the time went", d.svg(f"Seconds by step: {words}."), legend)
