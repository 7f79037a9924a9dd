"""Training in stages: what moves when, what the log says, and what is left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from medgraft_toy import ToyEncoder
from test_training import FAST, N, quiet, runner
from torch import nn

from medgraft.adapter import Adapter, Attachment
from medgraft.benchmarks.training.phases import Phases
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted
from medgraft.schedule import Phase


class TwoParts(Adapter):
    """Two scalars on the pooled features, trained one after the other."""

    shares = (0.25, 0.75)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.calls: list[Any] = []

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.record({"features": [sites["features"]]})
        attachment.map_features(encoder, lambda f: f.replace(pooled=f.pooled * (1 + self.first + self.second)))
        return attachment

    def phases(self):
        return Phase("one", ("first",), self.shares[0]), Phase("two", ("second",), self.shares[1])

    def enter_phase(self, stage):
        self.calls.append((stage, self.first.item(), self.second.item()))

    def report(self):
        return {"first": self.first.item()}


class Otherwise(TwoParts):
    shares = (0.5, 0.5)


def test_each_stage_moves_its_own_parameters_and_the_head():
    adapter = TwoParts()
    found = runner(adapter)
    log = found.fit(np.arange(N), FAST, 0, quiet)
    (one, *begin), (two, *middle), (last, *end) = adapter.calls
    assert (one, two, last) == ("one", "two", None)
    assert begin == [0, 0] and middle[0] != 0 and middle[1] == 0
    assert end[0] == middle[0] and end[1] != 0
    assert all(p.requires_grad for p in adapter.parameters())
    assert found.grafted.trainable_count()["own"] == 2
    assert [(s["stage"], s["steps"], s["trainable"], s["parameters"]) for s in log.stages] == [
        ("one", 6, 1, ["first"]),
        ("two", 18, 1, ["second"]),
    ]
    assert log.stages[1]["mean_loss"] < log.stages[0]["mean_loss"]


def test_an_adapter_of_one_stage_leaves_no_stage_in_the_log():
    assert runner().fit(np.arange(N), FAST, 0, quiet).stages == []


def test_a_training_that_fails_leaves_everything_trainable():
    adapter = TwoParts()
    found = runner(adapter)

    def stop(share: float) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        found.fit(np.arange(N), FAST, 0, stop)
    assert all(p.requires_grad for p in adapter.parameters()) and adapter.calls[-1][0] is None


def test_each_stage_has_a_learning_rate_schedule_of_its_own():
    phases = Phases(Grafted(ToyEncoder(), {"own": TwoParts()}), 8)
    assert [phases.enter(step) for step in range(8)] == [(0, 2), (1, 2), *((i, 6) for i in range(6))]


def test_schedules_that_contradict_each_other_or_an_option_are_refused():
    both = Grafted(ToyEncoder(), {"a": TwoParts(), "b": Otherwise()})
    with pytest.raises(ConfigError, match="different length"):
        Phases(both, 10)
    with pytest.raises(ConfigError, match="only 1 steps"):
        Phases(Grafted(ToyEncoder(), {"a": TwoParts()}), 1)
    with pytest.raises(ConfigError, match="no earlier epoch"):
        runner(TwoParts()).fit(np.arange(N), FAST.model_copy(update={"keep": "lowest_loss"}), 0, quiet)


def test_the_stage_that_trains_now_is_told_to_whoever_shows_progress():
    found, shown = runner(TwoParts()), []
    found.fit(np.arange(N), FAST, 0, lambda share: shown.append(found.phase))
    assert shown == ["one"] * 6 + ["two"] * 18 and found.phase == ""
