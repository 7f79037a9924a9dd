"""Sites: the named places of an encoder where an adapter can attach, and the patterns that choose them."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from medgraft.attention import PROJECTIONS, AttentionLayout
from medgraft.errors import IncompatibleError

SiteKind = Literal["input", "block", "projection", "layer", "features"]


@dataclass(frozen=True)
class Site:
    """One place.

    Attributes:
        name: Canonical name, the one that patterns match.
        kind: ``input`` (the prepared batch), ``block`` (a block's output), ``projection`` (q, k or v), ``layer`` (any
            other linear or convolution), ``features`` (the encoder's result).
        path: Module path inside the encoder; empty for ``input`` and ``features`` of a single tower.
        tower: Modality of the tower in a dual encoder, else empty.
        block: Index of the block it lies in, ``None`` outside of blocks.
        stage: First stage of the encoder that an adapter here changes; all before it can be computed once.
        rows: Rows of the weight that belong to this projection, ``None`` for all.
        in_mha: The projection lies in an ``nn.MultiheadAttention``, whose weights no submodule's forward sees.
    """

    name: str
    kind: SiteKind
    path: str
    tower: str = ""
    block: int | None = None
    stage: int = 0
    rows: slice | None = None
    in_mha: bool = False

    def within(self, tower: str, prefix: str) -> Site:
        """The same site as seen from the dual encoder that holds the tower under ``prefix``."""
        path = f"{prefix}.{self.path}" if self.path else prefix
        return dataclasses.replace(self, name=f"{tower}.{self.name}", path=path, tower=tower)


def attention_sites(layouts: Sequence[AttentionLayout], stages: Sequence[int]) -> dict[str, Site]:
    """Sites ``blocks.{i}.attn.{q,k,v,out}`` of a sequence of attention layouts."""
    sites = {}
    for index, layout in enumerate(layouts):
        stage = stages[index] if stages else 0
        for projection in PROJECTIONS:
            path, rows = layout.location(projection)
            name = f"blocks.{index}.attn.{projection}"
            sites[name] = Site(name, "projection", path, "", index, stage, rows, layout.style == "mha")
        if layout.out_path:
            name = f"blocks.{index}.attn.out"
            sites[name] = Site(name, "layer", layout.out_path, "", index, stage)
    return sites


def layer_sites(
    root: nn.Module, claimed: set[str], block_paths: Sequence[str], stages: Sequence[int]
) -> dict[str, Site]:
    """Every linear and convolution that is called as a module and has no canonical name yet.

    The output projection inside an ``nn.MultiheadAttention`` is left out: its forward is never called, so an adapter
    there would hold parameters that get no gradient.
    """
    bypassed = {
        f"{path}.out_proj" if path else "out_proj"
        for path, module in root.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    sites = {}
    for path, module in root.named_modules():
        if path in claimed or path in bypassed or not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        block = next((i for i, prefix in enumerate(block_paths) if path.startswith(f"{prefix}.")), None)
        stage = stages[block] if block is not None and stages else 0
        sites[path] = Site(path, "layer", path, "", block, stage)
    return sites


def _matches(site: Site, pattern: str) -> bool:
    local = site.name.removeprefix(f"{site.tower}.") if site.tower else site.name
    names = {site.name, local}
    if site.kind == "layer":
        names.add(site.path)
    if "." not in pattern and site.kind in ("projection", "layer"):
        names.add(site.name.rsplit(".", 1)[-1])
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def match_sites(sites: Mapping[str, Site], patterns: Iterable[str], what: str) -> dict[str, list[Site]]:
    """Resolves patterns to sites.

    A pattern is a shell-style glob over canonical site names (with or without the tower's name) or, for layers,
    module paths; one without a dot, such as ``q``, also matches the last part of a name (``blocks.3.attn.q``).

    Args:
        sites: What the encoder offers.
        patterns: Globs.
        what: Who asks, for the error: ``"lora.targets"``.

    Returns:
        Pattern -> sites it hit, in the encoder's order.

    Raises:
        IncompatibleError: A pattern hit nothing; a misspelt target would silently not train.
    """
    hits: dict[str, list[Site]] = {}
    for pattern in patterns:
        hits[pattern] = [site for site in sites.values() if _matches(site, pattern)]
        if not hits[pattern]:
            sample = ", ".join(list(sites)[:12])
            raise IncompatibleError(
                f"{what}: pattern {pattern!r} matches no site of this encoder; it offers {len(sites)} sites, "
                f"for example {sample}"
            )
    return hits
