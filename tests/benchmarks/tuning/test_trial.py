"""A trial has no test split: what is wrong with its targets cannot be seen, and nothing of a result comes of them."""

from __future__ import annotations

import numpy as np
import pytest
from cells import spec

from medgraft.benchmarks.cell.job import Job
from medgraft.benchmarks.cell.worker import run_cell
from medgraft.benchmarks.tuning.trial import trial_of
from medgraft.task import TaskData


class Explosive(np.ndarray):
    """Targets that explode when one of the samples ``mined`` is read, once they are armed."""

    mined: np.ndarray | None = None

    def __getitem__(self, key):
        if self.mined is not None and self.shape == self.mined.shape and self.mined[key].any():
            raise AssertionError("a target of the test split was read")
        return super().__getitem__(key)


def trial(root, **changes):
    job = Job(spec=spec(**changes), root=root, trial=True)
    return run_cell(job, lambda text, share: None)


@pytest.fixture
def mined(monkeypatch, toy):
    """The toy task with explosive targets, armed once its data were checked."""
    from medgraft.task.names import task_class

    cls = task_class("toy")
    load, check = cls.load, TaskData.check

    def explosive(self, root):
        data = load(self, root)
        data.targets = data.targets.view(Explosive)
        return data

    def armed(self):
        check(self)
        mines = np.zeros(len(self.targets), bool)
        mines[self.splits["test"]] = True
        self.targets.mined = mines
        return self

    monkeypatch.setattr(cls, "load", explosive)
    monkeypatch.setattr(TaskData, "check", armed)
    return toy


def test_a_trial_reads_no_target_of_the_test_split(mined):
    result, arrays = trial(mined.cohort)
    assert result.status == "success" and 0 <= result.training["validation"] <= 1
    assert result.metrics == {} and arrays == {}


def test_a_cell_does_and_would_explode(mined):
    with pytest.raises(AssertionError, match="test split was read"):
        run_cell(Job(spec=spec(), root=mined.cohort), lambda text, share: None)


@pytest.mark.parametrize("adapter", ["toy_gain", "linear_probe"])
def test_other_test_labels_change_nothing(toy, monkeypatch, adapter):
    """With every label of the test split turned round the score is the same, to the last bit."""
    from medgraft.task.names import task_class

    cls = task_class("toy")
    load = cls.load

    def turned(self, root):
        data = load(self, root)
        data.targets[data.splits["test"]] = 1 - data.targets[data.splits["test"]]
        return data

    before = trial(toy.cohort, adapter=adapter)[0].training["validation"]
    monkeypatch.setattr(cls, "load", turned)
    assert trial(toy.cohort, adapter=adapter)[0].training["validation"] == before


def test_values_that_an_adapter_cannot_attach_with_are_told_from_failures(toy):
    options = {"encoder": "pixels:2d", "adapter": "linear_probe", "adapter_options": {"pooling": "cls"}}
    result, _ = trial(toy.cohort, **options)
    made = trial_of(result, 3, {"linear_probe.pooling": "cls"}, 1.0)
    assert result.status == "error" and "no CLS token for pooling 'cls'" in result.message
    assert not made.fits and made.score is None and made.number == 3
    fitting, _ = trial(toy.cohort, **options | {"adapter_options": {"pooling": "mean"}})
    assert trial_of(fitting, 0, {"linear_probe.pooling": "mean"}, 1.0).fits
