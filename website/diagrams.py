"""Small pictures for the pages of adapters: where on an encoder an adapter sits, from the sites that it records.

Drawn in black, grey and one dark colour, so that they say the same when they are printed; no font is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple

from medgraft.encoder.sites import Site

HEIGHT, TOP, BOX, GAP = 106, 34, 30, 6
"""Of a tower's row, of what lies above its boxes, of a box, and between two of them, in pixels."""

OUTSIDE = {"input": "input", "features": "features"}
"""Site outside of the blocks -> what stands in its box."""
INSIDE = {
    "norm1": "norm",
    "attn.q": "q",
    "attn.k": "k",
    "attn.v": "v",
    "attn.out": "out",
    "attn": "attn +",
    "norm2": "norm",
    "fc1": "fc1",
    "fc2": "fc2",
    "mlp": "mlp +",
}
"""Site in a block -> what stands in its box, in the order of the forward pass."""
ENDS = {"attn", "mlp"}
"""Branches: what is added to the tokens."""


class Tower(NamedTuple):
    """Where an adapter sits in one tower.

    Attributes:
        name: Of the tower: ``image``.
        blocks: How many it has.
        hit: Place of :data:`OUTSIDE` or :data:`INSIDE`, or ``block`` or ``stem`` -> in how many blocks it is recorded.
    """

    name: str
    blocks: int
    hit: Mapping[str, int]


def towers_of(sites: Mapping[str, Site], recorded: Iterable[str]) -> list[Tower]:
    """The towers of an encoder, with what of each an adapter records.

    Args:
        sites: All of the encoder's sites by name.
        recorded: Names of those that the adapter records.
    """
    blocks: dict[str, set[int]] = {}
    hits: dict[str, dict[str, set[int | None]]] = {}
    for site in sites.values():
        numbers = blocks.setdefault(site.tower or "", set())
        if site.block is not None:
            numbers.add(site.block)
    for site in map(sites.__getitem__, recorded):
        hits.setdefault(site.tower or "", {}).setdefault(_place(site), set()).add(site.block)
    return [
        Tower(name, len(numbers), {place: len(where) for place, where in hits.get(name, {}).items()})
        for name, numbers in blocks.items()
    ]


def _place(site: Site) -> str:
    """Where in the picture a site lies: a place of a block, the block as a whole, or outside of all."""
    if site.block is None:
        return site.kind if site.kind in OUTSIDE else "stem"
    inner = site.name.partition(f"blocks.{site.block}")[2].lstrip(".")
    return inner or "block"


def placement(towers: Iterable[Tower], title: str) -> str:
    """An SVG of the towers that an adapter sits on: dark boxes are the sites that it records.

    Args:
        towers: From :func:`towers_of`; those without a recorded site are left out.
        title: What the picture shows, for those who do not see it.
    """
    drawn = [tower for tower in towers if tower.hit]
    rows, width = [], 0
    for number, tower in enumerate(drawn):
        boxes, right = _row(tower, number * HEIGHT)
        rows.append(boxes)
        width = max(width, right)
    size = f"{width + 8} {max(1, len(drawn)) * HEIGHT}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" '
        f'width="{width + 8}" height="{max(1, len(drawn)) * HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(rows)}</svg>\n'
    )


def _row(tower: Tower, y: int) -> tuple[str, int]:
    """One tower's boxes from left to right, and where they end."""
    parts = [f'<text x="8" y="{y + 16}" font-weight="bold" fill="#222">{escape(tower.name or "encoder")}</text>']
    x, middle = 8, y + TOP + 14
    for place in ("input", "stem", "blocks", "features"):
        if place == "stem" and "stem" not in tower.hit:
            continue
        if x > 8:
            parts.append(_arrow(x - 14, x - 2, middle + BOX // 2))
        if place == "blocks":
            inner, x = _block(tower, x, y)
            parts.append(inner)
        else:
            label = {"stem": "stem, last norm"}.get(place, place)
            box, x = _box(x, middle, label, place in tower.hit)
            parts.append(box)
        x += 16
    parts.append(_arrow(x - 14, x - 2, middle + BOX // 2))
    head, x = _box(x, middle, "head", False, dashed=True)
    parts.append(head)
    return "".join(parts), x


def _block(tower: Tower, x: int, y: int) -> tuple[str, int]:
    """One block as a frame with its layers inside, and how many of them the adapter is in."""
    if not tower.blocks:
        return "", x
    parts, left, middle = [], x, y + TOP + 14
    x += 8
    for place, label in INSIDE.items():
        box, x = _box(x, middle, label, place in tower.hit, round_ends=place in ENDS)
        parts.append(box)
        x += GAP
    x += 2
    within = max((count for place, count in tower.hit.items() if place in {*INSIDE, "block"}), default=0)
    where = f"{tower.blocks} blocks" if not within else f"in {within} of {tower.blocks} blocks"
    whole = "block" in tower.hit
    frame = (
        f'<rect x="{left}" y="{y + TOP}" width="{x - left}" height="{BOX + 28}" rx="8" fill="none" '
        f'stroke="{"#00554d" if whole else "#777"}" stroke-width="{4 if whole else 1.5}"/>'
        f'<text x="{left + 4}" y="{y + TOP - 6}" fill="#222">{where}</text>'
    )
    return frame + "".join(parts), x


def _box(x: int, y: int, label: str, lit: bool, *, dashed: bool = False, round_ends: bool = False) -> tuple[str, int]:
    """A box with a word in it; dark where an adapter sits there. Returns it and its right end."""
    width = max(26, 10 + 7 * len(label))
    fill, ink = ("#00695c", "#fff") if lit else ("#f4f4f4", "#333")
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{BOX}" rx="{15 if round_ends else 3}" fill="{fill}" '
        f'stroke="#333"{dash}/><text x="{x + width / 2}" y="{y + 19}" text-anchor="middle" fill="{ink}">'
        f"{escape(label)}</text>"
    ), x + width


def _arrow(start: int, end: int, y: int) -> str:
    return f'<path d="M{start} {y}H{end}" stroke="#333" fill="none"/><path d="M{end} {y}l-5 -3v6z" fill="#333"/>'
