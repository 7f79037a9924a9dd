"""The last block for the CLS token alone, where nothing reads the others.

A head that reads the CLS token needs one row of the last block: its query, every key and value, and then one row of
the output projection and of the MLP. The other rows reach nothing, so leaving them out changes neither the features
that are read nor any gradient. In a ViT the last block shrinks to a quarter of its work, backward included.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import DualEncoder, Encoder
from medgraft.encoder.sites import Site, block_roots, mlp_linears
from medgraft.errors import ConfigError
from medgraft.fast.cls_attention import OneQuery
from medgraft.grafting import Grafted

Attention = Callable[..., Tensor]


class ClsReadOut:
    """Inside :meth:`running`, the last block of each tower that allows it computes the CLS row only.

    The tokens after it are undefined, except CLS. A tower allows it whose spec says that it pools by its CLS token,
    which runs its blocks on whole samples, and whose adapters treat tokens one by one
    (:attr:`medgraft.adapter.Adapter.token_wise`) and change nothing in the last block but its projections.

    Args:
        grafted: Its active adapters and their sites are looked at once, here.

    Attributes:
        towers: Modality -> tower, those that allow it.
    """

    def __init__(self, grafted: Grafted) -> None:
        self.towers = {name: tower for name, tower in grafted.towers().items() if _allows(grafted, name, tower)}
        self._mlps = {name: _last_mlp(tower) for name, tower in self.towers.items()}
        self._grafted, self._active = grafted, grafted.active

    @contextmanager
    def running(self, attention: Attention = F.scaled_dot_product_attention) -> Generator[Attention]:
        """The context to run the graft in, see :func:`medgraft.fast.forms.fast_forms`.

        Args:
            attention: What computes attentions.

        Yields:
            What is to stand in the place of ``F.scaled_dot_product_attention`` meanwhile.

        Raises:
            ConfigError: Other adapters are active than at the start.
        """
        if self._grafted.active != self._active:
            raise ConfigError(
                f"this ClsReadOut was made for the adapters {', '.join(self._active)}, and now "
                f"{', '.join(self._grafted.active) or 'none'} act; make another one"
            )
        with ExitStack() as stack:
            for name, tower in self.towers.items():
                attention = stack.enter_context(_narrowed(tower, self._mlps[name], attention))
            yield attention


def _allows(grafted: Grafted, name: str, tower: Encoder) -> bool:
    # Only where the encoder says so: a plugin that leaves the default may pool in any way.
    if tower.spec.pooling != "cls" or "pooling" not in tower.spec.model_fields_set:
        return False
    if not (tower.has_cls and tower.attention and tower.sliced == 1):
        return False
    if not all(adapter.token_wise for _, adapter in grafted.named_adapters()):
        return False
    sites = tower.sites()
    last = len(tower.attention) - 1
    if f"blocks.{last}.mlp" not in sites:
        return False
    touched = {hit for hits in _touched(grafted, name).values() for hit in hits}
    return all(_harmless(sites.get(hit), last) for hit in touched)


def _touched(grafted: Grafted, name: str) -> dict[str, set[str]]:
    """Adapter -> its sites in one tower, by their names there."""
    prefix = f"{name}." if isinstance(grafted.encoder, DualEncoder) else ""
    return {
        adapter: {hit.removeprefix(prefix) for hits in patterns.values() for hit in hits if hit.startswith(prefix)}
        for adapter, patterns in grafted.coverage().items()
    }


def _harmless(site: Site | None, last: int) -> bool:
    if site is None or site.kind == "features":
        return False
    return site.kind in ("projection", "input") or (site.block is not None and site.block < last)


@contextmanager
def _narrowed(tower: Encoder, mlp: Sequence[str], attention: Attention) -> Generator[Attention]:
    """One row through a tower's last block, wherever its other rows are not asked for."""
    layout = tower.attention[-1]
    handles = _one_row(tower, mlp[:-1], mlp[-1])
    if layout.out_path and layout.style != "mha":
        handles += _one_row(tower, [layout.out_path], layout.out_path)
        one = OneQuery(tower, layout, attention)
        handles += one.hooks()
        attention = one.attend
    try:
        yield attention
    finally:
        for handle in handles:
            handle.remove()


def _last_mlp(tower: Encoder) -> list[str]:
    """Paths of the linears of the last block's MLP; of a gated one, several read the tokens."""
    return mlp_linears(tower, (tower.block_paths() or block_roots(tower.attention))[-1], tower.attention[-1])


def _one_row(tower: Encoder, readers: Sequence[str], writer: str) -> list[Any]:
    """Hooks that hand the first row to a branch and give its result back among rows of zeros.

    Args:
        tower: The encoder.
        readers: Modules of the branch that read, the one that runs first in front.
        writer: The module whose result is the branch's.
    """
    lengths: list[int] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not lengths:
            lengths.append(args[0].shape[-2])
        return args[0][..., :1, :], *args[1:]

    def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return F.pad(output, (0, 0, 0, lengths.pop() - 1))

    handles = [tower.get_submodule(path).register_forward_pre_hook(enter) for path in readers]
    return [*handles, tower.get_submodule(writer).register_forward_hook(leave)]
