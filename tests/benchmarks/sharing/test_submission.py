"""``medgraft submit-check`` finds what must not be published, names it and says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeping import command
from test_leaderboard import store

from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.sharing.identifiers import Identifiers
from medgraft.benchmarks.sharing.material import read_material
from medgraft.benchmarks.sharing.submission import ABSOLUTE, Finding, check_submission

PLUGINS = [
    {"kind": kind, "name": name, "target": "a:B", "distribution": "medgraft", "version": "0.1.0"}
    for kind, name in (("adapter", "brain_adapter"), ("encoder", "embedded"), ("task", "adni_image"))
]
TIMING = {"load": 1.001, "train": 2.002, "evaluate": 3.003}


def put(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A result as a cell leaves it, with everything that is published."""
    cell = store(folder, seed, **changes)
    timing = {name: value + seed for name, value in TIMING.items()}
    facts = {"plugins": PLUGINS, "timing": timing, "training": {"seconds": 2.5 + seed}}
    path = ResultStore(folder).path(cell.spec)
    path.write_text(cell.model_copy(update=facts).model_dump_json())
    return path


def found(folder: Path, names: tuple[str, ...] = ()) -> dict[str, Finding]:
    return {each.name: each for each in check_submission(read_material([folder]), Identifiers(names))}


def bad(folder: Path, names: tuple[str, ...] = ()) -> dict[str, str]:
    return {name: each.outcome for name, each in found(folder, names).items() if each.outcome != "pass"}


def change(path: Path, edit: Callable[[dict[str, Any]], object], *, rekey: bool = False) -> Path:
    said = json.loads(path.read_text())
    edit(said)
    if rekey:
        said["key"] = CellSpec.model_validate(said["spec"]).key()
    path.write_text(json.dumps(said))
    return path


def test_what_is_whole_passes_every_check(tmp_path):
    for seed in (0, 1):
        put(tmp_path, seed)
    assert bad(tmp_path) == {} and len(found(tmp_path)) >= 15


@pytest.mark.parametrize(
    ("cited", "why"),
    [("acme v1.0", "unknown suite 'acme v1.0'"), ("medgraft-brain v1.0", "is not of medgraft-brain v1.0: ")],
)
def test_a_suite_is_not_cited_in_vain(tmp_path, cited, why):
    path = put(tmp_path)
    change(path, lambda said: said.update(suites=[cited]))
    assert bad(tmp_path) == {"suites": "fail"}
    assert why in found(tmp_path)["suites"].files[0]


def copy_as(path: Path, name: str) -> Path:
    shutil.copy(path.with_suffix(".npz"), path.with_name(f"{name}.npz"))
    return Path(shutil.copy(path, path.with_name(f"{name}.json")))


def as_another_seed(path: Path) -> object:
    other = change(copy_as(path, "0" * 16), lambda said: said["spec"].update(seed=7), rekey=True)
    key = json.loads(other.read_text())["key"]
    other.with_suffix(".npz").rename(other.with_name(f"{key}.npz"))
    return other.rename(other.with_name(f"{key}.json"))


def beside(path: Path, name: str, text: str = "x") -> object:
    return path.with_name(name).write_text(text)


SPOILT: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "truncated": (lambda p: p.write_text(p.read_text()[:300]), {"readable": "fail", "seeds": ""}),
    "future schema": (lambda p: change(p, lambda s: s.update(schema_version=99)), {"schema": "fail"}),
    "edited options": (lambda p: change(p, lambda s: s["spec"].update(adapter="ours")), {"key": "fail"}),
    "edited metric": (
        lambda p: change(p, lambda s: s["metrics"]["f1_macro"].update(value=0.99)), {"metrics": "fail"},
    ),
    "phantom made real": (lambda p: change(p, lambda s: s.update(phantom=False)), {"phantoms": "fail"}),
    "copied under another name": (lambda p: copy_as(p, "0" * 16), {"place": "fail", "copies": "fail"}),
    "copied as another seed": (as_another_seed, {"copies": "fail"}),
    "no split hash": (lambda p: change(p, lambda s: s["data"].update(split_hash="")), {"splits": "fail"}),
    "another split": (lambda p: change(p, lambda s: s["data"].update(split_hash="ef" * 32)), {"splits": "fail"}),
    "no plugin": (lambda p: change(p, lambda s: s.update(plugins=PLUGINS[:2])), {"plugins": "fail"}),
    "unknown distribution": (
        lambda p: change(p, lambda s: s["plugins"][0].update(distribution="unknown")), {"plugins": "fail"},
    ),
    "foreign and unsaid": (
        lambda p: change(p, lambda s: s["plugins"][0].update(distribution="zoo")), {"plugins": "fail"},
    ),
    "dirty": (lambda p: change(p, lambda s: s["env"].update(dirty=True, commit="abc")), {"checkout": "warn"}),
    "no predictions": (lambda p: p.with_suffix(".npz").unlink(), {"predictions": "warn"}),
    "path": (lambda p: change(p, lambda s: s["data"].update(notes=["read /home/ann/films/x"])), {"paths": "fail"}),
    "path in a log": (lambda p: p.with_suffix(".log").write_text("see /srv/ann/x.py:3"), {"paths": "fail"}),
    "identifier": (
        lambda p: change(p, lambda s: s["data"].update(notes=["without subject-77"])), {"identifiers": "fail"},
    ),
    "adni": (lambda p: p.with_suffix(".log").write_text("of 941_S_1195"), {"identifiers": "fail"}),
    "something else": (lambda p: beside(p, "notes.csv"), {"other files": "warn"}),
    "texts of no result": (lambda p: beside(p, "abc.texts.parquet"), {"other files": "warn"}),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_wrong_is_found_with_a_remedy(tmp_path, how):
    spoil, wanted = SPOILT[how]
    paths = [put(tmp_path, seed) for seed in (0, 1)]
    spoil(paths[0])
    findings = found(tmp_path, ("subject-77",))
    for name, outcome in wanted.items():
        assert not outcome or findings[name].outcome == outcome, findings[name]
        assert not outcome or (findings[name].remedy and findings[name].files)
    others = {name for name, each in findings.items() if each.outcome == "fail"} - wanted.keys()
    assert others <= {"seeds"}, others  # a row that lost a result has fewer seeds than the other, maybe
    assert "subject-77" not in json.dumps([each.files for each in findings.values()])


def test_what_lies_beside_a_result_belongs_to_it(tmp_path):
    path = put(tmp_path)
    for name in (f"{path.stem}.log", f"{path.stem}.texts.parquet", "0001.trial.json", "leaderboard.json"):
        beside(path, name)
    findings = found(tmp_path)
    assert findings["other files"].outcome == findings["readable"].outcome == "pass"


def test_a_warning_of_pytorch_names_no_place_of_this_machine(tmp_path):
    path = put(tmp_path)
    log = path.with_suffix(".log")
    log.write_text("UserWarning: not writable (Triggered internally at /__w/pytorch/torch/csrc/x.cpp:213.)\n")
    assert found(tmp_path)["paths"].outcome == "pass"
    log.write_text(log.read_text() + "see /srv/ann/x.py:3")
    assert found(tmp_path)["paths"].files == (f"{path.relative_to(tmp_path)}: /srv/ann/x.py",)


def test_failed_cells_and_missing_seeds_are_named(tmp_path):
    for seed in (0, 1):
        put(tmp_path, seed)
    put(tmp_path, 0, adapter="lora")
    store(tmp_path, 1, adapter="lora", status="oom")
    findings = found(tmp_path)
    assert findings["failed cells"].count == 1 and "oom" in findings["failed cells"].files[0]
    assert findings["seeds"].files == ("adni_image / phantom_brain / lora has no seed 1",)


def test_two_numbers_of_one_key_are_named(tmp_path):
    for folder, skill in (("a", 0.4), ("b", 0.9)):
        put(tmp_path / folder, skill=skill)
    findings = found(tmp_path)
    assert findings["copies"].outcome == "fail" and "found twice with other numbers" in findings["copies"].files[0]


@pytest.mark.parametrize(
    ("text", "there"),
    [("in /home/ann/x", True), ("C:\\Users\\ann", True), ("~/x/y", True), ("weights@/opt/w.pt", True),
     ("timm:vit@/opt/ann/w.pt", True), ("(grey / 255 - 0.5) / 0.25", False), ("https://a.org/b/c", False),
     ("image/text", False), ("hf-hub:org/Model", False), ("train/s", False)],
)  # fmt: skip
def test_paths_of_a_machine_are_told_from_other_slashes(text, there):
    assert bool(ABSOLUTE.search(text)) == there


def test_the_exit_code_and_the_json_are_for_a_program(tmp_path):
    path = put(tmp_path / "r")
    done = command("submit-check", str(tmp_path / "r"), "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["passed"] is True
    path.write_text("{")
    done = command("submit-check", str(tmp_path / "r"))
    assert done.exit_code == 1 and "FAIL  readable" in done.stdout and "remedy: " in done.stdout
    (tmp_path / "none").mkdir()
    assert command("submit-check", str(tmp_path / "none")).exit_code == 1
    assert command("submit-check", str(tmp_path / "nowhere")).exit_code == 2


def test_a_real_sweep_may_be_published_and_its_subjects_are_searched_for(installed):
    done = command("submit-check", str(installed.results), *installed.data(), "--json")
    findings = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    fails = {name for name, each in findings.items() if each["outcome"] == "fail"}
    assert fails == set(), [findings[name] for name in fails]
    assert "known ones" in findings["identifiers"]["told"] and "(0 known" not in findings["identifiers"]["told"]


def test_a_success_of_the_store_is_a_cell(tmp_path):
    assert isinstance(CellResult.model_validate_json(put(tmp_path).read_text()), CellResult)
