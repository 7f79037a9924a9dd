"""Suites are frozen, results belong to them by what they are, and their ranks name what is missing."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_leaderboard import store

from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.suite.membership import FROZEN, as_preset, misfit, with_suite
from medgraft.benchmarks.suite.ranks import boards_of, suite_boards
from medgraft.benchmarks.suite.text import show_suite
from medgraft.benchmarks.sweep.request import read_sweep
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.suites import Suite, find_suite, read_suite, suites
from medgraft.task.names import build_task

DIGESTS = {
    "medgraft-brain v1.0": "bb7764ba70abb20324037bdb96522571d4287713234a6bdbe5dd113b1be4b663",
    "medgraft-chest v1.0": "5b4f9b963d84c9b51eabec654abe6e734abbb218d65235d07cfd96c9af8c26c6",
    "medgraft-dense v1.0": "ca996325b25159003b65edc263aaf3df794e0e0d1306aa87fef0b2f06d9bf2fc",
    "medgraft-few-shot v1.0": "b1d772b21faceef56ac45b890d69e895c3fbb5d6e9069363ee3a585b2b6034eb",
    "medgraft-phantom v1.0": "576d02a75599fb7ac8ea05248b63b81fefdd61c541d6b9cee6a27c0a4271e279",
}
"""Of every version that was ever published. A line here never changes: a changed suite is a new version."""


def test_no_suite_has_changed():
    assert {name: suite.sha256() for name, suite in suites().items() if name.startswith("medgraft-")} == DIGESTS


@pytest.mark.parametrize("name", DIGESTS)
def test_a_suite_speaks_of_what_exists(name):
    suite = suites()[name]
    for each in suite.tasks:
        task = build_task(each.task, each.options)
        assert (task.cohort, task.version) == (each.cohort, each.version)
        assert each.generated is not None or each.collected is not None
    assert as_preset(suite).seeds == suite.seeds


def test_a_suite_is_found_by_name_and_version():
    assert find_suite("medgraft-chest") is find_suite("medgraft-chest@1.0") is find_suite("medgraft-chest v1.0")
    with pytest.raises(UnknownNameError, match="did you mean medgraft-chest"):
        find_suite("medgraft-chst")
    with pytest.raises(UnknownNameError):
        find_suite("medgraft-chest@9.9")


def test_the_digest_holds_every_field_but_the_title():
    suite = find_suite("medgraft-phantom")
    assert suite.model_copy(update={"title": "other"}).sha256() == suite.sha256()
    for changes in ({"seeds": (0, 1)}, {"version": "1.1"}, {"references": ()}, {"tasks": suite.tasks[:1]}):
        assert suite.model_copy(update=changes).sha256() != suite.sha256()


def test_another_distribution_brings_suites_in_a_folder(tmp_path, monkeypatch):
    from distributions import install_groups

    site, package = tmp_path / "site", tmp_path / "site" / "acme_suites"
    install_groups(site, "acme", "[medgraft.suites]\nacme = acme_suites\n", {}, "1.0")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a suite needs no import')\n")
    text = Path(__import__("medgraft.suites").suites.__file__).with_name("medgraft-phantom-1.0.yaml").read_text()
    (package / "mine.yaml").write_text(text.replace("medgraft-phantom", "acme-suite"))
    (package / "broken.yaml").write_text("name: x\n")
    monkeypatch.syspath_prepend(str(site))
    suites.cache_clear()
    try:
        assert "acme-suite v1.0" in suites() and len(suites()) == len(DIGESTS) + 1
    finally:
        suites.cache_clear()


@pytest.mark.parametrize("option", [name for name in FROZEN if name != "baselines"])
def test_what_a_suite_decides_nobody_else_does(option):
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')}: suite medgraft-chest v1.0 says which"):
        with_suite({option: 1}, find_suite("medgraft-chest"))


def test_options_of_its_tasks_are_decided_and_those_of_adapters_are_not():
    asked = {"suite": "medgraft-chest", "adapters": ["lora"]}
    sweep = read_sweep(None, asked, ["lora.rank=4"])
    assert sweep.options == {"lora": {"rank": 4}} and sweep.tasks == ("chexpert", "rsna", "siim")
    assert sweep.preset_entry().encoders["chexpert"] == ("phantom_chest",) and not sweep.baselines
    with pytest.raises(ConfigError, match=r"--set chexpert: suite medgraft-chest v1\.0 has decided the options"):
        read_sweep(None, asked, ["chexpert.split_seed=3"])


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Two tasks that the results of the board's tests may be of."""
    tasks = tuple(
        {
            "task": task, "primary": "f1_macro", "encoders": ("phantom_brain",), "cohort": "adni",
            "generated": {"writer": "adni", "split_hash": "ab" * 32},
            "collected": {"release": "any", "split": "any"},
        }
        for task in ("adni_image", "adni_text")
    )  # fmt: skip
    return Suite.model_validate(
        {"name": "small", "version": "1.0", "title": "t", "numbers_version": 6, "seeds": (0, 1), "tasks": tasks}
    )


def put(
    folder: Path, task: str, adapter: str, seed: int = 0, cited: tuple[str, ...] = (), **changes: Any
) -> CellResult:
    options = build_task(task, {}).config.recorded()
    base = {"task_options": options, "train": {"epochs": 3}}
    result = store(folder, seed, task=task, adapter=adapter, **(base | changes))
    result = result.model_copy(update={"suites": list(cited), "training": {"steps": 9, "recipe_epochs": 3}})
    ResultStore(folder).put(result)
    return result


def whole(folder: Path, adapter: str, skill: float) -> None:
    for task in ("adni_image", "adni_text"):
        for seed in (0, 1):
            put(folder, task, adapter, seed, skill=skill)


def test_a_result_belongs_whoever_asked_for_it(tmp_path, suite):
    assert misfit(suite, put(tmp_path, "adni_image", "lora")) == ""
    assert misfit(suite, put(tmp_path, "adni_image", "vpt", cited=("small v1.0", "small v0.9"))) == ""


def test_results_of_another_version_are_refused_by_name(tmp_path, suite):
    put(tmp_path, "adni_image", "lora", cited=("small v0.9",))
    (board,) = suite_boards(suite, board_rows([tmp_path]))
    assert board.refused == {"it cites small v0.9": (("lora on adni_image",), 1)}
    shown = io.StringIO()
    show_suite([board], Console(file=shown, width=200))
    assert "Left out: 1 result of lora on adni_image: it cites small v0.9." in shown.getvalue()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 7}, "seed 7 is not one of the suite's"),
        ({"encoder": "phantom_chest"}, "encoder phantom_chest is not one"),
        ({"tune": 5}, "the number of trials is 5, not none"),
        ({"budget": 10}, "the budget of parameters is 10, not none"),
        ({"limit": 40}, "the limit of samples per split is 40, not none"),
        ({"numbers_version": 5}, "the version of the harness's numbers is 5, not 6"),
        ({"precision": "bf16"}, "the precision is bf16, not fp32"),
        ({"train": {"epochs": 9}}, "it was trained for 9 epochs; the suite allows 3"),
    ],
)
def test_what_is_not_of_the_suite_is_told_why(tmp_path, suite, changes, reason):
    seed = changes.pop("seed", 0) if "seed" in changes else 0
    assert reason in misfit(suite, put(tmp_path, "adni_image", "lora", seed, **changes))


def test_another_split_of_a_generated_cohort_is_refused(tmp_path, suite):
    result = put(tmp_path, "adni_image", "lora")
    other = result.model_copy(update={"data": {**result.data, "split_hash": "ef" * 32}})
    assert "its split is efefefefefef, not abababababab" in misfit(suite, other)


def test_the_better_adapter_has_the_better_mean_rank_and_an_interval_around_it(tmp_path, suite):
    for adapter, skill in (("lora", 1.2), ("vpt", 0.2), ("ssf", 0.6)):
        whole(tmp_path, adapter, skill)
    (board,) = suite_boards(suite, board_rows([tmp_path]))
    assert board.ranked[0].adapter == "lora" and board.phantom
    assert sum(each.rank for each in board.ranked) == pytest.approx(6)
    for each in board.ranked:
        assert each.low is not None and each.high is not None
        assert 1 <= each.low <= each.rank <= each.high <= 3
    text = markdown(board_rows([tmp_path]), BoardOptions("x", suites=[board]))
    assert "Suite small v1.0 (PHANTOM)" in text and suite.sha256()[:16] in text


def test_equal_adapters_share_a_rank(tmp_path, suite):
    whole(tmp_path, "lora", 0.5)
    whole(tmp_path, "vpt", 0.5)  # the same predictions
    (board,) = suite_boards(suite, board_rows([tmp_path]))
    assert [(each.rank, each.low, each.high) for each in board.ranked] != [] and {e.rank for e in board.ranked} == {1.5}


def test_who_lacks_a_cell_is_named_and_not_ranked(tmp_path, suite):
    whole(tmp_path, "lora", 0.5)
    put(tmp_path, "adni_image", "vpt", 0)
    (board,) = suite_boards(suite, board_rows([tmp_path]))
    assert [each.adapter for each in board.ranked] == ["lora"]
    assert board.unranked == {
        "vpt": "adni_image on phantom_brain (1 of 2 seeds), adni_text on phantom_brain (0 of 2 seeds)"
    }


def test_generated_cohorts_and_people_are_ranked_apart(tmp_path, suite):
    whole(tmp_path, "lora", 0.5)
    for task in ("adni_image", "adni_text"):
        for seed in (0, 1):
            put(tmp_path, task, "vpt", seed, phantom=False)
    boards = suite_boards(suite, board_rows([tmp_path]))
    assert [(board.phantom, [each.adapter for each in board.ranked]) for board in boards] == [
        (False, ["vpt"]),
        (True, ["lora"]),
    ]


def test_without_predictions_there_are_ranks_and_no_intervals(tmp_path, suite):
    whole(tmp_path, "lora", 0.5)
    whole(tmp_path, "vpt", 1.0)
    for path in tmp_path.rglob("*.npz"):
        path.unlink()
    (board,) = suite_boards(suite, board_rows([tmp_path]))
    assert len(board.ranked) == 2 and all(each.low is None for each in board.ranked)


def test_a_result_that_was_there_before_can_cite_a_suite(tmp_path):
    result = put(tmp_path, "adni_image", "lora")
    results = ResultStore(tmp_path)
    results.cite(result.spec, ["medgraft-brain v1.0"])
    results.cite(result.spec, ["medgraft-brain v1.0"])
    found = results.get(result.spec)
    assert found is not None and found.suites == ["medgraft-brain v1.0"]
    assert found.model_copy(update={"suites": []}) == result and np.all(board_rows([tmp_path])[0].unverified == 0)
    assert [board.suite.id for board in boards_of(board_rows([tmp_path]))] == ["medgraft-brain v1.0"]


def test_a_file_that_is_no_suite_says_why(tmp_path):
    (tmp_path / "x.yaml").write_text("name: UPPER\n")
    with pytest.raises(ConfigError, match=r"x\.yaml is not a valid suite"):
        read_suite(tmp_path / "x.yaml")


def test_a_suite_cannot_be_changed(suite):
    with pytest.raises(Exception, match="frozen"):
        suite.seeds = (1,)
    assert not dataclasses.is_dataclass(suite)
