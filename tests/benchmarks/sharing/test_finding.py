"""``medgraft show``: a row is found by what a person types, and shown whole; what is ambiguous or wrong is named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from sweeping import command
from test_leaderboard import store
from test_verification import HOSTILE

from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.sharing.finding import find
from medgraft.benchmarks.sharing.showing import metrics_by_class, show
from medgraft.errors import ConfigError, MedgraftError, UnknownNameError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters on two encoders, one adapter in two recipes, three seeds of one row."""
    folder = tmp_path_factory.mktemp("rows")
    for seed in range(3):
        store(folder, seed)
    store(folder, adapter="lora", train={"epochs": 3})
    store(folder, adapter="lora", train={"epochs": 40})
    store(folder, adapter="prefix", encoder="timm:vit_tiny@random")
    store(folder, adapter="prefix", encoder="phantom_brain", task="adni_text")
    return folder


def shown(name: str, folder: Path, width: int = 200, seed: int | None = None) -> str:
    text = io.StringIO()
    show(find(name, [folder], seed), Console(file=text, width=width, highlight=False))
    return text.getvalue()


@pytest.mark.parametrize(
    "name",
    ["brain_adapter", "phantom_brain/brain_adapter", "adni_image/brain_adapter",
     "adni_image/phantom_brain/brain_adapter", "ADNI_image/phantom_brain/brain_adapter/",
     "adni_image/phantom_brain/brain_adapter (PHANTOM)"],
)  # fmt: skip
def test_a_row_goes_by_its_names(folder, name):
    assert len(find(name, [folder]).results) == 3


def test_a_row_goes_by_its_folder_and_files(folder):
    cell = find("brain_adapter", [folder]).results[1]
    assert len(find(str(cell.path.parent), []).results) == 3
    for ending in (".json", ".npz"):
        assert [r.cell.key for r in find(str(cell.path.with_suffix(ending)), []).results] == [cell.cell.key]


def test_a_cell_goes_by_the_beginning_of_its_key_and_by_its_seed(folder):
    cell = find("brain_adapter", [folder]).results[2].cell
    for length in (6, 12, 16):
        (found,) = find(cell.key[:length], [folder]).results
        assert found.cell == cell
    assert find("brain_adapter", [folder], 2).results[0].cell == cell
    with pytest.raises(ConfigError, match="has no seed 7; it has 0, 1, 2"):
        find("brain_adapter", [folder], 7)


def test_what_may_be_several_rows_is_answered_with_the_choices(folder):
    with pytest.raises(ConfigError, match=r"may be 2 rows: .*epochs 3.*epochs 40.*name one of them"):
        find("lora", [folder])
    assert find("lora (epochs 40)", [folder]).row.first.spec.train.epochs == 40
    with pytest.raises(ConfigError, match="may be 2 rows"):
        find("prefix", [folder])
    assert find("timm:vit_tiny/prefix", [folder]).row.first.spec.encoder == "timm:vit_tiny@random"
    assert find("adni_text", [folder]).row.first.spec.adapter == "prefix"


def test_an_unknown_row_suggests_one(folder, tmp_path):
    with pytest.raises(UnknownNameError, match="brain_adapter"):
        find("brain_adaptor", [folder])
    with pytest.raises(MedgraftError, match="no results in which"):
        find("lora", [tmp_path])
    with pytest.raises(MedgraftError, match="does not exist"):
        find(str(tmp_path / "x.json"), [folder])


def test_a_row_is_shown_whole(folder):
    text = shown("brain_adapter", folder)
    cell = find("brain_adapter", [folder]).row.first
    for word in ("PHANTOM", "f1_macro *", "CN", "AD", "trainable", "recipe", "split hash", "abab", "seed 2",
                 "20 subjects", "medgraft reproduce", cell.spec.cohort.revision):  # fmt: skip
        assert word in text, word
    assert f"{cell.key}.json" in text


def test_numbers_of_classes_stand_by_class(folder):
    by_class, overall = metrics_by_class(find("brain_adapter", [folder]).row)
    assert set(by_class) == {"CN", "AD"} and {"f1", "auc", "precision", "recall"} <= set(by_class["AD"])
    assert {"f1_macro", "auc_macro", "accuracy"} <= set(overall) and "f1_ad" not in overall


def test_nothing_is_cut_off_in_a_narrow_terminal_or_a_pipe(folder):
    for width in (40, 80, 200):
        text = shown("brain_adapter", folder, width)
        assert "ab" * 32 in text.replace("\n", "") and "…" not in text


def test_a_hostile_name_is_only_shown(tmp_path):
    store(tmp_path, adapter=HOSTILE, encoder=HOSTILE)
    text = shown(HOSTILE, tmp_path)
    assert "\x1b" not in text and "\u202e" not in text and "[red]" in text and "[/nope]" in text


def test_a_failed_cell_says_why(tmp_path):
    path = ResultStore(tmp_path).path(store(tmp_path, status="oom").spec)
    text = shown(str(path), tmp_path)
    assert "1 of 1: oom" in text and "it broke" in text


@pytest.mark.parametrize("damage", ["cut", "future", "key", "metric"])
def test_a_result_that_cannot_be_trusted_is_refused_in_a_sentence(tmp_path, damage):
    path = ResultStore(tmp_path).path(store(tmp_path).spec)
    said = json.loads(path.read_text())
    if damage == "future":
        said["schema_version"] = 99
    elif damage == "key":
        said["spec"]["seed"] = 4
    elif damage == "metric":
        said["metrics"]["f1_macro"]["value"] = 1.0
    path.write_text(json.dumps(said)[: 200 if damage == "cut" else None])
    reason = {"cut": "no JSON", "future": "update medgraft", "key": "its key is not", "metric": "its predictions give"}
    for words in (["show", str(path)], ["reproduce", str(path)], ["diff", str(path), str(path)]):
        done = command(*words)
        assert done.exit_code == 2 and reason[damage] in done.stderr and done.stderr.count("\n") == 1, done.output
    done = command("label", "brain_adapter", str(tmp_path), "--out", str(tmp_path))
    assert done.exit_code == 2 and reason[damage] in done.stderr
