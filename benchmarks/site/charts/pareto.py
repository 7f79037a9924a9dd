"""Quality against cost, with the front of the rows that no other beats in both."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medgraft.benchmarks.site.charts.svg import LETTER, Drawing, Frame, frame, log_padded, padded, plain_number

MOST_POINTS = 150
"""Rows beside the front that are drawn, the best ones first."""
MOST_LABELS = 14
Box = tuple[float, float, float, float]
AROUND = (
    (8, 4, 0.0), (-8, 4, 1.0), (0, -9, 0.5), (0, 17, 0.5), (7, -8, 0.0), (-7, -8, 1.0), (7, 16, 0.0), (-7, 16, 1.0),
    (0, -22, 0.5), (0, 30, 0.5),
)  # fmt: skip
"""Places of a name beside its point: to the right, down, and what part of it lies left of there; the best first."""


@dataclass(frozen=True)
class Point:
    """A row of the board.

    Attributes:
        name: For its label.
        cost: What it costs, or the speed that it has.
        quality: Its primary metric.
        page: Address of its page.
    """

    name: str
    cost: float
    quality: float
    page: str = ""


@dataclass(frozen=True)
class Pareto:
    """The chart.

    Attributes:
        title: What is shown.
        svg: The drawing.
        front: Points on the front, the cheapest first.
        left_out: Points that are not drawn, since there are too many.
    """

    title: str
    svg: Markup
    front: tuple[Point, ...]
    left_out: int = 0


def front(points: Sequence[Point], *, cost_up: bool = False, quality_up: bool = True) -> tuple[Point, ...]:
    """Points that no other is at least as good as in both and better in one, the cheapest first.

    Args:
        points: All.
        cost_up: More of the cost is better, as of a speed.
        quality_up: More of the quality is better.

    Example:
        >>> points = [Point("a", 1, 0.5), Point("b", 2, 0.4), Point("c", 3, 0.9)]
        >>> [point.name for point in front(points)]
        ['a', 'c']
    """
    signs = (-1.0 if cost_up else 1.0), (-1.0 if quality_up else 1.0)
    ordered = sorted(points, key=lambda p: (signs[0] * p.cost, signs[1] * p.quality))
    kept: list[Point] = []
    for point in ordered:
        better = not kept or signs[1] * point.quality < signs[1] * kept[-1].quality
        same = bool(kept) and (point.cost, point.quality) == (kept[-1].cost, kept[-1].quality)
        if better or same:
            kept.append(point)
    return tuple(kept)


def pareto_chart(
    title: str,
    points: Sequence[Point],
    cost_name: str,
    quality_name: str,
    *,
    cost_up: bool = False,
    quality_up: bool = True,
) -> Pareto | None:
    """The chart; ``None`` where fewer than two rows have both numbers.

    Args:
        title: What is shown.
        points: The rows.
        cost_name: Name of the horizontal axis.
        quality_name: Of the vertical one.
        cost_up: More of the cost is better.
        quality_up: More of the quality is better.
    """
    if len(points) < 2:
        return None
    best = front(points, cost_up=cost_up, quality_up=quality_up)
    on_front = set(map(id, best))
    others = sorted((p for p in points if id(p) not in on_front), key=lambda p: -p.quality if quality_up else p.quality)
    drawn = others[:MOST_POINTS]
    shown = [*best, *drawn]
    positive = [p.cost for p in shown if p.cost > 0]
    zero = len(positive) < len(shown)
    f = frame(
        log_padded(positive or [1.0]),
        padded([p.quality for p in shown], 0.1),
        width=460,
        height=320,
        log=True,
        zero=zero,
    )
    f.axes(cost_name, quality_name)
    d = f.drawing
    places = {id(p): (f.x(p.cost), f.y(p.quality)) for p in shown}
    for p in drawn:
        d.dot(*places[id(p)], "point", 3.5, _said(p, cost_name, quality_name))
    _draw_front(d, [places[id(p)] for p in best])
    for p in best:
        d.dot(*places[id(p)], "best", 4.5, _said(p, cost_name, quality_name))
    _label([*best, *(drawn if len(shown) <= MOST_LABELS else ())], places, d, f, len(best), -1.0 if cost_up else 1.0)
    words = "; ".join(f"{p.name}: {plain_number(p.cost)}, {p.quality:.3f}" for p in best)
    label = f"{title}. {len(points)} rows; on the front: {words}."
    return Pareto(title, d.svg(label), best, len(others) - len(drawn))


def _said(point: Point, cost_name: str, quality_name: str) -> str:
    return f"{point.name}: {quality_name} {point.quality:.3f}, {cost_name} {plain_number(float(f'{point.cost:.3g}'))}"


def _draw_front(d: Drawing, places: Sequence[tuple[float, float]]) -> None:
    """Steps: between two points of the front nothing better is known than the cheaper, or the faster, one reaches."""
    xs, ys = [places[0][0]], [places[0][1]]
    for (_, y0), (x1, y1) in itertools.pairwise(places):
        xs += [x1, x1]
        ys += [y0, y1]
    d.path(xs, ys, "front")


def _label(
    points: Sequence[Point],
    places: dict[int, tuple[float, float]],
    d: Drawing,
    f: Frame,
    on_front: int,
    side: float,
) -> None:
    """Names beside the points where there is room for them; what finds none has its name under the mouse.

    Args:
        points: Those on the front come first.
        places: Of each point.
        d: What to draw on.
        f: The axes.
        on_front: How many are on the front; their names go to the corner where its line does not.
        side: 1 where the front rises to the right, -1 where it falls.
    """
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places.values()]
    for number, point in enumerate(points[:MOST_LABELS]):
        x, y = places[id(point)]
        text = point.name if len(point.name) <= 26 else f"{point.name[:25]}…"
        width = len(text) * LETTER
        left, right = (1.0, 0.0) if side > 0 else (0.0, 1.0)
        corners = [(-7 * side, -7, left), (7 * side, 16, right)] if number < on_front else []
        for dx, dy, anchor in (*corners, *AROUND):
            start = x + dx - anchor * width
            box = (start, y + dy - 9, start + width, y + dy + 3)
            inside = box[0] >= 20 and box[2] <= f.x.end + 12 and box[1] >= f.y.end - 10 and box[3] <= f.y.start - 2
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                d.text(x + dx, y + dy, text, "label", {0.0: "start", 0.5: "middle", 1.0: "end"}[anchor])
                break


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
