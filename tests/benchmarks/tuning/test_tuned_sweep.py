"""A tuned sweep that is killed goes on with the trials that it has, and its results say how they were tuned."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sweeping import Toy

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import TRIAL_SUFFIX


def trials(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(f"*/*/*/*.trials/*{TRIAL_SUFFIX}")}


@pytest.fixture(scope="module")
def story(tmp_path_factory, toy_site, toy_cohort):
    """Killed with the first trial done, then run to its end: trials before and after, the output and the results."""
    folder = tmp_path_factory.mktemp("tuned") / "results"
    toy = Toy(toy_site, toy_cohort)
    arguments = ["--adapters", "toy_gain", *toy.options("--seeds", "0,1", "--tune", "3", "--results", str(folder))]
    process = toy.start(*arguments, "--jobs", "1")
    end = time.monotonic() + 120
    while not trials(folder):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = trials(folder)
    done = toy.run(*arguments, "--jobs", "1")
    results: list[CellResult] = [result for _, result in read_results([folder])]
    return before, trials(folder), done, results


def test_trials_that_were_there_are_not_run_again(story):
    before, after, done, _ = story
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(after) == 3 and {name: after[name] for name in before} == before
    assert f"({len(before)} of them there already)" in done.stdout


def test_all_seeds_share_what_was_chosen_and_say_how(story):
    results = story[3]
    assert sorted(each.spec.seed for each in results) == [0, 1]
    first, second = (each.tuning for each in results)
    assert first == second and first is not None and len(first.trials) == 3
    assert first.trials[0].values == {each.name: each.default for each in first.space} and len(first.space) == 4
    assert first.seconds == pytest.approx(sum(each.seconds for each in first.trials))
    assert {each.spec.tune for each in results} == {3}
    chosen = {name.removeprefix("train."): value for name, value in first.chosen.items()}
    for each in results:
        assert {name: getattr(each.spec.train, name) for name in chosen} == chosen
