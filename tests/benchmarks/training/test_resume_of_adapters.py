"""Training of every built-in adapter that is ended between two epochs goes on with the numbers of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ended_trainings import trained_until

from medgraft import graft, plugins
from medgraft.benchmarks.prefix_cache.inputs import TowerInputs
from medgraft.benchmarks.training import epoch_checkpoints
from medgraft.benchmarks.training.trainer import Runner, TrainingLog
from medgraft.errors import IncompatibleError, MedgraftError
from medgraft.objective import make_objective
from medgraft.registry import TrainDefaults
from medgraft.task import RawInputs, TaskData
from medgraft.testing.tiny import ENCODERS, example_inputs
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS, PACKED_ENCODERS
from medgraft.testing.tiny_signal import SIGNAL_ENCODERS

N = 12
RECIPE = TrainDefaults(epochs=3, lr=1e-2, head_lr=1e-2, batch_size=4)
STEPS = 3
"""Of an epoch."""
ADAPTERS = sorted(name for name, plugin in plugins.discover("adapter").items() if plugin.builtin)
WITHOUT_STEPS = {"blind", "knn", "linear_probe", "logistic", "nearest_report", "prototypes", "zero_shot"}
"""Fitted at once, or not at all."""


PLACES = (
    ("split-2d", "multiclass"),
    ("dual-2d", "prompted"),
    ("dual-2d", "contrastive"),
    ("dual-2d", "multiclass"),
    ("packed-3d", "multiclass"),
    ("packed-signal", "multiclass"),
    ("none-2d", "multiclass"),
    ("language-2d", "generation"),
    ("language-4bit", "generation"),
)
"""Encoder and objective, the most usual first; an adapter is tried on the first where it trains."""
MAKERS = {**ENCODERS, **SIGNAL_ENCODERS, **LANGUAGE_ENCODERS, **PACKED_ENCODERS}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """A checkpoint of every epoch, whatever it costs."""
    monkeypatch.setattr(epoch_checkpoints, "LARGEST_SHARE", 1e9)


def runner(adapter: str, place: tuple[str, str]) -> Runner:
    """A graft on noise of three classes, the same each time.

    Raises:
        MedgraftError: The adapter does not fit there.
    """
    encoder, objective = MAKERS[place[0]](), place[1]
    torch.manual_seed(0)
    inputs = {name: each.numpy() for name, each in example_inputs(encoder, N).items()}
    if objective != "contrastive" and len(inputs) > 1:
        del inputs["text"]
    data = TaskData(
        inputs={name: RawInputs(lambda i: i, N, "") for name in inputs},
        targets=np.arange(N) % 3,
        subjects=np.arange(N).astype(str),
        splits={"train": np.arange(N), "val": np.arange(0), "test": np.arange(0)},
        classes=() if objective == "generation" else ("edema", "fracture", "effusion"),
        prompts=(("edema.",), ("fracture.",), ("effusion.",)) if objective in ("contrastive", "prompted") else None,
        columns={"prompt": np.array(["what is seen"] * N), "reference": np.array([f"word {i}" for i in range(N)])},
        decoding={"limit": 5},
    )
    grafted = graft(encoder, adapter)
    made = Runner(
        grafted,
        make_objective(objective, data, tuple(inputs)),
        data,
        {name: TowerInputs(0, {"x": each}) for name, each in inputs.items()},
        grafted.encode,
    )
    made.add_head(np.arange(N))
    return made


def trained(made: Runner, path: Path | None, *, stop: int = 0, seed: int = 5) -> TrainingLog:
    """A training, or what it was before the step that it is killed at."""
    return trained_until(made, N, RECIPE, path, stop=stop, seed=seed)


def outcome(made: Runner, log: TrainingLog) -> tuple[Any, ...]:
    values = {name: value.tolist() for name, value in made.grafted.adapters.state_dict().items()}
    head = made.grafted.head
    values |= {} if head is None else {name: value.tolist() for name, value in head.state_dict().items()}
    return values, log.epoch_loss, log.steps, torch.rand(2).tolist()


def where(adapter: str) -> tuple[str, str]:
    """The first place where it takes steps."""
    problems = []
    for place in PLACES:
        try:
            if trained(runner(adapter, place), None).steps:
                return place
            problems.append(f"{place}: no steps")
        except MedgraftError as error:
            problems.append(f"{place}: {error}")
    raise AssertionError("\n".join(problems))


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name not in WITHOUT_STEPS])
def test_it_goes_on_with_the_numbers_of_a_training_in_peace(adapter, tmp_path):
    place = where(adapter)
    made = runner(adapter, place)
    whole = outcome(made, trained(made, None))
    trained(runner(adapter, place), tmp_path / "x", stop=STEPS + 2)
    made = runner(adapter, place)
    log = trained(made, tmp_path / "x", seed=99)
    assert outcome(made, log) == whole and log.resumed == [1]


def test_an_adapter_that_the_loss_does_not_reach_is_refused_in_a_sentence():
    with pytest.raises(IncompatibleError, match="nothing that gated_xattn trains reaches what the loss of this task"):
        trained(runner("gated_xattn", ("dual-2d", "prompted")), None)
