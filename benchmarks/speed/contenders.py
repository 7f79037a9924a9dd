"""The contenders of ``benchmarks.speed``: each job as its peers would write it, and as medgraft runs it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medgraft.benchmarks.prefix_cache.inputs import PreparedInputs, frozen_batch, prepare, tower_inputs
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.encoder import Encoder
from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.compiling import compiled
from medgraft.fast.forms import Forms, fast_forms
from medgraft.fast.linear import linear
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.registry import build_adapters

JobName = Literal["probes", "tokens", "lora_third", "lora_all", "ace_step"]
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
    "probes": {
        "ace_hgnn": ("ace_hgnn", {}),
        "linear_probe": ("linear_probe", {}),
    },
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
        bf16_frozen: The encoder's weights and the tokens between its blocks too, the frozen part included.
        fastest_product: A peer's linear maps by whichever library multiplies fp32 matrices faster here.
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
    bf16_frozen: bool = False
    fastest_product: bool = False
    compiled: bool = False
    size: str = "small"
    images: int = Field(16, ge=1)
    batch: int = Field(8, ge=1)
    seeds: int = Field(3, ge=1)
    epochs: int = Field(5, ge=1)
    threads: int = Field(2, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"


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
        forms: The context that :attr:`encode` runs in.
    """

    encode: Encode
    trained: list[nn.Parameter]
    frozen: Callable[[], None] | None = None
    frozen_batch: Callable[[], object] | None = None
    forms: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass
class _Forms:
    """The forms that medgraft's harness takes on a CPU, outside of a compiled graph."""

    order: Order
    grafted: Grafted

    @functools.cached_property
    def read_out(self) -> ClsReadOut:
        return ClsReadOut(self.grafted)

    def running(self) -> AbstractContextManager[None]:
        if self.order.compiled:
            return nullcontext()
        return fast_forms(self.order.device, self.order.bf16, self.read_out)


def on(device: str, x: Tensor | Features) -> Tensor | Features:
    """A batch ``[B, ...]`` on the device."""
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
    """LoRA's parameters by block, projection and kind, ``A`` ``[r, in]`` and ``B`` ``[out, r]``.

    For peft's names and ours.
    """
    kind = {name: "A" if "lora_A" in name or name.endswith(".A") else "B" for name in named}
    return [named[name] for name in sorted(named, key=lambda n: (*_blocks_and_rank(n), kind[n]))]


def peers_lora(order: Order, tower: Encoder, prepared: PreparedInputs, options: dict[str, Any]) -> Contender:
    """LoRA of peft in the model, which runs whole in every step."""
    from peft import LoraConfig, inject_adapter_in_model

    from medgraft.adapters.lora import Lora

    recipe = {"rank": options["rank"], "depth": options.get("depth", "all"), "targets": ("q", "v")}
    ours = Lora(Lora.Config.model_validate(recipe))
    hits = ours.select(tower, tower.sites())
    paths = list(dict.fromkeys(site.path for sites in hits.values() for site in sites))
    config = LoraConfig(r=options["rank"], lora_alpha=16, target_modules=paths)
    inject_adapter_in_model(config, tower)  # pyright: ignore[reportArgumentType]
    named = {name: p for name, p in tower.named_parameters() if "lora_" in name}
    tower.requires_grad_(False).to(order.device)
    for parameter in named.values():
        parameter.requires_grad_(True)

    def encode(x: Tensor | Features) -> Tensor:
        return tower(x).pooled

    step = torch.compile(encode) if order.compiled else encode
    return Contender(
        lambda index: step(on(order.device, prepared.batch(index))), in_order(named), forms=_fastest_product(order)
    )


def _fastest_product(order: Order) -> Callable[[], AbstractContextManager[object]]:
    """The context of a peer: its own, or linear maps by the faster library and nothing else changed."""
    return (lambda: Forms({F.linear: linear})) if order.fastest_product else nullcontext


def grafted_adapter(tower: Encoder, name: str, options: dict[str, Any]) -> Grafted:
    """A graft of one adapter, its parameters to be started anew."""
    return Grafted(tower, build_adapters(name, options)).train()


def peers_tokens(
    order: Order, tower: Encoder, prepared: PreparedInputs, name: str, options: dict[str, Any]
) -> Contender:
    """The encoder without gradients and the adapter on its tokens, both in every step; ACE-HGNN in its dense form."""
    dense = {"return_tokens": True} if name == "ace_hgnn" else {}
    grafted = grafted_adapter(tower, name, {**options, **dense}).to(order.device)
    contender = _graft_contender(order, grafted, lambda index: prepared.batch(index), 0)
    return dataclasses.replace(contender, forms=_fastest_product(order))


def medgrafts(order: Order, tower: Encoder, prepared: PreparedInputs, name: str, options: dict[str, Any]) -> Contender:
    """The frozen part once, from the cache; what is trained in the forms that ``auto`` chooses."""
    grafted = grafted_adapter(tower, name, options).to(order.device)
    if order.bf16_frozen:
        tower.hold_in_bf16()
    (stage,) = grafted.first_stage().values()
    rows: list[TowerInputs] = []

    def frozen() -> None:
        kept = grafted.condensers().get(tower.spec.modality)
        rows.append(tower_inputs(prepared, tower, stage, grafted.base_digest, condenser=kept))

    @torch.no_grad()
    def one_batch() -> object:
        x = prepared.batch(np.arange(min(frozen_batch(prepared.array, tower.device), order.images)))
        with torch.autocast(order.device, torch.bfloat16, enabled=order.bf16_frozen):
            return tower.forward(x, scores=True) if stage >= tower.n_stages else tower.prefix(x, stage)

    contender = _graft_contender(order, grafted, lambda index: rows[0].batch(index), stage)
    return dataclasses.replace(contender, forms=_Forms(order, grafted).running, frozen=frozen, frozen_batch=one_batch)


def _graft_contender(
    order: Order, grafted: Grafted, read: Callable[[np.ndarray], Tensor | Features], stage: int
) -> Contender:
    ((modality, tower),) = grafted.towers().items()
    tower_dtype = tower.dtype

    def encode(x: Tensor | Features) -> Tensor:
        x = x.to(tower_dtype) if isinstance(x, Tensor) and stage else x
        return grafted.encode({modality: x}, {modality: stage})[modality].pooled

    step = compiled(encode) if order.compiled else encode
    named = {name: p for name, p in grafted.named_parameters() if p.requires_grad}
    trained = in_order(named) if any("delta" in name for name in named) else list(named.values())
    return Contender(lambda index: step(on(order.device, read(index))), trained)
