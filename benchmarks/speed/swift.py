"""SwiFT's forward and backward against its published formula written plainly: ``python -m benchmarks.speed.swift``.

Both run the same parameters on the same window in turns, each first every other time, so that whatever else the machine
does falls on both; times are processor seconds of all threads, a ratio is that of a pair, and the table has the median.
Outputs and gradients are compared before anything is timed. Threads that wait for each other in a loop would count as
work, so set ``OMP_WAIT_POLICY=passive`` where others use the machine.

``--cache`` asks instead what the prefix cache saves of training adapters on the frozen network: the same steps, with
every step from the windows themselves, and from what is kept of the stages in front of the adapter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.benchmarks.prefix_cache.inputs import PreparedInputs, prepare, tower_inputs
from medgraft.benchmarks.speed.plain_swift import plain
from medgraft.encoder import Encoder
from medgraft.encoders.swift import CONFIGS, SwiFT, SwiftSource
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.grafting import graft
from medgraft.task import RawInputs

TOLERANCE = 1e-5
"""Largest difference of outputs and of gradients, each as a share of the largest number among the plain form's."""

Form = Callable[[Tensor], Tensor]


def build(config: str, side: int | None = None) -> tuple[SwiFT, Tensor]:
    """A network with parameters drawn, and a window for it, ``[1, 1, H, W, D, T]``.

    Args:
        config: Of the source ``swift``.
        side: Voxels of each axis, in place of the configuration's.

    Raises:
        ConfigError: The patches and stages do not divide the side.
    """
    options = dict(CONFIGS[config])
    if side is not None:
        options["img_size"] = (side, side, side, options["img_size"][3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SwiFT(**options).eval()
        return network, torch.randn(1, network.in_chans, *network.img_size)


def forward(form: Form, x: Tensor) -> Tensor:
    """Features ``[B, C, h, w, d, T]`` of a window without a graph, as of a frozen encoder."""
    with torch.no_grad():
        return form(x)


def step(form: Form, x: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of all parameters that matter for a window ``[B, C, H, W, D, T]``, as in full fine-tuning."""
    gradients = torch.autograd.grad(form(x).square().mean(), parameters, allow_unused=True)
    return [each for each in gradients if each is not None]


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest difference between tensors of any shape, as a share of the largest number of each of ``theirs``."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def pairs(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Processor seconds of both forms, one pair for each round; they take turns at being the first."""
    found: list[tuple[float, float]] = []
    for number in range(rounds):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        seconds: dict[int, float] = {}
        for each in order:
            start = time.process_time()
            each()
            seconds[id(each)] = time.process_time() - start
        found.append((seconds[id(ours)], seconds[id(theirs)]))
    return found


def table(config: str, rounds: int, side: int | None = None) -> list[str]:
    """The report as Markdown.

    Raises:
        ConfigError: The two forms do not agree.
    """
    network, x = build(config, side)
    parameters = list(network.parameters())
    formula: Form = lambda x: plain(network, x)  # noqa: E731
    agreement = {
        "forward": apart([forward(network, x)], [forward(formula, x)]),
        "forward and backward": apart(step(network, x, parameters), step(formula, x, parameters)),
    }
    if max(agreement.values()) > TOLERANCE:
        raise ConfigError(f"the two forms of SwiFT differ by {max(agreement.values()):.1e} of their largest number")
    work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "forward": (lambda: forward(network, x), lambda: forward(formula, x)),
        "forward and backward": (lambda: step(network, x, parameters), lambda: step(formula, x, parameters)),
    }
    lines = ["| | plain, s | medgraft, s | ratio (from to) | largest difference |", "|---|---|---|---|---|"]
    for name, (ours, theirs) in work.items():
        times = pairs(ours, theirs, rounds)
        ratios = sorted(b / a for a, b in times)
        a, b = (statistics.median(each) for each in zip(*times, strict=True))
        middle = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {name} | {b:.3g} | {a:.3g} | {middle} | {agreement[name]:.0e} |")
    size = " x ".join(map(str, network.img_size))
    return [
        *lines,
        "",
        f"swift:{config}, one window of {size}, {rounds} pairs, {torch.get_num_threads()} threads, fp32.",
    ]


SECOND: Mapping[str, tuple[str, dict[str, Any]]] = {
    "linear_probe": ("linear_probe", {}),
    "lora, last third": ("lora", {"depth": "up"}),
    "lora, all blocks": ("lora", {}),
}
"""Row of the table of the cache -> adapter and options, from all of the network in front of it to its first layer."""


@dataclass(frozen=True)
class Cached:
    """Processor seconds of training one adapter.

    Attributes:
        stages: Stages that stay frozen in front of it, and all stages.
        without: With every step from the windows.
        fill: Of running the frozen stages once on all windows.
        steps: Of the same steps, from what was kept.
        kept: Bytes on disk.
        apart: Largest difference of a step's loss between the two ways, as a share of it.
    """

    stages: tuple[int, int]
    without: float
    fill: float
    steps: float
    kept: int
    apart: float


def noisy_runs(encoder: Encoder, runs: int) -> PreparedInputs:
    """Windows of runs of noise, prepared for an encoder of one window; costs do not depend on what they show."""
    frames, *space = encoder.spec.input_size

    def read(i: int) -> np.ndarray:
        return np.random.default_rng([3, i]).random((frames, *space), dtype=np.float32) + 1

    return prepare(RawInputs(read, runs, f"noise {runs} {encoder.spec.input_size}"), encoder, encoder.spec.name)


def with_and_without_cache(
    encoder: Encoder, inputs: PreparedInputs, adapter: str, options: Mapping[str, Any], epochs: int
) -> Cached:
    """Trains an adapter and a linear head twice from the same start on the same batches, a window each.

    Args:
        encoder: Frozen.
        inputs: Its windows, ``[n, ...]``.
        adapter: Name.
        options: Of the adapter.
        epochs: Passes over the windows.
    """

    def trained(stage: int, read: Callable[[np.ndarray], Tensor | Features]) -> tuple[float, list[float]]:
        torch.manual_seed(0)
        grafted, head = graft(encoder, adapter, **options), nn.Linear(encoder.spec.dim, 2)
        optimizer = torch.optim.AdamW([*grafted.trainable_parameters(), *head.parameters()], lr=1e-3)
        losses, start = [], time.process_time()
        for number in list(range(len(inputs.array))) * epochs:
            rows = {modality: read(np.array([number]))}
            pooled = grafted.train().encode(rows, {modality: stage})[modality].pooled
            loss = F.cross_entropy(head(pooled), torch.tensor([number % 2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        spent = time.process_time() - start
        grafted.ungraft()
        return spent, losses

    modality = encoder.spec.modality
    grafted = graft(encoder, adapter, **options)
    (stage,), weights = grafted.first_stage().values(), grafted.base_digest
    condenser = grafted.condensers().get(modality)
    grafted.ungraft()
    without, expected = trained(0, inputs.batch)
    start = time.process_time()
    rows = tower_inputs(inputs, encoder, stage, weights, condenser=condenser)
    fill = time.process_time() - start
    steps, found = trained(stage, rows.batch)
    apart = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    kept = rows.use.size if rows.use else 0
    return Cached((stage, encoder.n_stages), without, fill, steps, kept, apart)


def cache_table(config: str, runs: int, epochs: int, side: int | None = None) -> list[str]:
    """What the cache saves, as Markdown.

    Args:
        config: Of the source ``swift``.
        runs: Windows, one of each run.
        epochs: Passes over them.
        side: Voxels of each axis, in place of the configuration's.
    """
    size = {} if side is None else {"img_size": (side, side, side, CONFIGS[config]["img_size"][3])}
    encoder = SwiftSource.make(config, "random", None, windows=1, **size)
    heads = [
        "adapter",
        "frozen stages",
        "no cache, s",
        "first, s",
        "second, s",
        "saved by the second",
        "kept, MB",
        "losses",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    inputs = noisy_runs(encoder, runs)
    for row, (adapter, options) in SECOND.items():
        each = with_and_without_cache(encoder, inputs, adapter, options, epochs)
        cells = [f"`{row}`", f"{each.stages[0]} of {each.stages[1]}", f"{each.without:.3g}"]
        cells += [f"{each.fill + each.steps:.3g}", f"{each.steps:.3g}", f"{1 - each.steps / each.without:.0%}"]
        lines.append(f"| {' | '.join([*cells, f'{each.kept / 1e6:.3g}', f'{each.apart:.0e}'])} |")
    size_text = " x ".join(map(str, (*encoder.spec.input_size[1:], encoder.spec.input_size[0])))
    said = f"{runs} windows of {size_text}, {epochs} epochs, batches of one, {torch.get_num_threads()} threads, fp32."
    return [*lines, "", f"swift:{config}, {said}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.swift", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="a window of 16 x 16 x 16 x 4 in place of the published one"
    )
    parser.add_argument("--side", type=int, help="voxels of each axis, a multiple of 48; 96 as published by default")
    parser.add_argument("--rounds", type=int, default=7, help="pairs, default 7")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--cache", action="store_true", help="time the prefix cache in place of the formula")
    parser.add_argument("--runs", type=int, default=8, help="windows that --cache trains on, default 8")
    parser.add_argument("--epochs", type=int, default=5, help="passes of --cache over them, default 5")
    options = parser.parse_args(arguments)
    if options.small and options.side is not None:
        parser.error("--small has a size of its own; leave out --side")
    if min(options.rounds, options.threads, options.runs, options.epochs) < 1:
        parser.error("--rounds, --threads, --runs and --epochs must be 1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    config = "tiny" if options.small else "hcp"
    try:
        with tempfile.TemporaryDirectory(prefix="medgraft-swift-") as folder:
            os.environ["MEDGRAFT_CACHE"] = folder
            lines = (
                cache_table(config, options.runs, options.epochs, options.side)
                if options.cache
                else table(config, options.rounds, options.side)
            )
        sys.stdout.write("\n".join(lines) + "\n")
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
