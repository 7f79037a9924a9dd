"""Do seeds train faster together? ``python -m benchmarks.speed.stacked_seeds``: one by one or under ``vmap``.

The seeds of one row train the same adapter on the same frozen inputs in different orders. One by one, they run as the
harness runs them. Stacked, their parameters and batches have an axis of seeds in front, ``torch.vmap`` runs over it,
and one AdamW steps all of them; the losses are the same up to rounding, which is checked. Times are per step and seed:
processor time on a CPU, and on a GPU, or the part of one that CUDA shows as a device, time until it is idle. The report
goes to the output as Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from medgraft.benchmarks.prefix_cache.inputs import tower_inputs
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.speed.contenders import (
    ADAPTERS,
    CLASSES,
    Order,
    build_tower,
    grafted_adapter,
    on,
    prepared_images,
)
from medgraft.benchmarks.speed.jobs import restart
from medgraft.encoder.attention import fast_attention
from medgraft.errors import MedgraftError
from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.compiling import CompiledEncode
from medgraft.fast.forms import Forms, fast_forms
from medgraft.features import Features
from medgraft.grafting import Grafted

ROWS = {
    "linear_probe": "probes",
    "ace_hgnn": "probes",
    "perceiver_resampler": "tokens",
    "lora r=8": "lora_third",
}
"""Adapter -> the job of ``benchmarks.speed`` that it is taken from."""

TOLERANCE = {True: 0.01, False: 1e-4}
"""Under autocast or not -> relative difference of the losses. Stacked products sum in another order, and some steps of
AdamW carry that on: bf16 holds 8 bits, and 1e-4 is a thousand roundings of float32."""


@dataclass
class Seeds:
    """The seeds of one adapter.

    Attributes:
        order: Encoder, images, batches, seeds.
        grafted: The adapter on the encoder.
        rows: What is frozen.
        targets: ``[n]``.
        steps: Training steps of each seed.
    """

    order: Order
    grafted: Grafted
    rows: TowerInputs
    targets: Tensor
    steps: int

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters, of any shape, by name."""
        return {name: p for name, p in self.grafted.named_parameters() if p.requires_grad}

    @cached_property
    def first(self) -> list[Tensor]:
        """Their values before any training, ``[...]``, in the same order."""
        return [p.detach().clone() for p in self.trained.values()]

    @cached_property
    def read_out(self) -> ClsReadOut:
        """The short last block; what its first run sees there serves both ways."""
        return ClsReadOut(self.grafted)

    def parts(self, seed: int) -> list[np.ndarray]:
        """The batches ``[B, ...]`` of one seed."""
        shuffle, batches = np.random.default_rng([seed, 17]), []
        while len(batches) < self.steps:
            index = shuffle.permutation(self.order.images)
            batches += [index[i : i + self.order.batch] for i in range(0, len(index), self.order.batch)]
        return batches[: self.steps]

    def pooled(self, x: Tensor | Features, encode: Callable[..., dict[str, Features]] | None = None) -> Tensor:
        """``[B, C]`` of one batch, by the graft's own ``encode`` or another."""
        ((modality, tower),) = self.grafted.towers().items()
        x = x.to(tower.dtype) if isinstance(x, Tensor) else x
        return (encode or self.grafted.encode)({modality: x}, {modality: self.rows.stage})[modality].pooled

    def read(self, part: np.ndarray) -> Tensor | Features:
        """Frozen rows ``[B, ...]`` of one batch, on the device."""
        return on(self.order.device, self.rows.batch(part))

    def autocast(self) -> torch.autocast:
        """What both ways run in."""
        return torch.autocast(self.order.device, torch.bfloat16, enabled=self.order.bf16)

    def one_by_one(self) -> list[float]:
        """Trains the seeds in turn; their last losses."""
        return [self.alone(seed) for seed in range(self.order.seeds)]

    def alone(self, seed: int, compiled: CompiledEncode | None = None) -> float:
        """Trains one; its last loss.

        Args:
            seed: Which.
            compiled: Runs the graft, in place of the forms that are fast without a compiler.
        """
        restart(list(self.trained.values()), self.first, seed)
        head, loss = nn.Linear(self._width, CLASSES, device=self.order.device), torch.zeros(())
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.AdamW([*self.trained.values(), *head.parameters()], lr=1e-3, fused=True)
        for part in self.parts(seed):
            if compiled is None:
                with self.autocast(), fast_forms(self.order.device, self.order.bf16, self.read_out):
                    pooled = self.pooled(self.read(part))
            else:
                compiled.begin_step()
                with self.autocast():
                    pooled = self.pooled(self.read(part), compiled)
            loss = F.cross_entropy(head(pooled.float()), self.targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    def stacked(self) -> list[float]:
        """Trains them together; their last losses."""
        starts = []
        for seed in range(self.order.seeds):
            restart(list(self.trained.values()), self.first, seed)
            starts.append([p.detach().clone() for p in self.trained.values()])
        together = [torch.stack(values).requires_grad_() for values in zip(*starts, strict=True)]
        device = self.order.device
        weight = torch.zeros(self.order.seeds, CLASSES, self._width, requires_grad=True, device=device)
        bias = torch.zeros(self.order.seeds, 1, CLASSES, requires_grad=True, device=device)
        optimizer, losses = torch.optim.AdamW([*together, weight, bias], lr=1e-3, fused=True), weight.new_zeros(())
        for parts in zip(*map(self.parts, range(self.order.seeds)), strict=True):
            pooled = self._pooled_together(dict(zip(self.trained, together, strict=True)), parts)
            logits = pooled.float() @ weight.transpose(1, 2) + bias
            targets = torch.stack([self.targets[part] for part in parts])
            losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
        return losses.tolist()

    def _pooled_together(self, parameters: dict[str, Tensor], parts: tuple[np.ndarray, ...]) -> Tensor:
        """``[S, B, C]``, of a batch for each seed."""
        read = [self.read(part) for part in parts]
        like = read[0]

        def one(mine: dict[str, Tensor], x: dict[str, Tensor]) -> Tensor:
            with _reparametrize_module(self.grafted, mine):
                return self.pooled(x["x"] if isinstance(like, Tensor) else like.replace(**x))

        fields = [_tensors(x) for x in read]
        inputs = {name: torch.stack([each[name] for each in fields]) for name in fields[0]}
        with ExitStack() as stack:
            plain = fast_attention if self.order.device == "cpu" else F.scaled_dot_product_attention
            attention = stack.enter_context(self.read_out.running(plain))
            stack.enter_context(self.autocast())
            stack.enter_context(Forms({F.scaled_dot_product_attention: attention}))
            return torch.vmap(one)(parameters, inputs)

    @property
    def _width(self) -> int:
        return self.grafted.encoder.spec.dim


def _tensors(x: Tensor | Features) -> dict[str, Tensor]:
    if isinstance(x, Tensor):
        return {"x": x}
    values = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def build(name: str, order: Order, steps: int) -> Seeds:
    """The adapter ``name`` of :data:`ROWS` on the encoder of the order, its frozen part done."""
    adapter, options = ADAPTERS[order.job][name]
    tower = build_tower(order.size)
    prepared, targets = prepared_images(order, tower)
    grafted = grafted_adapter(tower, adapter, options).to(order.device)
    if order.bf16_frozen:
        tower.hold_in_bf16()
    (stage,) = grafted.first_stage().values()
    kept = grafted.condensers().get(tower.spec.modality)
    rows = tower_inputs(prepared, tower, stage, grafted.base_digest, condenser=kept)
    return Seeds(order, grafted, rows, targets.to(order.device), steps)


def compare(seeds: Seeds, rounds: int) -> tuple[float, float]:
    """Seconds per step and seed, one by one and stacked: medians over rounds in turns.

    Raises:
        MedgraftError: The two ways do not train the same.
    """
    apart, together = seeds.one_by_one(), seeds.stacked()
    limit = TOLERANCE[seeds.order.bf16]
    if not np.allclose(apart, together, rtol=limit, atol=limit):
        raise MedgraftError(f"one by one the losses are {apart}, stacked {together}; they should be the same")
    spent: tuple[list[float], list[float]] = ([], [])
    ways: tuple[Callable[[], object], ...] = (seeds.one_by_one, seeds.stacked)
    for _ in range(rounds):
        for way, times in zip(ways, spent, strict=True):
            times.append(spent_by(way, seeds.order.device))
    once = seeds.steps * seeds.order.seeds
    return statistics.median(spent[0]) / once, statistics.median(spent[1]) / once


def spent_by(way: Callable[[], object], device: str) -> float:
    """Seconds of one run: processor time on a CPU, else until the device is idle."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    way()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def main(arguments: list[str] | None = None) -> int:
    """Compares all rows and writes a table to the output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.stacked_seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each adapter")
    parser.add_argument("--steps", type=int, default=10, help="training steps of each seed")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way")
    parser.add_argument("--size", choices=["small", "base", "tiny"], default="small", help="of the ViT")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of adapters and encoder")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of what is trained")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but PyTorch sees no GPU; use --device cpu")
    bf16 = options.precision == "bf16"
    torch.set_num_threads(options.threads)
    lines = ["| adapter | seeds | one by one, ms | stacked, ms | stacked is |", "|---|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory(prefix="medgraft-seeds-") as folder:
        os.environ["MEDGRAFT_CACHE"] = folder
        for name, job in ROWS.items():
            order = Order.model_validate(
                {"job": job, "ours": True, "bf16": bf16, "bf16_frozen": bf16 and job == "lora_third",
                 "size": options.size, "seeds": options.seeds, "threads": options.threads, "device": options.device}
            )  # fmt: skip
            apart, together = compare(build(name, order, options.steps), options.rounds)
            ratio = f"{apart / together:.2f}x as fast"
            lines.append(f"| {name} | {options.seeds} | {apart * 1e3:.2f} | {together * 1e3:.2f} | {ratio} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
