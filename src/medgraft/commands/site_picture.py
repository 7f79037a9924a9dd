"""A picture of an encoder's sites in plain text, made from the encoder itself: what there is and where it lies."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site

KINDS = {
    "input": "the prepared batch",
    "block": "output of a transformer block or stage of a CNN",
    "branch": "what a block's attention or MLP adds to its tokens",
    "projection": "query, key or value, alone or as rows of one packed weight",
    "layer": "any other linear map or convolution",
    "norm": "a norm",
    "features": "the encoder's result, tokens and pooled",
}
"""Kind of a site -> what it is."""
FAMILIES = {
    "timm:vit_tiny_patch16_224@random": "A vision transformer",
    "monai:resnet18@random": "A CNN, of volumes",
    "transformers:bert@random": "A text encoder",
    "embedded:chest@random": "A dual encoder, image and text",
}
"""Encoder -> family, for the documentation."""
WIDTH, OUTSIDE, INSIDE = 52, 6, 12


def picture(encoder: Encoder) -> str:
    """The sites of an encoder as a tree: one line per place, kinds on the right, equal blocks drawn once.

    Example:
        >>> from medgraft.registry import build_encoder
        >>> [line.split() for line in picture(build_encoder("pixels:2d")).splitlines()]
        [['image'], ['├─', 'input', 'input'], ['└─', 'features', 'features']]
    """
    parts: list[str] = []
    for name, tower in encoder.towers().items():
        front = f"{name}." if len(encoder.towers()) > 1 or tower is not encoder else ""
        parts.append("\n".join([f"{name}{f'  (names begin with {front})' if front else ''}", *_tree(tower)]))
    return "\n\n".join(parts)


def _tree(tower: Encoder) -> list[str]:
    sites = list(tower.sites().values())
    blocks = sorted({site.block for site in sites if site.block is not None})
    outside = [site for site in sites if site.block is None and site.kind not in ("input", "features")]
    entries: list[tuple[str, list[str]]] = [(_line(site.name, site), []) for site in sites if site.kind == "input"]
    entries += [(line, []) for line in _lines(outside, "", OUTSIDE)]
    for same in _alike(sites, blocks):
        first = [site for site in sites if site.block == same[0]]
        name = f"blocks.{same[0]}" + (f" to blocks.{same[-1]}" if len(same) > 1 else "")
        root = next((site for site in first if site.kind == "block"), None)
        rest = [site for site in first if site.kind != "block"]
        entries.append((name if root is None else _line(name, root), _lines(rest, f"blocks.{same[0]}", INSIDE)))
    entries += [(_line(site.name, site), []) for site in sites if site.kind == "features"]
    drawn: list[str] = []
    for place, (text, children) in enumerate(entries):
        last = place == len(entries) - 1
        drawn.append(f"{'└─' if last else '├─'} {text}")
        for inner, child in enumerate(children):
            drawn.append(f"{' ' if last else '│'}  {'└─' if inner == len(children) - 1 else '├─'} {child}")
    return drawn


def _alike(sites: Sequence[Site], blocks: Sequence[int]) -> list[list[int]]:
    """Runs of blocks that have the same sites."""
    runs: list[list[int]] = []
    shapes: list[list[tuple[str, str]]] = []
    for block in blocks:
        number = re.compile(rf"(?<!\w){block}(?!\w)")
        shape = sorted((number.sub("#", site.name), site.kind) for site in sites if site.block == block)
        if shapes and shapes[-1] == shape:
            runs[-1].append(block)
        else:
            runs.append([block])
            shapes.append(shape)
    return runs


def _lines(sites: Sequence[Site], front: str, most: int) -> list[str]:
    """One line per site, the canonical ones first; a long list is cut, with the number left out."""
    order = list(KINDS)
    ordered = sorted(sites, key=lambda site: order.index(site.kind))
    lines = [
        _line(site.name.removeprefix(front) if front and site.name.startswith(f"{front}.") else site.name, site)
        for site in ordered[:most]
    ]
    left = len(ordered) - most
    return [*lines, f"{left} more"] if left > 0 else lines


def _line(name: str, site: Site) -> str:
    packed = f", rows {site.rows.start} to {site.rows.stop} of {site.path}" if site.rows is not None else ""
    return f"{name:<{WIDTH - 3 * (site.block is not None and site.kind != 'block')}}  {site.kind}{packed}"


def pages() -> str:
    """The pictures of :data:`FAMILIES` in Markdown, as they stand in ``docs/sites.md``."""
    from medgraft.registry import build_encoder

    return "\n".join(
        f"{what} (`{name}`):\n\n```text\n{picture(build_encoder(name))}\n```\n" for name, what in FAMILIES.items()
    )


if __name__ == "__main__":
    sys.stdout.write(pages())
