"""SwiFT's forward and backward against its published formula written plainly: ``python -m benchmarks.speed.swift``.

Both run the same parameters on the same window in turns, each first every other time, so that whatever else the machine
does falls on both; times are processor seconds of all threads, a ratio is that of a pair, and the table has the median.
Outputs and gradients are compared before anything is timed. Threads that wait for each other in a loop would count as
work, so set ``OMP_WAIT_POLICY=passive`` where others use the machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medgraft.benchmarks.speed.plain_swift import plain
from medgraft.encoders.swift import CONFIGS, SwiFT
from medgraft.errors import ConfigError

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.swift", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="a window of 16 x 16 x 16 x 4 in place of the published one"
    )
    parser.add_argument("--side", type=int, help="voxels of each axis, a multiple of 48; 96 as published by default")
    parser.add_argument("--rounds", type=int, default=7, help="pairs, default 7")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    options = parser.parse_args(arguments)
    if options.small and options.side is not None:
        parser.error("--small has a size of its own; leave out --side")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be 1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        sys.stdout.write("\n".join(table("tiny" if options.small else "hcp", options.rounds, options.side)) + "\n")
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
