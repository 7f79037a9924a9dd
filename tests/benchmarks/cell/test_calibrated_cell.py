"""A cell's temperatures and conformal sets: from validation samples, in its key only where asked for, kept and used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import Ran, ran, spec
from own_data import pictures, table, two_classes

from medgraft.benchmarks.calibration.conformal import calibrate, set_statistics, sets
from medgraft.benchmarks.calibration.temperature import scaled, temperatures_of
from medgraft.benchmarks.cell.steps.keeping import keep
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import check
from medgraft.benchmarks.sweep.checks import check_calibratable
from medgraft.benchmarks.tasks.own.table import Table
from medgraft.errors import ConfigError, DataError
from medgraft.metric import Predictions, value_of
from medgraft.objective import objective_class
from medgraft.options import checked

SMALL = {"epochs": 1, "batch_size": 8}


def cell(root: Path, **more: Any) -> Ran:
    options = Table(checked(Table.Config, {}, "")).settled(root).config.model_dump(mode="json")
    return ran(
        spec(task="table", encoder="pixels:2d", adapter="scratch_cnn", task_options=options, train=SMALL, **more), root
    )


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran]:
    root = two_classes(tmp_path_factory.mktemp("classes"), 120)
    return cell(root), cell(root, calibrate="temperature", sets="aps", coverage=0.8)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran]:
    folder = tmp_path_factory.mktemp("labels")
    words = ["x", "y", "x|y", "none"] * 30
    root = table(folder, {"image": pictures(folder, 120), "patient": range(120), "label": words})
    return cell(root), cell(root, calibrate="temperature", sets_by_class=True)


def validation(run: Ran) -> Predictions:
    """Predictions of the validation split, made again."""
    val = run.loaded.splits["val"]
    scores = run.runner.predict(val)
    return Predictions(scores, run.loaded.data.targets[val], np.arange(len(val)), run.loaded.data.classes)


def test_keys_know_of_it_only_where_it_is_asked_for():
    plain = spec()
    assert not {"calibrate", "sets", "coverage", "sets_by_class"} & set(plain.defining())
    # The key of this specification before there were temperatures and sets.
    assert plain.key() == "baccc23ff1a6a1b5"
    others = [spec(calibrate="temperature"), spec(sets="aps"), spec(coverage=0.95), spec(sets_by_class=True)]
    assert len({each.key() for each in [plain, *others]}) == 5


def test_temperature_is_that_of_validation_samples_and_changes_no_decision(classes):
    plain, asked = classes
    found = asked.evaluated.calibration.scaling
    val = validation(plain)
    assert found.temperatures == pytest.approx(temperatures_of(val.scores, val.targets), rel=1e-9)
    expected = scaled(plain.arrays["scores"], found.temperatures, labels=False)
    assert asked.arrays["scores"] == pytest.approx(expected, abs=1e-12)
    for name in ("accuracy", "f1_macro", "f1_weighted", "balanced_accuracy", "precision_macro"):
        assert asked.evaluated.metrics[name] == plain.evaluated.metrics[name]
    for name, number in found.before.items():
        assert number == plain.evaluated.metrics[name]
    assert found.loss[1] < found.loss[0] and set(found.before) == {"brier", "ece", "ece_macro"}
    assert asked.evaluated.metrics["brier"] != found.before["brier"]
    assert plain.evaluated.calibration.scaling is None


def test_labels_have_a_temperature_each_and_thresholds_move_along(labels):
    plain, asked = labels
    found = asked.evaluated.calibration.scaling
    assert len(found.temperatures) == 3 and any(found.temperatures)
    assert asked.arrays["thresholds"] == pytest.approx(
        scaled(plain.arrays["thresholds"], found.temperatures, labels=True), abs=1e-12
    )
    for name in ("f1_macro", "f1_weighted", "auc_macro"):
        assert asked.evaluated.metrics[name] == plain.evaluated.metrics[name]


@pytest.mark.parametrize("kind", ["classes", "labels"])
@pytest.mark.parametrize("which", [0, 1])
def test_sets_are_calibrated_on_validation_samples(kind, which, request):
    run = request.getfixturevalue(kind)[which]
    said, spec = run.evaluated.calibration.sets, run.ready.spec
    rule = calibrate(run.evaluated.validation, spec.sets, spec.coverage, by_class=spec.sets_by_class)
    assert said.rule == rule and (rule.method, rule.coverage, rule.by_class) == (
        spec.sets,
        spec.coverage,
        spec.sets_by_class,
    )
    val = validation(run).scores
    if run.evaluated.calibration.scaling is not None:
        val = scaled(val, run.evaluated.calibration.scaling.temperatures, labels=kind == "labels")
    assert run.evaluated.validation.scores == pytest.approx(val, abs=1e-12)
    test = Predictions(run.arrays["scores"], run.arrays["targets"], run.arrays["groups"], run.loaded.data.classes)
    expected = set_statistics(rule, test)
    assert {name: each.value for name, each in said.numbers.items()} == pytest.approx(
        {name: value_of(each, len(test.targets)) for name, each in expected.items()}, abs=1e-12
    )


def test_the_test_split_has_no_part_in_it(classes):
    _, asked = classes
    val, test = (set(asked.loaded.splits[name].tolist()) for name in ("val", "test"))
    assert [set(index.tolist()) for index in asked.predicted[:2]] == [test, val]


def test_a_kept_graft_predicts_calibrated_probabilities_and_sets(classes, labels, tmp_path):
    for name, (_, run) in {"classes": classes, "labels": labels}.items():
        folder = tmp_path / name
        keep(run.ready, run.evaluated, folder)
        predictor = Predictor(folder)
        calibration = run.evaluated.calibration
        assert predictor.facts.temperatures == calibration.scaling.temperatures
        assert predictor.facts.sets == calibration.sets.rule
        test = run.loaded.splits["test"]
        samples = [{"image": run.loaded.data.inputs["image"].read(int(i))} for i in test]
        # The cell reads prepared inputs in half precision, see docs/speed.md.
        np.testing.assert_allclose(predictor.scores(samples), run.arrays["scores"], rtol=5e-3, atol=5e-3)
        assert predictor.columns[-2:] == ["set", "warning"]


def test_the_set_of_a_sample_is_written_out(classes, labels, tmp_path):
    keep(labels[1].ready, labels[1].evaluated, tmp_path / "labels")
    predictor, rule = Predictor(tmp_path / "labels"), labels[1].evaluated.calibration.sets.rule
    assert predictor.facts.classes == ("none", "x", "y")
    limits = rule.model_copy(update={"thresholds": (0.6, 0.6, 0.5, 0.5, 0.8, 0.8)})
    written = {(0.7, 0.9): "x|y", (0.2, 0.5): "y?", (0.7, 0.5): "x|y?", (0.2, 0.1): ""}
    assert {p: predictor._set(limits, np.array([0.0, *p])) for p in written} == written
    strict = rule.model_copy(update={"thresholds": (0.6, 0.6, 0.1, 0.1, 0.8, 0.8)})
    assert predictor._set(strict, np.array([0.0, 0.5, 0.9])) == "x??|y"
    keep(classes[1].ready, classes[1].evaluated, tmp_path / "classes")
    predictor, rule = Predictor(tmp_path / "classes"), classes[1].evaluated.calibration.sets.rule
    for p in ([0.9, 0.1], [0.5, 0.5]):
        inside = sets(rule, np.array([p]), labels=False)[0]
        names = [name for name, there in zip(("a", "b"), inside, strict=True) if there]
        assert predictor._set(rule, np.array(p)) == "|".join(names)


def test_grafts_that_were_kept_before_have_neither(classes, tmp_path):
    import json

    from medgraft.benchmarks.cell.kept import FACTS

    keep(classes[0].ready, classes[0].evaluated, tmp_path / "old")
    path = tmp_path / "old" / FACTS
    facts = json.loads(path.read_text())
    for name in ("temperatures", "sets"):
        del facts[name]
    path.write_text(json.dumps(facts))
    assert "set" not in Predictor(tmp_path / "old").columns


def stored(run: Ran, folder: Path) -> tuple[Path, CellResult]:
    """The run as a result with its predictions beside it."""
    from medgraft.benchmarks.cell.steps.description import describe_data

    evaluated, each = run.evaluated, run.ready.spec
    result = CellResult(
        key=each.key(),
        status="success",
        spec=each,
        phantom=True,
        primary=run.loaded.task.primary,
        metrics=evaluated.metrics,
        groups=evaluated.groups,
        calibration=evaluated.calibration,
        data=describe_data(run.loaded, evaluated),
    )
    path = ResultStore(folder).put(result, evaluated.arrays)
    return path, CellResult.model_validate_json(path.read_text())


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_a_stored_result_is_read_back_and_found_true(kind, request, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    path, result = stored(request.getfixturevalue(kind)[1], tmp_path)
    assert check(path, result).unverified == ""
    assert result.calibration == request.getfixturevalue(kind)[1].evaluated.calibration


def test_a_result_that_says_other_coverage_or_curves_is_left_out(classes, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    path, result = stored(classes[1], tmp_path)
    said = result.calibration
    coverage = said.sets.numbers["coverage"].model_copy(update={"value": 0.99})
    better = said.sets.model_copy(update={"numbers": said.sets.numbers | {"coverage": coverage}})
    fewer = said.sets.model_copy(update={"rule": said.sets.rule.model_copy(update={"thresholds": (0.5,)})})
    likeliest = said.reliability.likeliest
    perfect = said.reliability.model_copy(
        update={"likeliest": likeliest.model_copy(update={"observed": likeliest.confidence})}
    )
    for change, reason in (
        ({"sets": better}, "coverage of its conformal sets is 0.99"),
        ({"sets": fewer}, "1 thresholds, and there should be 2"),
        ({"reliability": perfect}, "other reliability curves"),
    ):
        forged = result.model_copy(update={"calibration": said.model_copy(update=change)})
        path.write_text(forged.model_dump_json())
        with pytest.raises(UnreadableError, match=reason):
            check(path, forged)


def test_results_from_before_have_none(classes, tmp_path):
    import json

    path, _ = stored(classes[0], tmp_path)
    old = json.loads(path.read_text())
    del old["calibration"]
    for groups in old["groups"].values():
        del groups["further"]
    for name in ("calibrate", "sets", "coverage", "sets_by_class"):
        del old["spec"][name]
    result = CellResult.model_validate(old)
    assert result.calibration is None and result.spec.key() == result.key == classes[0].ready.spec.key()


def test_what_cannot_be_calibrated_is_refused(tmp_path):
    check_calibratable({"a": objective_class("multiclass"), "b": objective_class("multilabel")}, "temperature")
    with pytest.raises(ConfigError, match="task 'age' predicts no probabilities"):
        check_calibratable({"age": objective_class("regression")}, "temperature")
    check_calibratable({"age": objective_class("regression")}, "none")
    with pytest.raises(ValueError, match="coverage"):
        CellSpec.model_validate(spec().model_dump() | {"coverage": 1.0})


def test_without_validation_samples_there_is_nothing_to_calibrate_on(tmp_path):
    from dataclasses import replace

    from medgraft.benchmarks.cell.steps.calibrating import calibrate as calibrated
    from medgraft.benchmarks.cell.steps.evaluation import evaluate

    run = cell(two_classes(tmp_path, 60))
    loaded = replace(run.loaded, splits={**run.loaded.splits, "val": np.zeros(0, int)})
    ready = replace(run.ready, attached=replace(run.ready.attached, loaded=loaded))
    found = evaluate(ready)
    assert found.calibration.sets is None and found.calibration.reliability.likeliest is not None
    asked = replace(loaded, spec=loaded.spec.model_copy(update={"calibrate": "temperature"}))
    ready = replace(ready, attached=replace(ready.attached, loaded=asked))
    p = Predictions(run.arrays["scores"], run.arrays["targets"], run.arrays["groups"], run.loaded.data.classes)
    with pytest.raises(DataError, match="no validation split to learn a temperature"):
        calibrated(ready, run.runner.predict, p)
