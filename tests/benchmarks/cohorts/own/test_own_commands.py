"""inspect and run on one's own data, as a user types them."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml
from own_data import picture, table, two_classes
from sweeping import typed as medgraft

from medgraft.benchmarks.cohorts.own.task_file import read_task_file
from medgraft.errors import ConfigError


def test_inspect_shows_what_was_understood(tmp_path):
    two_classes(tmp_path, 40, patient=[k // 2 for k in range(40)], sex=["f", "m"] * 20)
    frame = pd.read_csv(tmp_path / "cohort.csv")
    frame.loc[0, "image"] = "gone.png"
    frame.to_csv(tmp_path / "cohort.csv", index=False)
    (tmp_path / "x3.png").write_bytes((tmp_path / "x2.png").read_bytes())
    (tmp_path / "x7.png").write_bytes(b"\x89PNG")
    done = medgraft("inspect", "cohort.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in (
        "read as multiclass of image; image image, label label, subject patient, text none, split none",
        "attributes: sex (2 values)",
        "sizes of 39 files that were read: 10 x 12 (38)",
        "left out: 1 with no such file",
        "left out: 1 with no image, or cut",
        "look at this: files that repeat the content of another: 1",
        "to begin with: medgraft run --adapters linear_probe,lora --tasks table --data table=cohort.csv",
    ):
        assert text in done.stdout, (text, done.stdout)


def test_names_of_files_that_look_like_patients_are_remarked_on(tmp_path):
    names = [picture(tmp_path / f"P{k // 3:03d}-{k % 3}.png", k).name for k in range(30)]
    table(tmp_path, {"image": names, "label": ["ab"[k // 3 % 2] for k in range(30)]})
    done = medgraft("inspect", "cohort.csv", cwd=tmp_path)
    assert "look as if they held patients (10 different, such as 'P000', in 30 files)" in done.stdout


@pytest.mark.slow
def test_a_table_is_run_resumed_and_named(tmp_path):
    two_classes(tmp_path / "data", 40)
    sweep = ("--adapters", "lora", "--seeds", "0", "--epochs", "1", "--no-baselines")
    first = medgraft("run", *sweep, "--tasks", "table", "--data", "table=data/cohort.csv", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "table: found objective multiclass, inputs image, image image, label label, subject none" in first.stdout
    assert "each sample is a subject of its own" in first.stdout
    assert "each sample is a subject of its own" in (tmp_path / "leaderboard.md").read_text()
    again = medgraft("run", *sweep, "--tasks", "table", "--data", "table=data/cohort.csv", cwd=tmp_path)
    assert "1 finished before" in again.stdout + again.stderr or "success" not in again.stdout
    named = medgraft("inspect", "data/cohort.csv", "--write", "liver.yaml", cwd=tmp_path)
    assert named.returncode == 0 and "--tasks liver.yaml" in named.stdout
    done = medgraft("run", *sweep, "--tasks", "liver.yaml", "--results", "named", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "named" / "phantom_chest" / "lora").rglob("*[0-9a-f].json")
    facts = json.loads(result.read_text())
    assert facts["spec"]["task"] == "table:liver" and facts["spec"]["cohort"]["name"] == "table:liver"
    assert not facts["phantom"] and str(tmp_path) not in result.read_text()


def test_files_may_lie_elsewhere(tmp_path):
    for k in range(12):
        picture(tmp_path / "films" / "2020" / f"{k}.png", k)
    names = [f"/export/study/2020/{k}.png" for k in range(12)]
    table(tmp_path / "tables", {"image": names, "label": ["a", "b"] * 6})
    alone = medgraft("inspect", "tables/cohort.csv", cwd=tmp_path)
    assert alone.returncode == 2 and "none of the 12 files" in alone.stderr
    done = medgraft("inspect", "tables/cohort.csv", "--root", "films", "--write", "t.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "t.yaml").read_text())["options"]["table"] == "../tables/cohort.csv"
    run = ("run", "--adapters", "lora", "--seeds", "0", "--dry-run", "--tasks")
    for more in (("table", "--data", "table=tables/cohort.csv", "--root", "films"), ("t.yaml",)):
        planned = medgraft(*run, *more, cwd=tmp_path)
        assert planned.returncode == 0 and "2 cells" in planned.stdout, planned.stderr
    wrong = medgraft(*run, "table", "--root", "films", cwd=tmp_path)
    assert wrong.returncode == 2 and "--root films is for --data table=TABLE" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("inspect", "gone.csv"), "gone.csv"),
        (("inspect", "cohort.csv", "--set", "labl=x"), "did you mean label or table?"),
        (("inspect", "cohort.csv", "--set", "label"), "--set label: write OPTION=VALUE"),
        (("inspect", "cohort.csv", "--set", "label=gone"), "unknown column for table.label 'gone'"),
        (("inspect", "cohort.csv", "--write", "task.txt"), "a task file ends in .yaml"),
        (("inspect", "cohort.csv", "--write", "a b.yaml"), "'a b' is no name for a task"),
        (("run", "--adapters", "lora", "--tasks", "gone.yaml"), "gone.yaml"),
        (("run", "--adapters", "lora", "--tasks", "bad.yaml"), "task file bad.yaml must hold task, data"),
        (("run", "--adapters", "lora", "--tasks", "table", "--data", "table=gone.csv"), "there is no such"),
        (("run", "--adapters", "lora", "--tasks", "rsna:mine"), "task 'rsna' has no variants"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, arguments, problem):
    two_classes(tmp_path)
    (tmp_path / "bad.yaml").write_text("name: x\n")
    done = medgraft(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and problem in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_task_file_is_not_overwritten_and_says_what_it_needs(tmp_path):
    two_classes(tmp_path)
    for code in (0, 2):
        assert medgraft("inspect", "cohort.csv", "--write", "one.yaml", cwd=tmp_path).returncode == code
    file = read_task_file(tmp_path / "one.yaml")
    assert file.name == "table:one" and file.data == tmp_path / "cohort.csv"
    (tmp_path / "two.yaml").write_text("task: table\ndata: x.csv\noptions: [1]\n")
    with pytest.raises(ConfigError, match="options must be a mapping, not list"):
        read_task_file(tmp_path / "two.yaml")
