"""``medgraft diff``: what moved, and whether by more than noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeping import command
from test_leaderboard import CLASSES, store

from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.results.result import CellResult, Efficiency
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.sharing.differing import differences, told
from medgraft.metric import Predictions

ENV = {"cpu": "a processor", "cpu_count": 2, "threads": 1, "packages": {"torch": "2.14.1"}}


def put(
    folder: Path, skill: float, seed: int = 0, *, noise: int = 0, n: int = 200, beside: bool = True,
    speed: float = 100.0, env: dict[str, Any] | None = None, trainable: int = 10, **changes: Any,
) -> CellResult:  # fmt: skip
    """A result on ``n`` subjects; scores of one ``noise`` and seed share their noise, whatever their skill."""
    spec = CellSpec.model_validate(
        {
            "task": "adni_image", "cohort": {"name": "adni", "revision": "r", "phantom": True},
            "encoder": "phantom_brain", "adapter": "lora", "seed": seed, "train": {"epochs": 3}, **changes,
        }
    )  # fmt: skip
    rng = np.random.default_rng([seed, noise])
    targets = np.arange(n) % 2
    first = 1 / (1 + np.exp(-(skill * (1 - 2 * targets) + rng.standard_normal(n))))
    scores, groups = np.stack([first, 1 - first], axis=1), np.arange(n)
    costs = Efficiency(trainable={"lora": trainable}, encoder_parameters=9, train_samples_per_s=speed)
    result = CellResult(
        key=spec.key(), status="success", spec=spec, phantom=True, primary="auc_macro",
        metrics=evaluate(Predictions(scores, targets, groups, CLASSES), resamples=200), efficiency=costs,
        data={"classes": list(CLASSES), "split_hash": "ab" * 32}, env=env or ENV,
    )  # fmt: skip
    arrays = {"scores": scores, "targets": targets, "groups": groups}
    ResultStore(folder).put(result, arrays if beside else None)
    return result


def compared(tmp_path: Path, **options: Any):
    return differences(tmp_path / "old", tmp_path / "new", **options)


def test_the_same_folder_has_not_moved(tmp_path):
    for seed in (0, 1):
        put(tmp_path / "old", 0.5, seed)
    found = differences(tmp_path / "old", tmp_path / "old")
    (only,) = found.metrics
    assert only.change == "same" and not found.any and not found.worse


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(("skill", "change"), [(1.6, "better"), (0.1, "worse")])
def test_a_large_move_is_more_than_noise_either_way(tmp_path, skill, change, beside):
    # Two seeds, whose noise is each its own here, have one degree of freedom between them and settle hardly anything.
    seeds = (0, 1, 2) if beside else (0,)
    old = [put(tmp_path / "old", 0.8, seed, beside=beside) for seed in seeds]
    new = [put(tmp_path / "new", skill, seed, beside=beside) for seed in seeds]
    (only,) = compared(tmp_path).metrics
    means = [np.mean([cell.metrics["auc_macro"].value for cell in cells]) for cells in (old, new)]  # pyright: ignore
    assert only.change == change and only.paired == beside and only.seeds == seeds
    assert (only.old, only.new) == pytest.approx(means) and only.low is not None and only.high is not None
    assert only.low < means[1] - means[0] < only.high


def test_pairing_sees_what_intervals_alone_do_not(tmp_path):
    """The same noise on the same subjects: a small move that is there for everybody."""
    for side, skill in (("old", 0.8), ("new", 0.95)):
        put(tmp_path / side, skill)
    (paired,) = compared(tmp_path).metrics
    for path in tmp_path.rglob("*.npz"):
        path.unlink()
    (apart,) = compared(tmp_path).metrics
    assert paired.change == "better" and apart.change == "within noise"
    assert None not in (paired.low, paired.high, apart.low, apart.high)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)  # pyright: ignore


def test_other_noise_alone_is_rarely_taken_for_a_move(tmp_path):
    """Rows that differ in their noise only, judged together: the chance that any is called moved is a twentieth."""
    for row in range(12):
        for side, noise in (("old", 1), ("new", 2)):
            put(tmp_path / side, 0.8, noise=1000 * noise + row, n=80, adapter=f"a{row}")
    found = compared(tmp_path).metrics
    assert len(found) == 12 and all(each.change == "within noise" for each in found)
    assert all(each.p < 1 and each.paired for each in found)


def test_the_spread_of_seeds_is_noise_too(tmp_path):
    """Seeds that move to and fro do not make a difference, though each alone is clear."""
    for seed, (old, new) in enumerate([(0.3, 1.6), (1.5, 0.3), (0.4, 1.3)]):
        put(tmp_path / "old", old, seed)
        put(tmp_path / "new", new, seed)
    assert compared(tmp_path).metrics[0].change == "within noise"


def test_only_seeds_of_both_are_compared(tmp_path):
    for seed in (0, 1, 2):
        put(tmp_path / "old", 0.8, seed)
    put(tmp_path / "new", 0.8, 1)
    (only,) = compared(tmp_path).metrics
    assert only.seeds == (1,) and only.change == "same"


def test_other_subjects_are_not_paired(tmp_path):
    put(tmp_path / "old", 0.8, n=200)
    put(tmp_path / "new", 0.8, n=220)
    assert not compared(tmp_path).metrics[0].paired


def test_rows_of_other_code_match_and_say_so(tmp_path):
    put(tmp_path / "old", 0.8, numbers_version=5, plugins={"zoo": "1.0"})
    put(tmp_path / "old", 0.8, numbers_version=4, plugins={"zoo": "1.0"})
    put(tmp_path / "new", 0.8, plugins={"zoo": "1.1"})
    put(tmp_path / "new", 0.8, train={"epochs": 9})
    found = compared(tmp_path)
    (pair,) = found.matched.pairs
    assert pair.changed == ("numbers version 5 to 6", "zoo 1.0 to 1.1")
    assert len(found.matched.only_old) == 1 and len(found.matched.only_new) == 1
    text = "\n".join(told(found))
    assert "numbers version 5 to 6" in text and "only in the second: adni_image" in text


def test_a_cell_that_fails_now_is_worse(tmp_path):
    store(tmp_path / "old")
    store(tmp_path / "new", status="oom")
    found = compared(tmp_path)
    assert [each[2:] for each in found.statuses] == [("success", "oom")] and found.worse
    back = differences(tmp_path / "new", tmp_path / "old")
    assert back.any and not back.worse


@pytest.mark.parametrize(("speed", "worse"), [(70.0, True), (140.0, False), (95.0, None)])
def test_costs_that_moved_are_told_on_the_same_hardware_only(tmp_path, speed, worse):
    put(tmp_path / "old", 0.8)
    put(tmp_path / "new", 0.8, speed=speed)
    assert [each.worse for each in compared(tmp_path).costs] == ([] if worse is None else [worse])
    put(tmp_path / "new", 0.8, speed=speed, env=ENV | {"cpu": "another"})
    elsewhere = compared(tmp_path)
    assert not elsewhere.costs and len(elsewhere.elsewhere) == 1
    assert elsewhere.versions["processor"] == ("a processor", "another")


def test_other_parameters_are_told(tmp_path):
    put(tmp_path / "old", 0.8)
    put(tmp_path / "new", 0.8, trainable=20)
    assert [each[1:] for each in compared(tmp_path).parameters] == [(10, 20)]


def test_the_exit_code_is_for_a_program(tmp_path):
    for side, skill in (("old", 1.2), ("new", 0.1)):
        put(tmp_path / side, skill)
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    for first, second, fail_on, code in (
        (old, new, "never", 0), (old, new, "worse", 1), (old, new, "any", 1), (new, old, "worse", 0),
        (new, old, "any", 1), (old, old, "any", 0),
    ):  # fmt: skip
        done = command("diff", first, second, "--fail-on", fail_on, "--json")
        assert done.exit_code == code, (first, second, fail_on, done.output)
        assert json.loads(done.stdout)["worse"] == (first == old and second == new)


def test_a_broken_folder_is_compared_by_what_is_left_of_it(tmp_path):
    put(tmp_path / "old", 0.8)
    put(tmp_path / "new", 0.8)
    (tmp_path / "new" / "x.json").write_text("{")
    found = compared(tmp_path)
    assert found.left_out[1].startswith("1 file left out (1 damaged") and found.metrics[0].change == "same"
    (tmp_path / "none").mkdir()
    done = command("diff", str(tmp_path / "old"), str(tmp_path / "none"))
    assert done.exit_code == 2 and "no result in" in done.stderr
    done = command("diff", str(tmp_path / "old"), str(tmp_path / "new"), "--metrics", "nonsense")
    assert done.exit_code == 2 and "'nonsense'" in done.stderr
