"""Variants, groups, tags and former names of tasks in a request; the variants of another distribution's task."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from distributions import install_groups
from sweeping import Toy, command

from medgraft.benchmarks.cohorts.places import Cohort
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.spec import CohortId
from medgraft.benchmarks.sweep.checks import check_names, check_size
from medgraft.benchmarks.sweep.plan import cells_of
from medgraft.benchmarks.sweep.recipe import task_options
from medgraft.benchmarks.sweep.request import Sweep, read_sweep
from medgraft.benchmarks.sweep.rows import resolve_row, rows
from medgraft.errors import MedgraftError
from medgraft.registry import Catalogue, catalogue
from medgraft.task.names import build_task, expand_tasks, resolve_task, task_facts

SOURCE = '''
"""Films of a toy, and variants of what is asked of them."""

from medgraft.task import Variant
from medgraft_toy import ToyTask


class Films(ToyTask):
    """Dull or bright films."""

    tags = ("films",)
    variants = {
        "reshuffled": Variant("Another split", {"split_seed": 7}),
        "ranked": Variant(primary="auc_macro", tags=("ranking",)),
    }


class Wrong(ToyTask):
    """A variant of an option that there is not."""

    variants = {"more": Variant(defaults={"splits": 7})}
'''
ENTRY_POINTS = "[medgraft.tasks]\nfilms = medgraft_pictures:Films\nwrong_films = medgraft_pictures:Wrong\n"
COHORT = Cohort(CohortId(name="adni", revision="r", phantom=True), Path("/nowhere"))


def sweep(**values: Any) -> Sweep:
    return Sweep.model_validate({"adapters": ["lora"], "baselines": False, **values})


@pytest.fixture
def films(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy beside a distribution whose task has variants; in this process and in workers."""
    site = tmp_path / "site"
    install_groups(site, "medgraft-pictures", ENTRY_POINTS, {"medgraft_pictures": SOURCE})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{toy.site}")
    return toy


# --- requests ---------------------------------------------------------------------------------------------------------


def test_groups_of_a_request_are_its_tasks():
    chosen = sweep(tasks=["chest_prompts:*", "tag:control"]).tasks
    assert chosen == expand_tasks(["chest_prompts:*", "tag:control"]) and len(chosen) == 8
    assert {row.task for row in rows(sweep(tasks=["tag:control"]))} == {"adni_image:nogap", "chexpert:nogap"}


def test_former_names_of_a_file_and_of_the_command_line_are_the_variants(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("adapters: lora\ntasks: adni_ad_cn\noptions: {adni_ad_cn: {split_seed: 3}}\n")
    request = read_sweep(path, {}, ["adni_ad_cn.val_fraction=0.2", "adni_image:ad_cn.test_fraction=0.4"])
    assert request.tasks == ("adni_image:ad_cn",)
    assert request.options == {"adni_image:ad_cn": {"split_seed": 3, "val_fraction": 0.2, "test_fraction": 0.4}}
    check_names(request)
    check_size(request, rows(request))


def test_a_former_name_asks_for_the_same_cells():
    cells = []
    for name in ("adni_ad_cn", "adni_image:ad_cn"):
        request = sweep(tasks=[name], options={name: {"split_seed": 3}})
        (row,) = rows(request)
        cells.append(cells_of(row, resolve_row(row, request), request, COHORT))
    assert cells[0] == cells[1] and cells[0][0].task == "adni_image:ad_cn"
    assert (cells[0][0].task_options["contrast"], cells[0][0].task_options["split_seed"]) == ("CN-AD", 3)


def test_a_preset_may_have_former_names_and_groups(monkeypatch):
    quick = catalogue().presets["quick"]
    preset = quick.model_copy(
        update={"tasks": ("adni_ad_cn", "tag:control"), "options": {"adni_ad_cn": {"split_seed": 4}}}
    )
    other: Catalogue = catalogue().model_copy(update={"presets": {**catalogue().presets, "quick": preset}})
    monkeypatch.setattr("medgraft.benchmarks.sweep.request.catalogue", lambda: other)
    request = sweep()
    assert [row.task for row in rows(request)] == ["adni_image:ad_cn", "adni_image:nogap", "chexpert:nogap"]
    assert task_options(request, "adni_image:ad_cn") == {"split_seed": 4}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tasks": ["adni_image:ad_nc"]}, "unknown adni_image variant 'ad_nc'; did you mean ad_cn"),
        ({"options": {"adni_image:ad_nc": {}}}, "unknown adni_image variant 'ad_nc'; did you mean ad_cn"),
        (
            {"options": {"adni_ad_cn": {"contrasts": 1}}},
            "options of task 'adni_image:ad_cn': contrasts: no such option",
        ),
        ({"tasks": ["tag:few_shots"]}, "unknown tag of tasks 'few_shots'; did you mean few_shot"),
        ({"tasks": ["rsna:*"]}, "task group 'rsna:\\*': the task has no variants"),
        ({"train": {"chexpert_nogap": {"lr": 1}}}, "training options go by adapter"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_made(values, says):
    with pytest.raises(MedgraftError, match=says) as error:
        check_names(sweep(**values))
    assert "\n" not in str(error.value)


def test_an_unknown_variant_of_set_is_named():
    with pytest.raises(MedgraftError, match="unknown adni_image variant 'ad_nc'; did you mean ad_cn"):
        read_sweep(None, {"adapters": ["lora"]}, ["adni_image:ad_nc.split_seed=1"])


# --- commands ---------------------------------------------------------------------------------------------------------


def test_tasks_are_listed_with_their_variants_and_tags(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    lines = command("ls", "tasks").stdout.splitlines()
    (row,) = (line for line in lines if "chexpert:nogap" in line)
    assert "chest, control" in row and "films as in pre-training" in row
    assert any("tags" in line for line in lines[:3])


def test_a_former_name_is_described_as_the_variant():
    result = command("describe", "brain_prompts_age")
    assert result.exit_code == 0, result.output
    assert "brain_prompts:age" in result.stdout and "tags: brain, one_question" in result.stdout
    assert "brain_prompts:age" in command("describe", "brain_prompts").stdout


# --- another distribution's variants ----------------------------------------------------------------------------------


def test_variants_of_a_foreign_task_are_tasks(films, caplog):
    assert expand_tasks(["films:*"]) == ("films:reshuffled", "films:ranked")
    assert expand_tasks(["tag:ranking"]) == ("films:ranked",)
    assert "left out of the choice of tasks: variant 'more' of task class Wrong" in caplog.text
    assert expand_tasks(["medgraft-pictures:films:*"]) == (
        "medgraft-pictures:films:reshuffled",
        "medgraft-pictures:films:ranked",
    )
    assert build_task("films:reshuffled").config.model_dump() == {"split_seed": 7}
    assert build_task("films:reshuffled", {"split_seed": 1}).config.model_dump() == {"split_seed": 1}
    assert (build_task("films:ranked").primary, build_task("films").primary) == ("auc_macro", "f1_macro")
    assert task_facts("films:reshuffled").title == "Another split"
    assert resolve_task("films:ranked").plugin.distribution == "medgraft-pictures"
    with pytest.raises(MedgraftError, match="unknown films variant 'rankd'; did you mean ranked"):
        build_task("films:rankd")
    with pytest.raises(MedgraftError, match="sets 'splits', which is none of the task's options: split_seed"):
        build_task("wrong_films:more")


def test_a_foreign_task_is_described_with_its_variants(films):
    shown = command("describe", "films")
    assert shown.exit_code == 0, shown.output
    assert "films:reshuffled  Another split" in shown.stdout and "tags: films" in shown.stdout


@pytest.mark.slow
def test_all_variants_of_a_foreign_task_are_swept(films, tmp_path, caplog):
    out = tmp_path / "results"
    arguments = [
        "--adapters",
        "toy_gain",
        "--tasks",
        "films:*",
        "--encoders",
        "toy:tiny",
        "--epochs",
        "2",
        "--seeds",
        "0",
    ]
    more = ["--data", f"toy={films.cohort}", "--no-baselines", "--results", str(out)]
    result = command("run", *arguments, *more)
    assert result.exit_code == 0, result.output
    with caplog.at_level(logging.WARNING):
        cells = {cell.spec.task: cell for _, cell in read_results([out])}
    assert set(cells) == {"films:reshuffled", "films:ranked"} and not caplog.records
    assert all(cell.status == "success" for cell in cells.values())
    assert cells["films:reshuffled"].spec.task_options == {"split_seed": 7}
    assert cells["films:ranked"].primary == "auc_macro"
    assert cells["films:ranked"].spec.plugins["medgraft-pictures"] == "1.0"
    again = command("run", *arguments, *more)
    assert again.exit_code == 0 and len(list(read_results([out]))) == 2
