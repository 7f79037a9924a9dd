"""The jobs that ``benchmarks.speed`` compares, each as its peers would write it and as medgraft runs it.

One contender runs one job in a process of its own: ``python -m medgraft.benchmarks.speed_jobs '{"job": ...}'`` prints
one line of JSON. All contenders of a job train the same functions from the same start on the same batches in the same
order, so their final losses agree up to rounding. Building models, preparing inputs and one warm-up step per adapter
(which compiles where something is compiled) are not timed; medgraft's pass through the frozen part is.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medgraft.attention import FastAttention
from medgraft.benchmarks.cache import BATCH, PreparedInputs, TowerInputs, prepare, tower_inputs
from medgraft.benchmarks.measure import peak_allocation
from medgraft.encoder import Encoder
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.registry import build_adapters

JobName = Literal["tokens", "lora_third", "lora_all", "ace_step"]
CLASSES = 4
SIZES: dict[str, dict[str, int]] = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
             "image_size": 224, "patch_size": 16},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
              "image_size": 224, "patch_size": 16},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
             "image_size": 32, "patch_size": 8},
}  # fmt: skip
ADAPTERS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "tokens": {
        "ace_hgnn": ("ace_hgnn", {}),
        "perceiver_resampler": ("perceiver_resampler", {}),
    },
    "lora_third": {f"lora r={rank}": ("lora", {"rank": rank, "depth": "up"}) for rank in (8, 16)},
    "lora_all": {f"lora r={rank}": ("lora", {"rank": rank}) for rank in (8, 16)},
}
"""Job -> adapters with their options."""


class Order(BaseModel):
    """What a process is to run.

    Attributes:
        job: Which job.
        ours: As medgraft runs it; otherwise as its peers do.
        bf16: Under autocast.
        compiled: What is trained, or the whole step of a peer, under ``torch.compile``.
        size: Of the encoder, see :data:`SIZES`.
        images: Training images.
        batch: Images per step.
        seeds: Seeds of each adapter.
        epochs: Passes over the images.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
    """

    model_config = ConfigDict(extra="forbid")

    job: JobName
    ours: bool
    bf16: bool = False
    compiled: bool = False
    size: str = "small"
    images: int = Field(16, ge=1)
    batch: int = Field(8, ge=1)
    seeds: int = Field(3, ge=1)
    epochs: int = Field(5, ge=1)
    threads: int = Field(2, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"


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


def build_tower(size: str) -> Encoder:
    """A ViT with random weights, the same every time, attention in separate q, k and v as peft wants it."""
    from medgraft.encoders.transformers import TransformersSource

    return TransformersSource.build("vit", "random", config=SIZES[size])


def prepared_images(order: Order, tower: Encoder) -> tuple[PreparedInputs, Tensor]:
    """Noise with a pattern per class ``[n, 3, H, W]`` and the classes ``[n]``."""
    from medgraft.task import RawInputs

    side = SIZES[order.size]["image_size"]

    def read(i: int) -> np.ndarray:
        pattern = np.random.default_rng([1, i % CLASSES]).normal(128, 25, (side, side))
        return np.clip(pattern + np.random.default_rng([2, i]).normal(0, 40, (side, side)), 0, 255).astype(np.uint8)

    raw = RawInputs(read, order.images, f"speed {order.images} {side}")
    return prepare(raw, tower, f"speed {order.size}"), torch.arange(order.images) % CLASSES


Encode = Callable[[np.ndarray], Tensor]
"""Numbers of samples ``[B]`` -> pooled features ``[B, C]``."""


@dataclass
class Contender:
    """One adapter as one contender trains it.

    Attributes:
        encode: What is trained, behind whatever is fixed.
        trained: The adapter's parameters, in the same order for every contender.
        frozen: Computes what is fixed, for the cache; ``None`` for peers, who do so in every step.
        frozen_batch: One batch of that.
    """

    encode: Encode
    trained: list[nn.Parameter]
    frozen: Callable[[], None] | None = None
    frozen_batch: Callable[[], object] | None = None


def on(device: str, x: Tensor | Features) -> Tensor | Features:
    """A batch on the device."""
    if device == "cpu":
        return x
    if isinstance(x, Tensor):
        return x.to(device)
    return x.replace(**{k: v.to(device) for k, v in vars(x).items() if isinstance(v, Tensor)})


def _blocks_and_rank(name: str) -> tuple[int, str]:
    """Place of a LoRA parameter by the last number and projection in its name, whichever library named it."""
    block = int(re.findall(r"(?:blocks|layers?)[./](\d+)", name)[-1])
    return block, "q" if re.search(r"query|q_proj|attn/q", name) else "v"


def in_order(named: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """LoRA's parameters by block, projection and kind, for peft's names and ours."""
    kind = {name: "A" if "lora_A" in name or name.endswith(".A") else "B" for name in named}
    return [named[name] for name in sorted(named, key=lambda n: (*_blocks_and_rank(n), kind[n]))]


def peers_lora(order: Order, tower: Encoder, prepared: PreparedInputs, options: dict[str, Any]) -> Contender:
    """LoRA of peft in the model, which runs whole in every step."""
    from peft import LoraConfig, inject_adapter_in_model

    from medgraft.adapters.lora import depth_range

    blocks = depth_range(options.get("depth", "all"), len(tower.attention))
    paths = [tower.attention[i].location(name)[0] for i in blocks for name in ("q", "v")]
    config = LoraConfig(r=options["rank"], lora_alpha=16, target_modules=paths)
    inject_adapter_in_model(config, tower)  # pyright: ignore[reportArgumentType]
    named = {name: p for name, p in tower.named_parameters() if "lora_" in name}
    tower.requires_grad_(False).to(order.device)
    for parameter in named.values():
        parameter.requires_grad_(True)

    def encode(x: Tensor | Features) -> Tensor:
        return tower(x).pooled

    step = torch.compile(encode) if order.compiled else encode
    return Contender(lambda index: step(on(order.device, prepared.batch(index))), in_order(named))


def grafted_adapter(tower: Encoder, name: str, options: dict[str, Any]) -> Grafted:
    """A graft of one adapter, its parameters to be started anew."""
    return Grafted(tower, build_adapters(name, options)).train()


def peers_tokens(
    order: Order, tower: Encoder, prepared: PreparedInputs, name: str, options: dict[str, Any]
) -> Contender:
    """The encoder without gradients and the adapter on its tokens, both in every step; ACE-HGNN in its dense form."""
    dense = {"return_tokens": True} if name == "ace_hgnn" else {}
    grafted = grafted_adapter(tower, name, {**options, **dense}).to(order.device)
    return _graft_contender(order, grafted, lambda index: prepared.batch(index), 0)


def medgrafts(order: Order, tower: Encoder, prepared: PreparedInputs, name: str, options: dict[str, Any]) -> Contender:
    """The frozen part once, from the cache; what is trained in the forms that ``auto`` chooses."""
    grafted = grafted_adapter(tower, name, options).to(order.device)
    (stage,) = grafted.first_stage().values()
    rows: list[TowerInputs] = []

    def frozen() -> None:
        rows.append(tower_inputs(prepared, tower, stage, grafted.base_digest))

    @torch.no_grad()
    def frozen_batch() -> object:
        x = prepared.batch(np.arange(min(BATCH, order.images)))
        return tower.forward(x, scores=True) if stage >= tower.n_stages else tower.prefix(x, stage)

    made = _graft_contender(order, grafted, lambda index: rows[0].batch(index), stage)
    return Contender(made.encode, made.trained, frozen, frozen_batch)


def _graft_contender(
    order: Order, grafted: Grafted, read: Callable[[np.ndarray], Tensor | Features], stage: int
) -> Contender:
    (modality,) = grafted.towers()

    def encode(x: Tensor | Features) -> Tensor:
        return grafted.encode({modality: x}, {modality: stage})[modality].pooled

    step = torch.compile(encode) if order.compiled else encode
    named = {name: p for name, p in grafted.named_parameters() if p.requires_grad}
    trained = in_order(named) if any("delta" in name for name in named) else list(named.values())
    return Contender(lambda index: step(on(order.device, read(index))), trained)


def restart(trained: list[nn.Parameter], start: list[Tensor], seed: int) -> None:
    """Fresh parameters: those that started at zero do so again, all others are drawn at their own scale."""
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
    optimizer = torch.optim.AdamW([*contender.trained, *head.parameters()], lr=1e-3)
    shuffle, losses, done = np.random.default_rng([seed, 17]), [], 0
    fast = order.ours and order.bf16 and not order.compiled and order.device == "cpu"
    for _ in range(order.epochs):
        index, losses = shuffle.permutation(order.images), []
        for start in range(0, order.images, order.batch):
            part = index[start : start + order.batch]
            attention = FastAttention() if fast else nullcontext()
            with torch.autocast(order.device, torch.bfloat16, enabled=order.bf16), attention:
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


def run_job(order: Order) -> dict[str, Any]:
    """All adapters and seeds of a job.

    Returns:
        Seconds in all and by part, the largest peaks of allocated tensors in a training step and in a batch of the
        frozen part in bytes, and the final losses.
    """
    from medgraft.adapters.kernels.backends import using

    meter, losses, peaks, frozen_peaks = Meter(order.device), [], [0], [0]
    with using("auto" if order.ours else "eager"):
        for name, options in ADAPTERS[order.job].values():
            tower = build_tower(order.size)
            prepared, targets = prepared_images(order, tower)
            if order.ours:
                contender = medgrafts(order, tower, prepared, name, options)
            elif order.job == "tokens":
                contender = peers_tokens(order, tower, prepared, name, options)
            else:
                contender = peers_lora(order, tower, prepared, options)
            if contender.frozen is not None:
                with meter.running("frozen part"):
                    contender.frozen()
            first = [p.detach().clone() for p in contender.trained]
            head = nn.Linear(tower.spec.dim, CLASSES).to(order.device)
            train(order, contender, head, targets, 0, steps=1)  # warm-up
            for seed in range(order.seeds):
                restart(contender.trained, first, seed)
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
                with meter.running("training"):
                    losses.append(train(order, contender, head, targets, seed, steps=None))
            step = functools.partial(train, order, contender, head, targets, 0, steps=1)
            peaks.append(peak_allocation(step) or 0)
            if contender.frozen_batch is not None:
                frozen_peaks.append(peak_allocation(contender.frozen_batch) or 0)
    return {
        "seconds": sum(meter.seconds.values()),
        "parts": meter.seconds,
        "peak": max(peaks),
        "frozen_peak": max(frozen_peaks),
        "losses": losses,
    }


def run_ace_step(order: Order) -> dict[str, Any]:
    """Training steps of ACE-HGNN alone on frozen tokens: 16 samples, 197 tokens of 512, 5 members; few in a tiny run.

    The peer computes the whole incidence matrix, as published; medgraft the hyperedges that reach CLS.
    """
    from medgraft.adapters.ace_hgnn import AceHgnn

    B, N, C = (2, 20, 16) if order.size == "tiny" else (16, 197, 512)
    generator = torch.Generator().manual_seed(0)
    tokens = F.normalize(torch.randn(B, N, C, generator=generator), dim=-1).to(order.device)
    scores = torch.randn(B, N - 1, generator=generator).to(order.device)
    torch.manual_seed(0)
    layer = AceHgnn(C).to(order.device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)

    def forward(tokens: Tensor, scores: Tensor) -> Tensor:
        return layer(tokens, scores) if order.ours else layer(tokens, scores, return_tokens=True)[:, 0]

    run = torch.compile(forward) if order.compiled else forward

    def step() -> float:
        with torch.autocast(order.device, torch.bfloat16, enabled=order.bf16):
            loss = run(tokens, scores).float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    step()
    meter = Meter(order.device)
    with meter.running("training"):
        losses = [step() for _ in range(order.seeds * order.epochs)]
    seconds, peak = meter.seconds["training"], peak_allocation(step) or 0
    return {"seconds": seconds, "parts": meter.seconds, "peak": peak, "frozen_peak": 0, "losses": losses[-1:]}


def main() -> int:
    """Runs the order of the first argument in an empty cache of its own and prints the outcome as JSON."""
    order = Order.model_validate_json(sys.argv[1])
    torch.set_num_threads(order.threads)
    with tempfile.TemporaryDirectory(prefix="medgraft-speed-") as folder:
        os.environ["MEDGRAFT_CACHE"] = folder
        found = run_ace_step(order) if order.job == "ace_step" else run_job(order)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
