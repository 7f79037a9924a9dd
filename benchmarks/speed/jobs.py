"""The jobs that ``benchmarks.speed`` compares, each as its peers would write it and as medgraft runs it.

One contender runs one job in a process of its own: ``python -m medgraft.benchmarks.speed.jobs '{"job": ...}'`` prints
one line of JSON. All contenders of a job train the same functions from the same start on the same batches in the same
order, so their final losses agree up to rounding. Building models, preparing inputs and one warm-up step per adapter
(which compiles where something is compiled) are not timed; medgraft's pass through the frozen part is.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.benchmarks.measure.costs import peak_allocation
from medgraft.benchmarks.speed.contenders import (
    ADAPTERS,
    CLASSES,
    Contender,
    Order,
    build_tower,
    medgrafts,
    peers_lora,
    peers_tokens,
    prepared_images,
)


@dataclass
class Meter:
    """Adds up the time of what it is held around: of this process on a CPU, of events on a GPU.

    Attributes:
        device: ``cpu`` or ``cuda``.
        seconds: By part.
    """

    device: str
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """Adds what happens inside to a part."""
        if self.device == "cuda":
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            yield
            events[1].record()
            torch.cuda.synchronize()
            spent = events[0].elapsed_time(events[1]) / 1e3
        else:
            start = time.process_time()
            yield
            spent = time.process_time() - start
        self.seconds[part] = self.seconds.get(part, 0.0) + spent


def restart(trained: list[nn.Parameter], start: list[Tensor], seed: int) -> None:
    """Fresh parameters: those that started at one value do so again, others are drawn at their scale.

    Args:
        trained: Parameters of any shape, overwritten.
        start: What each was at the start, of its shape.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, first in zip(trained, start, strict=True):
            noise = torch.randn(first.shape, generator=generator).to(first)
            constant = bool((first == first.flatten()[0]).all())
            parameter.copy_(first if constant else noise * first.std())


def train(order: Order, contender: Contender, head: nn.Linear, targets: Tensor, seed: int, steps: int | None) -> float:
    """AdamW at 1e-3 over all epochs; the mean loss of the last one.

    Args:
        order: Batches, epochs, precision.
        contender: What is trained beside the head.
        head: Reads the features in full precision.
        targets: ``[n]``.
        seed: Of the order of the images.
        steps: Largest number of steps; ``None`` for all.
    """
    optimizer = torch.optim.AdamW([*contender.trained, *head.parameters()], lr=1e-3, fused=order.ours)
    shuffle, losses, done = np.random.default_rng([seed, 17]), [], 0
    for _ in range(order.epochs):
        index, losses = shuffle.permutation(order.images), []
        for start in range(0, order.images, order.batch):
            part = index[start : start + order.batch]
            with torch.autocast(order.device, torch.bfloat16, enabled=order.bf16), contender.forms():
                pooled = contender.encode(part)
            loss = F.cross_entropy(head(pooled.float()), targets[part].to(order.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            done += 1
            if steps is not None and done >= steps:
                return losses[-1]
    return float(np.mean(losses))


PRODUCTS = frozenset(
    f"aten::{name}" for name in ("mm", "mm_", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "mkldnn_convolution")
) | {"mkldnn::_linear_pointwise", "mkl::_mkl_linear", "aten::_scaled_dot_product_flash_attention_for_cpu"}
"""Operators that are matrix products, attention's own kernel included."""


def product_share(step: Callable[[], object]) -> float:
    """Share of a step's processor time inside matrix products: what no rearrangement around them can save."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    return sum(time for key, time in spent.items() if key in PRODUCTS) / max(sum(spent.values()), 1e-9)


def run_job(order: Order) -> dict[str, Any]:
    """All adapters and seeds of a job.

    Returns:
        Seconds in all and by part, the largest peaks of allocated tensors in a training step and in a batch of the
        frozen part in bytes, the share of the training's time inside matrix products, and the final losses.
    """
    from medgraft.ops.backends import using

    meter, losses, peaks, frozen_peaks, shares = Meter(order.device), [], [0], [0], []
    with using("auto" if order.ours else "eager"):
        for name, options in ADAPTERS[order.job].values():
            tower = build_tower(order.size)
            prepared, targets = prepared_images(order, tower)
            if order.ours:
                contender = medgrafts(order, tower, prepared, name, options)
            elif order.job in ("probes", "tokens"):
                contender = peers_tokens(order, tower, prepared, name, options)
            else:
                contender = peers_lora(order, tower, prepared, options)
            if contender.frozen is not None:
                with meter.running("frozen part"):
                    contender.frozen()
            first = [p.detach().clone() for p in contender.trained]
            head = nn.Linear(tower.spec.dim, CLASSES).to(order.device)
            train(order, contender, head, targets, 0, steps=1)  # warm-up
            before = meter.seconds.get("training", 0.0)
            for seed in range(order.seeds):
                restart(contender.trained, first, seed)
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
                with meter.running("training"):
                    losses.append(train(order, contender, head, targets, seed, steps=None))
            step = functools.partial(train, order, contender, head, targets, 0, steps=1)
            peaks.append(peak_allocation(step, order.device) or 0)
            shares.append(product_share(step) * (meter.seconds["training"] - before))
            if contender.frozen_batch is not None:
                frozen_peaks.append(peak_allocation(contender.frozen_batch, order.device) or 0)
    return {
        "seconds": sum(meter.seconds.values()),
        "parts": meter.seconds,
        "peak": max(peaks),
        "frozen_peak": max(frozen_peaks),
        "products": sum(shares) / meter.seconds["training"],
        "losses": losses,
    }


def run_ace_step(order: Order) -> dict[str, Any]:
    """Training steps of ACE-HGNN alone on frozen tokens: 16 samples, 197 tokens of 512, 5 members; few in a tiny run.

    The peer computes the whole incidence matrix in each step, as published; medgraft the hyperedges that reach CLS,
    once, since no parameter comes before them.
    """
    from medgraft.adapters.ace_hgnn import AceHgnn
    from medgraft.adapters.kernels.hypergraph.op import cls_hyperedges

    B, N, C = (2, 20, 16) if order.size == "tiny" else (16, 197, 512)
    generator = torch.Generator().manual_seed(0)
    tokens = F.normalize(torch.randn(B, N, C, generator=generator), dim=-1).to(order.device)
    scores = torch.randn(B, N - 1, generator=generator).to(order.device)
    torch.manual_seed(0)
    layer = AceHgnn(C).to(order.device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, fused=order.ours)

    meter, inputs = Meter(order.device), (tokens, scores)
    if order.ours:
        with meter.running("frozen part"):
            inputs = cls_hyperedges(tokens, scores, layer.top_k)

    def forward(x: Tensor, weights: Tensor) -> Tensor:
        return layer.read(x, weights) if order.ours else layer(x, weights, return_tokens=True)[:, 0]

    run = torch.compile(forward) if order.compiled else forward

    def step() -> float:
        with torch.autocast(order.device, torch.bfloat16, enabled=order.bf16):
            loss = run(*inputs).float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    step()
    with meter.running("training"):
        losses = [step() for _ in range(order.seeds * order.epochs)]
    seconds, peak = sum(meter.seconds.values()), peak_allocation(step, order.device) or 0
    return {
        "seconds": seconds,
        "parts": meter.seconds,
        "peak": peak,
        "frozen_peak": 0,
        "products": product_share(step),
        "losses": losses[-1:],
    }


def main() -> int:
    """Runs the order of the first argument in an empty cache of its own and prints the outcome as JSON."""
    order = Order.model_validate_json(sys.argv[1])
    torch.set_num_threads(order.threads)
    with tempfile.TemporaryDirectory(prefix="medgraft-speed-") as folder:
        os.environ["MEDGRAFT_CACHE"] = folder
        outcome = run_ace_step(order) if order.job == "ace_step" else run_job(order)
    sys.stdout.write(json.dumps(outcome) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
