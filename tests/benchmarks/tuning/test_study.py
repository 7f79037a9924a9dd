"""A search is the same each time, goes on from its files, and takes the best of what it saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import spec

from medgraft.benchmarks.results.chosen import Dimension, Trial
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.tuning import study as study_module
from medgraft.benchmarks.tuning.study import TRIAL_SEED, RowStudy
from medgraft.errors import ConfigError

SPACE = [
    Dimension(name="train.lr", values=[1e-4, 1e-3, 1e-2, 1e-1, 1.0], default=1e-2),
    Dimension(name="toy_gain.mode", values=["a", "b", "c"], default="a"),
]
Score = Callable[[dict[str, Any]], float | None]


def bowl(values: dict[str, Any]) -> float:
    return -abs(values["train.lr"] - 1e-3) - (values["toy_gain.mode"] != "c")


def run(
    folder: Path,
    score: Score = bowl,
    asked: int = 8,
    *,
    upwards: bool = True,
    stop: int = 99,
    fitting: Any = None,
    **more: Any,
):
    study = RowStudy(
        spec(train={"epochs": 2, "lr": 1e-2}), SPACE, asked, "f1_macro", upwards, ResultStore(folder), **more
    )
    ran = []
    while len(ran) < stop and (cell := study.next_spec()) is not None:
        values = study.values
        assert cell.seed == TRIAL_SEED and cell.tune == 0 and cell.train.lr == values["train.lr"]
        assert cell.adapter_options["mode"] == values["toy_gain.mode"]
        found = score(values)
        status = "success" if found is not None else "error"
        fits = fitting is None or fitting(values)
        trial = Trial(number=len(study.trials), values=values, status=status, score=found, seconds=1.0, fits=fits)
        study.finish(trial)
        ran.append(values)
    return study, ran


def test_the_first_trial_is_the_untuned_row_and_no_point_is_tried_twice(tmp_path):
    _, ran = run(tmp_path)
    assert ran[0] == {"train.lr": 1e-2, "toy_gain.mode": "a"}
    assert len(ran) == 8 == len({repr(values) for values in ran})


def test_the_same_search_twice(tmp_path):
    assert run(tmp_path / "a")[1] == run(tmp_path / "b")[1]


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_search_that_stopped_goes_on_and_ends_as_if_it_had_not(tmp_path, stop):
    _, before = run(tmp_path / "a", stop=stop)
    study, after = run(tmp_path / "a")
    whole, everything = run(tmp_path / "b")
    assert before + after == everything and study.resumed == stop
    assert study.outcome() == whole.outcome()


def test_more_trials_begin_with_those_that_are_there(tmp_path):
    _, first = run(tmp_path, asked=4)
    study, more = run(tmp_path, asked=8)
    assert study.resumed == 4 and [t.values for t in study.trials] == first + more


def test_values_that_do_not_fit_are_none_of_the_trials_that_were_asked_for(tmp_path):
    def fitting(values: dict[str, Any]) -> bool:
        return values["toy_gain.mode"] != "b"

    study, ran = run(tmp_path, lambda values: bowl(values) if fitting(values) else None, asked=6, fitting=fitting)
    misfits = [values for values in ran if not fitting(values)]
    assert misfits and len(ran) == 6 + len(misfits) and study.outcome().counted == study.counted == 6
    again, more = run(tmp_path, asked=6, fitting=fitting)
    assert more == [] and again.outcome() == study.outcome()


def test_a_small_space_is_searched_to_its_end(tmp_path):
    study, ran = run(tmp_path, asked=100)
    assert len(ran) == 15 and study.outcome().asked == 100
    assert study.outcome().chosen == {"train.lr": 1e-3, "toy_gain.mode": "c"}


def test_less_is_better_where_it_is(tmp_path):
    study, _ = run(tmp_path, lambda values: -bowl(values), asked=15, upwards=False)
    assert study.outcome().chosen == {"train.lr": 1e-3, "toy_gain.mode": "c"}


def test_the_untuned_values_win_a_tie_and_stay_where_nothing_has_a_score(tmp_path):
    tie, _ = run(tmp_path / "a", lambda values: 0.5)
    none, _ = run(tmp_path / "b", lambda values: None)
    assert tie.outcome().chosen == none.outcome().chosen == {"train.lr": 1e-2, "toy_gain.mode": "a"}
    assert none.outcome().best_score is None and len(none.outcome().trials) == 8


def test_tuning_is_never_worse_on_validation_samples_than_not(tmp_path):
    for number in range(5):

        def score(values: dict[str, Any], number: int = number) -> float:
            return sum(map(ord, repr((number, values)))) % 97 / 97

        study, _ = run(tmp_path / str(number), score, asked=6)
        outcome = study.outcome()
        assert outcome.best_score is not None and outcome.default_score is not None
        assert outcome.best_score >= outcome.default_score and outcome.seconds == 6.0


def test_a_damaged_file_and_a_trial_that_was_killed_run_again(tmp_path):
    study, ran = run(tmp_path)
    study.path(2).write_text("{")
    killed = study.trials[5].model_copy(update={"status": "killed", "score": None})
    study.path(5).write_text(killed.model_dump_json())
    _, again = run(tmp_path)
    assert again == [ran[2], ran[5]]


def test_fresh_runs_all_of_it_again(tmp_path):
    _, ran = run(tmp_path)
    assert run(tmp_path, fresh=True)[1] == ran


def test_trials_are_no_results(tmp_path, caplog):
    study, _ = run(tmp_path)
    assert study.path(0).is_file() and list(read_results([tmp_path])) == [] and "left out" not in caplog.text


def test_without_the_library_it_says_what_to_install(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'medgraft\[tune\]'"):
        study_module.require_optuna()


def test_a_search_of_which_nothing_fits_ends(tmp_path):
    _, ran = run(tmp_path / "defaults", lambda values: None, asked=4, fitting=lambda values: False)
    assert len(ran) == 1
    study, ran = run(tmp_path / "rest", lambda values: None, asked=2, fitting=lambda values: values == study_default)
    assert len(ran) == 6 and study.counted == 1


study_default = {each.name: each.default for each in SPACE}
