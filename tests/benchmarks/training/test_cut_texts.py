"""A runner feeds texts no longer than their longest, unless a compiled graph or several processes need one length."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_encoders import fresh

from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.training.trainer import Runner
from medgraft.grafting import Grafted
from medgraft.registry import build_adapters


def runner_of(needs: frozenset[str] = frozenset()) -> Runner:
    grafted = Grafted(fresh("chest").towers()["text"], build_adapters("lora", {}))
    ids = np.zeros((3, 96), np.int32)
    ids[0, :4], ids[1, :9], ids[2, :2] = 5, 5, 5
    objective: Any = SimpleNamespace(needs=needs)
    data: Any = SimpleNamespace(asked=None)
    return Runner(grafted, objective, data, {"text": TowerInputs(0, {"x": ids})}, grafted.encode)


@pytest.mark.parametrize(("index", "columns"), [([0, 1], 9), ([0, 2], 4), ([2], 2)])
def test_a_batch_is_as_long_as_its_longest_text(index, columns):
    assert runner_of().outputs(np.array(index))["text"].tokens.shape[:2] == (len(index), columns)


def test_a_compiled_graph_and_gathered_tokens_have_one_length():
    runner = runner_of(frozenset({"tokens"}))
    rows = {"text": torch.ones(1, 96, dtype=torch.long)}
    rows["text"][:, 5:] = 0
    assert runner.cut(rows)["text"].shape == (1, 5)  # pyright: ignore[reportAttributeAccessIssue]
    runner.world = SimpleNamespace(size=2)  # pyright: ignore[reportAttributeAccessIssue]
    assert runner.cut(rows)["text"] is rows["text"]
    compiled = runner_of()
    compiled.encode = lambda *each: {}
    assert compiled.cut(rows)["text"] is rows["text"]
