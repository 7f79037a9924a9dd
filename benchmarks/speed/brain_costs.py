"""What a Brain-Adapter saves beside full fine-tuning of the same 3D encoder.

``python -m benchmarks.speed.brain_costs`` writes a Markdown table. Three claims are asked about: 70% less training
time, 45% less memory, inference 2.3 times as fast, each against full fine-tuning. A step is forward, cross-entropy of a
linear head, backward and AdamW; memory is the largest sum of tensors above the weights during a first step, gradients
and the optimiser's state among them; inference is a forward pass without gradients. Ways run in turns in one process,
and ratios are medians over the rounds of processor time. Weights are random: costs do not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medgraft import Grafted, build_encoder, graft
from medgraft.benchmarks.measure.costs import peak_allocation

REFERENCE = "full_finetune"
WAYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    REFERENCE: (REFERENCE, {}),
    "brain_adapter": ("brain_adapter", {}),
    "brain_adapter, recompute": ("brain_adapter", {"recompute": True}),
    "brain_adapter, blocks": ("brain_adapter", {"where": "blocks"}),
    "linear_probe": ("linear_probe", {}),
}
"""Row -> adapter and options; the probe is the least that any graft can cost."""
CLAIMS = {"training time": 0.30, "memory": 0.55, "inference time": 1 / 2.3}
"""Share of full fine-tuning that is claimed."""


class Subject:
    """A graft that is trained and asked.

    Args:
        encoder: Name of a 3D encoder, whose weights are copied for this graft.
        adapter: Name.
        options: Of the adapter.
        batch: Volumes at once.
    """

    def __init__(self, encoder: str, adapter: str, options: dict[str, Any], batch: int) -> None:
        torch.manual_seed(0)
        self.grafted: Grafted = graft(build_encoder(encoder), adapter, **options)
        spec = self.grafted.encoder.spec
        self.x = torch.rand(batch, spec.channels, *spec.input_size)
        self.head = nn.Linear(spec.dim, 2)
        self.target = torch.arange(batch) % 2
        self.parameters = [*self.grafted.trainable_parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)

    def step(self) -> None:
        """One training step."""
        self.grafted.train()
        loss = nn.functional.cross_entropy(self.head(self.grafted(self.x).pooled), self.target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def infer(self) -> Tensor:
        """One forward pass, logits ``[B, 2]``."""
        self.grafted.eval()
        return self.head(self.grafted(self.x).pooled)


def seconds(run: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(encoder: str, batch: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Numbers of each row: trainable parameters, peak bytes, and of each round the times of a step and a pass."""
    found: dict[str, dict[str, list[float]]] = {}
    subjects: dict[str, Subject] = {}
    for row, (adapter, options) in WAYS.items():
        subject = subjects[row] = Subject(encoder, adapter, options, batch)
        peak = peak_allocation(subject.step)  # the first step, and what a first call alone pays
        trained = sum(parameter.numel() for parameter in subject.parameters)
        found[row] = {"trainable": [trained], "memory": [float(peak or 0)], "training time": [], "inference time": []}
    for turn in range(rounds):
        names = list(WAYS)
        for row in names[turn % len(names) :] + names[: turn % len(names)]:
            found[row]["training time"].append(seconds(subjects[row].step))
            found[row]["inference time"].append(seconds(subjects[row].infer))
    return found


def table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Lines of Markdown: each number, and its share of full fine-tuning beside the one that is claimed."""
    heads = [
        "row",
        "trainable",
        "a step",
        "memory",
        "a pass",
        *(f"{name} (claim {at:.2f})" for name, at in CLAIMS.items()),
    ]
    lines = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    reference = found[REFERENCE]
    for row, numbers in found.items():
        shares = [
            statistics.median(a / b for a, b in zip(numbers[name], reference[name], strict=True)) for name in CLAIMS
        ]
        marks = [
            "" if row == REFERENCE else " met" if s <= at else " **not met**"
            for s, at in zip(shares, CLAIMS.values(), strict=True)
        ]
        cells = [f"{share:.2f}{mark}" for share, mark in zip(shares, marks, strict=True)]
        step, infer = (statistics.median(numbers[name]) for name in ("training time", "inference time"))
        own = [
            f"{numbers['trainable'][0]:,.0f}",
            f"{step:.2f} s",
            f"{numbers['memory'][0] / 1e9:.2f} GB",
            f"{infer:.2f} s",
        ]
        lines.append(f"| {row} | {' | '.join([*own, *cells])} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the table to the standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="m3d:clip@random")
    parser.add_argument("--batch", type=int, default=1, help="volumes at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = table(measure(options.encoder, options.batch, options.rounds))
    said = f"{options.encoder}, batch {options.batch}, {options.rounds} rounds, {options.threads} thread(s), fp32."
    sys.stdout.write("\n".join([*lines, "", said]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
