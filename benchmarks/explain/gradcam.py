"""Grad-CAM (Selvaraju et al., ICCV 2017) by captum, at the encoder's deepest places that the decision depends on."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.benchmarks.explain.captum_library import captum_attr
from medgraft.benchmarks.explain.scorer import Scorer
from medgraft.encoder import Encoder
from medgraft.errors import ConfigError

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


class Probe(nn.Module):
    """Lets maps ``[B, C, *grid]`` through; a layer that captum can look at where the encoder has tokens."""

    def forward(self, maps: Tensor) -> Tensor:
        """The maps, ``[B, C, *grid]``, part of a graph of gradients though nothing before them is trained."""
        maps = maps.clone()
        return maps if maps.requires_grad else maps.requires_grad_()


def gradcam(scorer: Scorer, x: Tensor, target: int) -> Tensor:
    """Positive part of the channels' sum, each weighed by the mean gradient of the class's logit.

    The maps are the output of a block (of a CNN without blocks: of a convolution), the deepest one whose places the
    logit depends on. For a vision transformer that is read at its CLS token this is the input of the last block, since
    behind it no patch counts. Adapters act before and behind it.

    Args:
        scorer: The graft.
        x: One prepared image or volume, ``[1, C, *size]``.
        target: Number of the class.

    Returns:
        At least 0, on the grid of that place, ``[*grid]``.

    Raises:
        ConfigError: captum is missing, or the encoder has no places that the decision depends on.
    """
    library = captum_attr()
    probe = Probe()
    for layer in _candidates(scorer):
        with _probed(scorer, layer, probe, x):
            if _depends(scorer, probe, x, target):
                attribution = library.LayerGradCam(scorer, probe).attribute(x, target=target, relu_attributions=True)
                return attribution.detach()[0, 0]
    name = scorer.tower.spec.name
    raise ConfigError(
        f"gradcam needs a layer with places that the decision depends on, and encoder {name} has none; use occlusion"
    )


def _candidates(scorer: Scorer) -> list[nn.Module]:
    """What may give maps, deepest first: blocks, then convolutions of the encoder, then those that an adapter is."""
    tower = scorer.tower
    paths = tower.block_paths() or [site.path for site in tower.sites().values() if site.kind == "block"]
    blocks = [tower.get_submodule(path) for path in reversed(paths)]
    adapters = {id(module) for module in scorer.grafted.adapters.modules()}
    convolutions = [module for module in scorer.grafted.modules() if isinstance(module, CONVOLUTIONS)]
    own = [module for module in tower.modules() if isinstance(module, CONVOLUTIONS) and id(module) not in adapters]
    others = [module for module in convolutions if id(module) in adapters]
    return [*blocks, *reversed(own), *reversed(others)]


@contextmanager
def _probed(scorer: Scorer, layer: nn.Module, probe: Probe, x: Tensor) -> Generator[None]:
    """Inside, what a module gives goes through the probe, adapters' changes of it included."""
    tower, grid = scorer.tower, _grid(scorer, x)

    def through(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor) or (arrange := _arranged(first, tower, grid)) is None:
            return None
        maps, back = arrange
        changed = back(probe(maps))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(through)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _grid(scorer: Scorer, x: Tensor) -> tuple[int, ...]:
    """The grid of the tokens inside the blocks."""
    if scorer.tower.block_grid is not None:
        return scorer.tower.block_grid[1]
    return scorer.features(x)[scorer.modality].grid


def _arranged(x: Tensor, tower: Encoder, grid: tuple[int, ...]) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """A hidden state as maps ``[B, C, *grid]``, and the way back; ``None`` for what has no places.

    Maps have their channels first or, as in Swin, last; tokens lie on the grid behind those that stand for no place.
    """
    axes, width = len(tower.spec.input_size), tower.spec.dim
    if tower.sliced > 1:
        return _of_slices(x, tower, grid)
    if x.ndim == axes + 2:
        if math.prod(x.shape[2:]) <= 1:
            return None
        if x.shape[1] != width and x.shape[-1] == width:
            return x.movedim(-1, 1), lambda maps: maps.movedim(1, -1)
        return x, lambda maps: maps.clone()  # the next layer may write into it
    before = x.shape[1] - math.prod(grid)
    if x.ndim != 3 or len(grid) != axes or before < 0 or math.prod(grid) <= 1:
        return None
    maps = x[:, before:].transpose(1, 2).unflatten(2, grid)
    return maps, lambda maps: torch.cat([x[:, :before], maps.flatten(2).transpose(1, 2)], dim=1)


def _of_slices(x: Tensor, tower: Encoder, grid: tuple[int, ...]) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """The same where blocks run on slices, ``[B * S, N, C]`` -> ``[B, C, S, *grid]``."""
    places = math.prod(grid[1:])
    if x.ndim != 3 or x.shape[1] < places or len(x) % tower.sliced:
        return None
    before = x.shape[1] - places
    maps = x[:, before:].unflatten(0, (-1, tower.sliced)).movedim(-1, 1).unflatten(3, grid[1:])

    def back(maps: Tensor) -> Tensor:
        rows = maps.flatten(3).movedim(1, -1).flatten(0, 1)
        return torch.cat([x[:, :before], rows], dim=1)

    return maps, back


def _depends(scorer: Scorer, probe: Probe, x: Tensor, target: int) -> bool:
    """Whether the target's logit changes with what goes through the probe."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(output)

    handle = probe.register_forward_hook(note)  # pyright: ignore[reportArgumentType]
    try:
        with torch.enable_grad():
            logit = scorer(x)[0, target]
    finally:
        handle.remove()
    if len(seen) != 1 or not logit.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(logit, seen, allow_unused=True)
    return gradient is not None and bool(gradient.abs().sum() > 0)
