"""A training that is ended between two epochs goes on in another process with the numbers of one that was not."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ended_trainings import trained_until
from hypothesis import given, settings
from hypothesis import strategies as st
from medgraft_toy import ToyGain
from test_training import FAST, N, runner
from torch import nn

from medgraft.adapter import Adapter
from medgraft.benchmarks.training import epoch_checkpoints
from medgraft.benchmarks.training.checkpoint_file import read_tree, write_tree
from medgraft.benchmarks.training.epoch_checkpoints import EpochCheckpoints
from medgraft.benchmarks.training.trainer import Runner
from medgraft.benchmarks.training.training_state import TrainingLog
from medgraft.errors import CheckpointError
from medgraft.schedule import Phase

EVERY_EPOCH = 3
"""Steps of an epoch."""


class Phased(ToyGain):
    """Trains its gain, then its offset, and draws random numbers of all three kinds."""

    def attach(self, encoder, sites):
        attachment = super().attach(encoder, sites)
        self.offset = nn.Parameter(torch.zeros(encoder.spec.dim))
        return attachment

    def phases(self):
        return Phase("gain", ("gain",), 0.5), Phase("offset", ("offset",), 0.5)

    def enter_phase(self, phase):
        if phase == "offset":
            self.offset.data.fill_(0.5)  # as an adapter that starts one part from another

    def _scale(self, features):
        shift = self.offset * (random.random() + np.random.random() if self.training else 1.0)
        features = super()._scale(features)
        return features.replace(pooled=features.pooled + shift)


class ByHand(ToyGain):
    """Changes something after each step, and stops a parameter of its own."""

    def attach(self, encoder, sites):
        self.memory, self.steps = torch.zeros(()), 0
        return super().attach(encoder, sites)

    def after_step(self):
        self.steps += 1
        self.memory = 0.5 * self.memory + self.gain.detach().mean()
        self.gain.data.add_(0.01 * self.memory)
        if self.steps == 10:
            self.gain.requires_grad_(False)


class Open(ByHand):
    """The same, and tells."""

    def training_state(self) -> dict[str, Any]:
        return {"memory": self.memory, "steps": self.steps}

    def restore_training_state(self, state: Mapping[str, Any]) -> None:
        self.memory, self.steps = state["memory"], state["steps"]


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """A checkpoint of every epoch, whatever it costs."""
    monkeypatch.setattr(epoch_checkpoints, "LARGEST_SHARE", 1e9)


def trained(adapter: Adapter | None, path: Path | None, *, stop: int = 0, keep: str = "last", seed: int = 5):
    """A runner after its training, or before the step that it is killed at, and what training reports."""
    made = runner(adapter)
    return made, trained_until(made, N, FAST.model_copy(update={"keep": keep}), path, stop=stop, seed=seed)


def outcome(made: Runner, log: TrainingLog) -> tuple[Any, ...]:
    values = [value.tolist() for _, value in made.grafted.adapters.state_dict().items()]
    head = made.grafted.head
    values += [] if head is None else [value.tolist() for value in head.state_dict().values()]
    drawn = torch.rand(2).tolist(), random.random(), np.random.random()
    return values, log.epoch_loss, log.steps, log.samples, log.stages, drawn


CASES: dict[str, tuple[Callable[[], Adapter | None], str]] = {
    "noise": (ToyGain, "last"),
    "best": (ToyGain, "lowest_loss"),
    "phases": (Phased, "last"),
    "by hand": (Open, "last"),
    "head": (lambda: None, "last"),
}


@pytest.mark.parametrize("epoch", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_with_the_numbers_of_a_training_in_peace(tmp_path, case, epoch, caplog):
    make, keep = CASES[case]
    whole = outcome(*trained(make(), None, keep=keep))
    path = tmp_path / "made" / "x.safetensors"
    trained(make(), path, stop=epoch * EVERY_EPOCH + 2, keep=keep)
    made, log = trained(make(), path, keep=keep, seed=99)  # random numbers of its own, until it goes on
    assert outcome(made, log) == whole and log.resumed == [epoch]
    assert f"training goes on behind epoch {epoch}, " in caplog.text


def test_one_that_was_ended_behind_its_last_epoch_trains_no_more(tmp_path):
    first = trained(ToyGain(), tmp_path / "x", keep="lowest_loss")
    again = trained(ToyGain(), tmp_path / "x", keep="lowest_loss", stop=1)
    assert outcome(*again)[:-1] == outcome(*first)[:-1] and again[1].resumed == [FAST.epochs]


def test_seconds_of_both_processes_count(tmp_path):
    trained(ToyGain(), tmp_path / "x", stop=20)
    kept = read_tree(tmp_path / "x")
    made, log = trained(ToyGain(), tmp_path / "x")
    assert log.seconds > kept["state"]["log"]["seconds"] > 0
    assert made.checkpoints.elapsed == kept["elapsed"] > 0


def test_what_an_adapter_changes_and_does_not_tell_is_never_taken_up(tmp_path):
    trained(ByHand(), tmp_path / "x", stop=20)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("place", [9, 200, 0.5, -3])
def test_a_damaged_file_is_set_aside_and_training_starts_anew(tmp_path, place, caplog):
    whole = outcome(*trained(ToyGain(), None))
    trained(ToyGain(), tmp_path / "x", stop=20)
    data = bytearray((tmp_path / "x").read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    (tmp_path / "x").write_bytes(data)
    made, log = trained(ToyGain(), tmp_path / "x")
    assert outcome(made, log) == whole and log.resumed == []
    assert "cannot be used (x is" in caplog.text and "set aside as x.damaged, and training starts anew" in caplog.text
    assert (tmp_path / "x.damaged").read_bytes() == data


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100])
def test_a_file_of_something_else_is_set_aside(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert trained(ToyGain(), tmp_path / "x")[1].resumed == [] and (tmp_path / "x.damaged").exists()


def test_the_state_of_another_adapter_is_set_aside(tmp_path, caplog):
    trained(Phased(), tmp_path / "x", stop=20)
    assert trained(ToyGain(), tmp_path / "x")[1].resumed == []
    assert "adapters.own has other parameters: offset" in caplog.text


def test_a_folder_that_takes_nothing_costs_one_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    trained(ToyGain(), tmp_path / "file" / "x")
    assert caplog.text.count("training cannot be resumed from here") == 1


def test_checkpoints_are_as_far_apart_as_told_and_cost_little(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(epoch_checkpoints.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(epoch_checkpoints, "LARGEST_SHARE", 0.02)

    def write(path, tree):
        written.append(now[0])
        now[0] += 1.0  # a slow disk

    monkeypatch.setattr(epoch_checkpoints, "write_tree", write)

    class State:
        def resumable(self):
            return True

        def taken(self):
            return {}

    keeps = EpochCheckpoints(tmp_path / "x", 10.0)
    for epoch in range(1, 200):
        now[0] += 1.0
        keeps.after_epoch(epoch, State())  # type: ignore[arg-type]
    assert written[0] == 10.0 and all(later - sooner > 50 for sooner, later in pairwise(written))


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=30)
@given(tree=TREES)
def test_a_tree_comes_back_as_it_was(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    values = torch.randn(3, 2)
    write_tree(
        path, {"tree": tree, "values": [values.T, values[:1], torch.empty(0), torch.tensor(1, dtype=torch.int8)]}
    )
    back = read_tree(path)
    assert back["tree"] == tree and torch.equal(back["values"][0], values.T) and len(back["values"]) == 4


def test_nothing_is_stored_that_would_have_to_be_unpickled(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a object"):
        write_tree(tmp_path / "x", {"a": object()})
    with pytest.raises(CheckpointError, match="x is damaged"):
        (tmp_path / "x").write_bytes(b"\x80\x04K\x01.")
        read_tree(tmp_path / "x")
