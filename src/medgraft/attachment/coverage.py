"""What a graft touched: adapter -> target pattern -> sites, and the same as a tree that a person can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from medgraft.encoder.sites import Site


class Coverage(dict[str, dict[str, list[str]]]):
    """Adapter -> target pattern -> names of the sites it hit; prints as the encoder's tree of sites.

    Args:
        hits: Adapter -> pattern -> site names.
        title: First line of the tree: the encoder's name.
        sites: What the encoder offers, hit or not.

    Example:
        >>> from medgraft import graft
        >>> graft("embedded:chest", "lora", targets=("image.blocks.3.attn.?",)).coverage()["lora"]
        {'image.blocks.3.attn.?': ['image.blocks.3.attn.q', 'image.blocks.3.attn.k', 'image.blocks.3.attn.v']}
    """

    def __init__(self, hits: Mapping[str, Mapping[str, Iterable[str]]], title: str, sites: Mapping[str, Site]) -> None:
        super().__init__({a: {p: list(names) for p, names in patterns.items()} for a, patterns in hits.items()})
        self._title, self._sites = title, sites

    def tree(self) -> str:
        """The sites by block, each with the adapters and patterns that hit it; equal neighbours share a line."""
        hit: dict[str, list[str]] = {}
        for adapter, patterns in self.items():
            for pattern, names in patterns.items():
                for name in names:
                    hit.setdefault(name, []).append(adapter if pattern == name else f"{adapter} ({pattern})")
        groups: list[tuple[str, list[tuple[str, str]]]] = []
        for block, sites in groupby(self._in_order(), key=_block_name):
            leaves = [(_leaf(site, block), ", ".join(hit.get(site.name, ()))) for site in sites]
            groups.append((block, leaves))
        lines = [self._title]
        for leaves, run in groupby(groups, key=lambda group: group[1]):
            blocks = [block for block, _ in run]
            if blocks[0]:
                more = f" ... {blocks[-1]} ({len(blocks)} alike)" if len(blocks) > 1 else ""
                lines.append(f"  {blocks[0]}{more}")
            indent = "    " if blocks[0] else "  "
            lines += [f"{indent}{name:<28} {by or '.'}".rstrip() for name, by in leaves]
        return "\n".join(lines)

    def _in_order(self) -> list[Site]:
        """Sites of one block together, towers and blocks in their order."""
        towers = list(dict.fromkeys(site.tower for site in self._sites.values()))

        def place(site: Site) -> tuple[int, int, int]:
            outside = {"input": 0, "features": 3}.get(site.kind, 1)
            return (
                towers.index(site.tower),
                outside if site.block is None else 2,
                -1 if site.block is None else site.block,
            )

        return sorted(self._sites.values(), key=place)

    __repr__ = tree
    __str__ = tree


def _block_name(site: Site) -> str:
    if site.block is None:
        return ""
    return f"{site.tower}.blocks.{site.block}" if site.tower else f"blocks.{site.block}"


def _leaf(site: Site, block: str) -> str:
    if not block or site.name == block:
        return site.name if not block else "(output)"
    if site.name.startswith(f"{block}."):
        return site.name[len(block) + 1 :]
    # A layer without a canonical name goes by its module path, whose block number differs from block to block.
    _, number, rest = site.name.partition(f".{site.block}.")
    return rest if number else site.name
