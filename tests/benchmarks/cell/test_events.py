"""TensorBoard event files: read back by TensorBoard itself, and the numbers of the cell are those without them."""

from __future__ import annotations

import builtins

import pytest
from sweeping import command

from medgraft.benchmarks.cell.job import Job
from medgraft.benchmarks.cell.steps.events import EventFiles, chosen_head, run_folder
from medgraft.benchmarks.cell.worker import run_cell
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec


@pytest.fixture
def spec() -> CellSpec:
    facts = {"name": "toy", "revision": "r", "phantom": True}
    fields = {"task": "toy", "encoder": "toy:tiny", "adapter": "toy_gain", "seed": 1, "cohort": facts}
    return CellSpec.model_validate({**fields, "train": {"epochs": 3, "batch_size": 16}})


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def run(spec, root, events=None) -> CellResult:
    return run_cell(Job(spec=spec, root=root, events=events), lambda doing, share: None)[0]


def test_events_are_what_the_result_says_and_change_nothing(toy, spec, tmp_path):
    plain = run(spec, toy.cohort)
    for _ in range(2):  # the second run takes the place of the first
        result = run(spec, toy.cohort, tmp_path)
    assert (result.key, result.metrics, result.training["epoch_loss"]) == (
        plain.key, plain.metrics, plain.training["epoch_loss"],
    )  # fmt: skip
    folder = run_folder(tmp_path, spec)
    assert folder.relative_to(tmp_path).as_posix() == f"toy/toy_tiny/toy_gain-seed1-{spec.key()[:8]}"
    events = read(folder)
    steps = result.training["steps"]
    loss = events.Scalars("train/loss")
    assert [each.step for each in loss] == list(range(1, steps + 1))
    per_epoch = steps // 3
    assert [each.value for each in events.Scalars("train/epoch_loss")] == pytest.approx(result.training["epoch_loss"])
    first = [each.value for each in loss[:per_epoch]]
    assert sum(first) / per_epoch == pytest.approx(result.training["epoch_loss"][0], rel=1e-5)
    rates = [tag for tag in events.Tags()["scalars"] if tag.startswith("learning_rate/peak_")]
    for tag in rates:
        peak = float(tag.rpartition("_")[2])
        assert max(each.value for each in events.Scalars(tag)) <= peak * 1.0001 and len(events.Scalars(tag)) == steps
    assert rates
    for name, metric in result.metrics.items():
        for end, value in (("", metric.value), ("_low", metric.ci_low), ("_high", metric.ci_high)):
            if value is not None:
                assert events.Scalars(f"test/{name}{end}")[0].value == pytest.approx(value, rel=1e-6)
    assert {"_hparams_/session_start_info", "_hparams_/experiment"} <= set(events.summary_metadata)


def test_a_folder_that_cannot_be_written_costs_the_events_alone(toy, spec, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert run(spec, toy.cohort, tmp_path / "file").status == "success"
    assert "no more TensorBoard events" in caplog.text


def test_an_error_while_writing_is_told_once(spec, tmp_path, caplog):
    events = EventFiles(tmp_path, spec)
    events.writer.add_scalar = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    for step in range(1, 4):
        events.step(step, 0.5, {"peak_0.1": 0.1})
    events.close()
    assert caplog.text.count("No space left") == 1


def test_the_chosen_head_tells_where_it_was_chosen():
    assert chosen_head({}) == {}
    assert chosen_head({"rule": "folds", "C": 0.1, "candidates": [{"C": 0.1, "log_loss": 0.3}]}) == {
        "cross_validation/log_loss": 0.3
    }


def test_the_command_writes_them_into_the_results_or_a_folder(toy, tmp_path):
    results = str(tmp_path / "r")
    names = ["run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", results, "--jobs", "1")]
    done = command(*names, "--tensorboard")
    assert done.exit_code == 0, done.output
    ((_, result),) = read_results([tmp_path / "r"])
    assert read(run_folder(tmp_path / "r" / "tensorboard", result.spec)).Scalars("train/loss")


def test_without_the_package_it_is_said_before_anything_runs(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("medgraft.benchmarks.sweep.checks.find_spec", lambda name: None)
    names = ["run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", str(tmp_path / "r"))]
    done = command(*names, "--tensorboard", str(tmp_path / "t"))
    assert done.exit_code == 2 and "pip install 'medgraft[tensorboard]'" in done.output
    assert not list((tmp_path / "r").rglob("*.json")) and not (tmp_path / "t").exists()


def test_tensorboard_is_not_imported_unasked(toy, spec, monkeypatch):
    original = builtins.__import__

    def guarded(name, *rest, **more):
        assert not name.startswith("tensorboard") and "tensorboard" not in name
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert run(spec, toy.cohort).status == "success"
