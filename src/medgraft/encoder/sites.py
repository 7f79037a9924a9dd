"""Sites: the named places of an encoder where an adapter can attach, and the patterns that choose them."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from medgraft.encoder.attention import PROJECTIONS, AttentionLayout
from medgraft.errors import IncompatibleError
from medgraft.typed.pytorch import named_modules

SiteKind = Literal["input", "block", "branch", "projection", "layer", "norm", "features"]
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SPELLED = {"q": "query", "k": "key", "v": "value", "kv": "key_value", "qkv": "query_key_value", "out": "output"}
"""Last parts of paths that are words of the canonical projections, and what a layer elsewhere is called instead."""
NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,  # pyright: ignore[reportPrivateUsage]  # no other name of all its kinds
)


@dataclass(frozen=True)
class Site:
    """One place.

    Attributes:
        name: Canonical name, the one that patterns match.
        kind: ``input`` (the prepared batch), ``block`` (a block's output), ``branch`` (what a block's attention or MLP
            adds to the tokens), ``projection`` (q, k or v), ``layer`` (any other linear or convolution), ``norm``,
            ``features`` (the encoder's result).
        path: Module path inside the encoder; empty for ``input`` and ``features`` of a single tower.
        tower: Modality of the tower in a dual encoder, else empty.
        block: Index of the block it lies in, ``None`` outside of blocks.
        stage: First stage of the encoder that an adapter here changes; all before it can be computed once.
        rows: Rows of the weight that belong to this projection, ``None`` for all.
        in_mha: The projection lies in an ``nn.MultiheadAttention``, whose weights no submodule's forward sees; for a
            branch, that it is one.
        entry: Path of the module whose input is what the branch reads; empty for other kinds.
    """

    name: str
    kind: SiteKind
    path: str
    tower: str = ""
    block: int | None = None
    stage: int = 0
    rows: slice | None = None
    in_mha: bool = False
    entry: str = ""

    @property
    def key(self) -> str:
        """The name as the key of a module, which has no dot."""
        return self.name.replace(".", "/")

    def within(self, tower: str, prefix: str) -> Site:
        """The same site as seen from the dual encoder that holds the tower under ``prefix``."""
        path = f"{prefix}.{self.path}" if self.path else prefix
        entry = f"{prefix}.{self.entry}" if self.entry else ""
        return dataclasses.replace(self, name=f"{tower}.{self.name}", path=path, entry=entry, tower=tower)


def block_roots(layouts: Sequence[AttentionLayout]) -> list[str]:
    """Module path of the block around each attention: up to the last number in the attention's path.

    For towers that run whole and so name no blocks of their own.

    Example:
        >>> block_roots([AttentionLayout("split", "model.layers.0.self_attn.q_proj", heads=2, dim=8)])
        ['model.layers.0']
    """
    roots: list[str] = []
    for layout in layouts:
        parts = layout.path.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        roots.append(".".join(parts[: numbers[-1] + 1]) if numbers else "")
    return roots


def branch_sites(
    root: nn.Module, layouts: Sequence[AttentionLayout], blocks: Sequence[str], stages: Sequence[int]
) -> dict[str, Site]:
    """Sites ``blocks.{i}.attn`` and ``blocks.{i}.mlp``: what the two branches of each block add to its tokens.

    A branch ends at its projection back to the width of the tokens, before any layer scale. The MLP is every linear
    of the block that lies outside of the attention, the first of which reads and the last of which writes.
    """
    sites: dict[str, Site] = {}
    for index, (layout, block) in enumerate(zip(layouts, blocks, strict=False)):
        stage, mha = stages[index] if stages else 0, layout.style == "mha"
        if output := layout.path if mha else layout.out_path:
            name = f"blocks.{index}.attn"
            sites[name] = Site(name, "branch", output, "", index, stage, in_mha=mha, entry=layout.path)
        linears = mlp_linears(root, block, layout)
        if linears:
            name = f"blocks.{index}.mlp"
            sites[name] = Site(name, "branch", linears[-1], "", index, stage, entry=linears[0])
    return sites


def mlp_linears(root: nn.Module, block: str, layout: AttentionLayout) -> list[str]:
    """Paths of the linears of a block outside of its attention; none unless they map the tokens' width to itself.

    Args:
        root: The encoder.
        block: Path of the block inside of it.
        layout: The block's attention.
    """
    projections = {layout.path, layout.key_path, layout.value_path, layout.out_path} - {""}
    parents = {path if layout.style == "mha" else path.rpartition(".")[0] for path in projections} - {block}
    linears: list[tuple[str, nn.Linear]] = []
    for name, module in named_modules(root.get_submodule(block)):
        path = f"{block}.{name}" if block else name
        inside = any(path.startswith(f"{parent}.") for parent in parents)
        if isinstance(module, nn.Linear) and path not in projections and not inside:
            linears.append((path, module))
    if len(linears) < 2 or linears[0][1].in_features != linears[-1][1].out_features:
        return []
    return [path for path, _ in linears]


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm with a weight per channel, PyTorch's or a library's own (LLaMA's ``LlamaRMSNorm``)."""
    weight = getattr(module, "weight", None)
    if isinstance(module, NORMS):
        return weight is not None
    named = type(module).__name__.endswith("Norm") and next(module.children(), None) is None
    return named and isinstance(weight, nn.Parameter) and weight.ndim == 1


def norm_sites(root: nn.Module, blocks: Sequence[str], stages: Sequence[int]) -> dict[str, Site]:
    """Every normalisation with a weight, by its module path."""
    sites: dict[str, Site] = {}
    for path, module in named_modules(root):
        if not is_norm(module):
            continue
        block = _block_of(path, blocks)
        sites[path] = Site(path, "norm", path, "", block, stages[block] if block is not None and stages else 0)
    return sites


def _block_of(path: str, blocks: Sequence[str]) -> int | None:
    return next((i for i, prefix in enumerate(blocks) if path.startswith(f"{prefix}.")), None)


def attention_sites(layouts: Sequence[AttentionLayout], stages: Sequence[int]) -> dict[str, Site]:
    """Sites ``blocks.{i}.attn.{q,k,v,out}`` of a sequence of attention layouts."""
    sites: dict[str, Site] = {}
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
    root: nn.Module, claimed: set[str], block_paths: Sequence[str], stages: Sequence[int], spelled: bool = False
) -> dict[str, Site]:
    """Every linear and convolution that is called as a module and has no canonical name yet.

    Where blocks have canonical projections, ``q`` means theirs. A pooling head's ``attn_pool.q`` (SigLIP, PE) is
    another attention, over one learnt query, and goes by ``attn_pool.query``; so do cross-attentions.

    The output projection inside an ``nn.MultiheadAttention`` is left out: its forward is never called, so an adapter
    there would hold parameters that get no gradient.

    Args:
        root: The encoder.
        claimed: Paths that have a canonical name.
        block_paths: Paths of the blocks.
        stages: Stage of each block.
        spelled: Whether the encoder has canonical projections.
    """
    bypassed = {
        f"{path}.out_proj" if path else "out_proj"
        for path, module in named_modules(root)
        if isinstance(module, nn.MultiheadAttention)
    }
    sites: dict[str, Site] = {}
    for path, module in named_modules(root):
        if path in claimed or path in bypassed or not isinstance(module, LINEAR):
            continue
        block = _block_of(path, block_paths)
        stage = stages[block] if block is not None and stages else 0
        parent, _, last = path.rpartition(".")
        name = f"{parent}.{SPELLED[last]}" if spelled and parent and last in SPELLED else path
        sites[name] = Site(name, "layer", path, "", block, stage)
    return sites


def _matches(site: Site, pattern: str) -> bool:
    local = site.name.removeprefix(f"{site.tower}.") if site.tower else site.name
    names = {site.name, local}
    last = site.path.rpartition(".")[2]
    # ``*.q`` asks for what is called q anywhere, and no layer that goes by another name for that very reason.
    renamed = last in SPELLED and local.endswith(f".{SPELLED[last]}")
    if site.kind in ("layer", "norm") and not (renamed and pattern.lstrip("*?.") == last):
        names.add(site.path)
    if "." not in pattern and site.kind in ("projection", "layer", "norm"):
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
        IncompatibleError: Patterns hit nothing; a misspelt target would silently not train.
    """
    hits = {pattern: [site for site in sites.values() if _matches(site, pattern)] for pattern in patterns}
    if dead := [repr(pattern) for pattern, matches in hits.items() if not matches]:
        sample = ", ".join(list(sites)[:12])
        raise IncompatibleError(
            f"{what}: pattern {' and pattern '.join(dead)} matches no site of this encoder; it offers {len(sites)} "
            f"sites, for example {sample}"
        )
    return hits
