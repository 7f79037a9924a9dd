"""The last block for the CLS token alone, where nothing reads the others.

A head that reads the CLS token needs one row of the last block: its query, every key and value, and then one row of
the output projection and of the MLP. The other rows reach nothing, so leaving them out changes neither the features
that are read nor any gradient. In a ViT the last block shrinks to a quarter of its work, backward included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medgraft.encoder import DualEncoder, Encoder
from medgraft.grafting import Grafted
from medgraft.sites import Site


class ClsReadOut:
    """Inside :meth:`running`, the last block of each tower that allows it computes the CLS row only.

    The tokens after it are undefined, except CLS. A tower allows it that pools by its CLS token and runs its blocks on
    whole samples, and whose adapters treat tokens one by one (:attr:`medgraft.adapter.Adapter.row_wise`) and change
    nothing in the last block but its projections.

    Args:
        grafted: Its active adapters and their sites are looked at once, here.

    Attributes:
        towers: Modality -> tower, those that allow it.
    """

    def __init__(self, grafted: Grafted) -> None:
        self.towers = {name: tower for name, tower in grafted.towers().items() if _allows(grafted, name, tower)}
        self._sites = {name: tower.sites() for name, tower in self.towers.items()}

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context to run the graft in."""
        with ExitStack() as stack:
            for name, tower in self.towers.items():
                stack.enter_context(_narrowed(tower, self._sites[name]))
            yield


def _allows(grafted: Grafted, name: str, tower: Encoder) -> bool:
    if tower.spec.pooling != "cls" or not (tower.has_cls and tower.attention and tower.sliced == 1):
        return False
    if not all(adapter.row_wise for _, adapter in grafted.named_adapters()):
        return False
    sites = tower.sites()
    last = len(tower.attention) - 1
    if f"blocks.{last}.mlp" not in sites:
        return False
    prefix = f"{name}." if isinstance(grafted.encoder, DualEncoder) else ""
    touched = {hit for patterns in grafted.coverage().values() for found in patterns.values() for hit in found}
    return all(_harmless(sites.get(hit.removeprefix(prefix)), last) for hit in touched if hit.startswith(prefix))


def _harmless(site: Site | None, last: int) -> bool:
    if site is None or site.kind == "features":
        return False
    return site.kind in ("projection", "input") or (site.block is not None and site.block < last)


@contextmanager
def _narrowed(tower: Encoder, sites: Mapping[str, Site]) -> Iterator[None]:
    """One row through what follows the attention of a tower's last block."""
    last = len(tower.attention) - 1
    layout = tower.attention[last]
    handles = _one_row(tower, sites[f"blocks.{last}.mlp"])
    if layout.out_path and layout.style != "mha":
        handles += _one_row(tower, Site("", "branch", layout.out_path, entry=layout.out_path))
        mode = _OneQuery()
        handles.append(tower.get_submodule(layout.path).register_forward_pre_hook(mode.arm))
        handles.append(tower.get_submodule(layout.out_path).register_forward_pre_hook(mode.disarm))
    else:
        mode = nullcontext()
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _one_row(tower: Encoder, branch: Site) -> list[Any]:
    """Hooks that hand the first row to a branch and give its result back among rows of zeros."""
    lengths: list[int] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        lengths[:] = [args[0].shape[-2]]
        return args[0][..., :1, :], *args[1:]

    def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return F.pad(output, (0, 0, 0, lengths.pop() - 1))

    first = tower.get_submodule(branch.entry).register_forward_pre_hook(enter)
    return [first, tower.get_submodule(branch.path).register_forward_hook(leave)]


class _OneQuery(TorchFunctionMode):
    """Attention for the first query alone between the projections of the last block and its output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False

    def arm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.armed = True

    def disarm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.armed = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not self.armed or len(args) < 3 or kwargs.get("is_causal"):
            return func(*args, **kwargs)
        q, rest = args[0], list(args[1:])
        if len(rest) > 2 and rest[2] is not None:
            rest[2] = _first_query(rest[2])
        if kwargs.get("attn_mask") is not None:
            kwargs = kwargs | {"attn_mask": _first_query(kwargs["attn_mask"])}
        return F.pad(func(q[..., :1, :], *rest, **kwargs), (0, 0, 0, q.shape[-2] - 1))


def _first_query(mask: Tensor) -> Tensor:
    return mask[..., :1, :] if mask.shape[-2] > 1 else mask
