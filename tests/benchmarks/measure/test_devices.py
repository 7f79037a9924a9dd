"""Cells on another device than the CPU: no GPU is needed to see that nothing of a training step stays behind.

PyTorch's meta device holds shapes and no numbers, runs every operation and its gradient, and refuses to mix its tensors
with others, as a GPU does.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny_encoders as tiny
import torch
from torch import Tensor

from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.training.trainer import Runner
from medgraft.errors import IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.grafting import grafted as grafting
from medgraft.objective import make_objective
from medgraft.plugins import discover
from medgraft.registry import build_adapters
from medgraft.task import RawInputs, TaskData

N = 6
ENCODERS = ("chest", "brain", "timm", "hf_vit", "timm_cnn", "pixels_2d", "pixels_3d", "language", "signal")
PROMPTED = {"biomedcoop", "coop", "cocoop", "kgcoop", "tip_adapter", "clip_adapter", "zero_shot"}
"""Adapters that are given class prompts or labelled images by an objective of their own."""

READ_NUMBERS = {"conv_lora", "peft", "qlora"}
"""Adapters that choose experts by values, compare weights, or need packed ones, which the meta device does not have."""


def data_of(names: tuple[str, ...]) -> TaskData:
    nothing = RawInputs(lambda i: None, N, "")
    targets = np.arange(N, dtype=np.int64) % 2
    return TaskData(
        inputs=dict.fromkeys(names, nothing), targets=targets, subjects=np.arange(N).astype(str), splits={},
        classes=("a", "b"),
    )  # fmt: skip


def grafted_with(adapter: str, device: str) -> Grafted:
    """On the first encoder that it fits, in the order in which a cell moves its parts."""
    for name in ENCODERS:
        torch.manual_seed(0)
        try:
            return Grafted(tiny.fresh(name).to(device), build_adapters(adapter)).to(device)
        except IncompatibleError:
            continue
    raise AssertionError(f"{adapter} fits none of {', '.join(ENCODERS)}")


def rows_of(grafted: Grafted) -> dict[str, TowerInputs]:
    """What the cache gives each tower: prepared inputs, hidden states or features."""
    found = {}
    for name, x in tiny.batch(grafted.encoder, N).items():
        tower, stage = grafted.towers()[name], grafted.first_stage()[name]
        with torch.no_grad():
            if stage == 0:
                kept: Tensor | Features = x
            elif stage < tower.n_stages:
                kept = tower.prefix(x, stage)
            else:
                kept = tower.forward(x, scores=bool(tower.attention) and tower.has_cls)
        if isinstance(kept, Tensor):
            found[name] = TowerInputs(stage, {"x": kept.numpy()})
        else:
            arrays = {k: v.numpy() for k, v in vars(kept).items() if isinstance(v, Tensor)}
            found[name] = TowerInputs(stage, arrays, kept.n_prefix, kept.grid)
    return found


@pytest.mark.parametrize("adapter", sorted(set(discover("adapter")) - PROMPTED - READ_NUMBERS))
def test_a_training_step_leaves_nothing_on_the_cpu(adapter, monkeypatch):
    real = torch.autocast
    # Autocast does not know the meta device; its types are under test elsewhere.
    monkeypatch.setattr(torch, "autocast", lambda kind, *args, **kw: real("cpu", enabled=False))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind=None: False)
    monkeypatch.setattr(grafting, "state_digest", lambda *_: "no numbers, no digest")
    grafted, moved = grafted_with(adapter, "cpu"), grafted_with(adapter, "meta")
    rows = rows_of(grafted)
    names = tuple(rows)
    data = data_of(names)
    first = Runner(grafted, make_objective("multiclass", data, names), data, rows, grafted.encode)
    first.add_head(np.arange(N))  # its scale is made of numbers
    assert grafted.head is not None
    moved.head = grafted.head.to("meta")
    made = Runner(moved, first.objective, data, rows, moved.encode, device="meta")
    loss = made.loss(np.arange(4))
    assert loss.device.type == "meta"
    made.backward(loss)
    assert any(p.grad is not None for p in moved.trainable_parameters())
