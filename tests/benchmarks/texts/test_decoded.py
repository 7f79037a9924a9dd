"""Decoding that was killed goes on where it stopped, with the same texts."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medgraft import graft
from medgraft.benchmarks.cell.steps import resuming
from medgraft.benchmarks.metrics.texts.columns import GENERATED, texts_of
from medgraft.benchmarks.objectives.generation import GenerationObjective
from medgraft.benchmarks.texts.decoded import DecodedFile
from medgraft.benchmarks.training.training_state import TrainingLog
from medgraft.language_model import Generated
from medgraft.task import RawInputs, TaskData
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS
from medgraft.world import World

SPLITS = {"train": np.arange(2), "val": np.arange(2, 4), "test": np.arange(4, 12)}


def made(seed: int) -> tuple[Any, GenerationObjective]:
    torch.manual_seed(seed)
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), "soft_prefix").eval()
    data = TaskData(
        inputs={"image": RawInputs(lambda i: None, 12, "nothing")},
        targets=np.zeros(12, np.int64),
        subjects=np.arange(12).astype(str),
        splits=SPLITS,
        classes=(),
        columns={"prompt": np.array(["what is seen"] * 12), "reference": np.array(["clear", "effusion"] * 6)},
        decoding={"limit": 6},
    )
    return grafted, GenerationObjective(data, ("image",))


def texts(grafted: Any, objective: GenerationObjective) -> list[str]:
    images = torch.rand(12, 1, 16, 24, generator=torch.Generator().manual_seed(0))

    def predict(index: np.ndarray) -> np.ndarray:
        parts = [index[start : start + 2] for start in range(0, len(index), 2)]
        context = objective.context(grafted)
        with torch.no_grad():
            rows = [objective.scores_of(grafted, grafted.encode({"image": images[p]}), context, p) for p in parts]
        return torch.cat(rows).double().numpy()

    return texts_of(objective.predictions(predict, SPLITS, np.arange(8)).columns[GENERATED])


def counted(objective: GenerationObjective, grafted: Any, kill_after: int | None = None) -> Counter[str]:
    """Counts the batches that the language model decodes; kills the process in the middle of one."""
    calls: Counter[str] = Counter()
    model = grafted.encoder.towers()["text"]
    generate = model.generate

    def counting(prompts: Any, decoding: Any) -> Generated:
        calls["decoded"] += 1
        if calls["decoded"] == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return generate(prompts, decoding)

    object.__setattr__(model, "generate", counting)
    return calls


def test_a_killed_run_goes_on_with_what_was_decoded(tmp_path):
    stem = tmp_path / "batches"
    child = os.fork()
    if not child:  # dies in its third batch of four
        grafted, objective = made(0)
        objective.resume_at(stem)
        counted(objective, grafted, kill_after=3)
        texts(grafted, objective)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    file = stem.with_suffix(".jsonl")
    file.write_bytes(file.read_bytes() + b'\n{"samples": [8, 9], "texts": ["cut')  # and a line that a kill cut off
    grafted, objective = made(0)
    calls = counted(objective, grafted)
    objective.resume_at(stem)
    resumed = texts(grafted, objective)
    assert calls["decoded"] == 2
    whole = made(0)
    assert resumed == texts(*whole) and len(set(resumed)) > 1
    assert len(DecodedFile(file)) == 4


@pytest.mark.parametrize("line", ["[]", "{}", '{"samples": [1], "texts": [], "ids": [[]], "endings": ["end"]}', "\xff"])
def test_lines_that_are_no_batches_are_left_out(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(line.encode("latin-1"))
    kept = DecodedFile(path)
    kept.put([1, 2], Generated(("a", "b"), ((1,), ()), ("end", "limit")))
    read = DecodedFile(path)
    assert len(read) == 1 and read.get([2, 1]) is None
    assert read.get(np.array([1, 2])) == Generated(("a", "b"), ((1,), ()), ("end", "limit"))


def ready(grafted: Any, objective: GenerationObjective, key: str = "key") -> Any:
    runner = SimpleNamespace(objective=objective, world=World())
    return SimpleNamespace(spec=SimpleNamespace(key=lambda: key, seed=4), grafted=grafted, runner=runner)


def test_trained_weights_are_taken_by_a_cell_of_the_same_numbers_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path))
    first = ready(*made(0))
    assert resuming.kept_training(first) is None
    resuming.keep_trained(first, TrainingLog([0.5], 3, 8, 1.0))
    resuming.resume(first)
    assert first.runner.objective._decoded is not None
    second = ready(*made(1))
    log = resuming.kept_training(second)
    assert log is not None and (log.epoch_loss, log.steps) == ([0.5], 3)
    assert torch.initial_seed() == 5  # as training leaves it
    for own, other in zip(second.grafted.adapters.parameters(), first.grafted.adapters.parameters(), strict=True):
        assert torch.equal(own, other)
    assert resuming.kept_training(ready(*made(1), key="another")) is None
    (weights,) = Path(tmp_path).rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    assert resuming.kept_training(ready(*made(1))) is None  # damaged: it is trained again
    resuming.forget(first)
    assert not list(Path(tmp_path).rglob("*.safetensors"))
