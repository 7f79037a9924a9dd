"""``medgraft new``: names, files, refusals; the packages' own tests and sweeps are walked in test_walk.py."""

from __future__ import annotations

import ast
import keyword
import os
import shutil
import string
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from medgraft import scaffold
from medgraft.benchmarks.cohorts.tables.reading import is_phantom
from medgraft.benchmarks.commands.main import app
from medgraft.errors import ConfigError
from medgraft.plugins import GROUPS
from medgraft.scaffold import KINDS, LONGEST, NAME, check_name, class_name, write_package
from medgraft.scaffold.task import PluginTask

FILES = {"pyproject.toml", "README.md", ".gitignore", ".github/workflows/test.yml"}
words = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
names = st.builds(
    lambda first, rest, join: join.join([f"x{first}", *rest]), words, st.lists(words, max_size=2), st.sampled_from("_-")
)


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".png"
    }


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_complete(kind, tmp_path):
    folder = write_package(kind, "my-thing", tmp_path)
    found = files_of(folder)
    own = {"src/medgraft_my_thing.py", "tests/test_my_thing.py"}
    assert FILES | own <= set(found) and folder == tmp_path / "my-thing"
    assert [path.name for path in tmp_path.iterdir()] == ["my-thing"]
    project = tomllib.loads(found["pyproject.toml"])
    assert project["project"]["name"] == "medgraft-my-thing"
    (entry,) = project["project"]["entry-points"][GROUPS[kind]].items()
    assert entry == ("my-thing", f"medgraft_my_thing:MyThing{kind.capitalize()}")
    assert f"class MyThing{kind.capitalize()}(" in found["src/medgraft_my_thing.py"]
    assert yaml.safe_load(found[".github/workflows/test.yml"])["jobs"]["test"]["steps"]
    assert scaffold.run_command(kind, "my-thing") in found["README.md"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_short_and_the_test_calls_the_kit(kind, tmp_path):
    found = files_of(write_package(kind, "mine", tmp_path))
    assert len(found["src/medgraft_mine.py"].splitlines()) <= 40
    *_, function = ast.parse(found["tests/test_mine.py"]).body
    assert isinstance(function, ast.FunctionDef) and f"check_{kind}(" in ast.unparse(function.decorator_list[0])
    assert len(ast.unparse(function).splitlines()) == 3


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), name=names.filter(lambda name: len(name) <= LONGEST))
@example(kind="adapter", name="plugin_name")
@example(kind="encoder", name="plugin-kind")
@example(kind="task", name="task")
@example(kind="encoder", name="none")
@example(kind="adapter", name="x" * LONGEST)
def test_every_accepted_name_gives_code_that_parses_and_leaves_no_placeholder(kind, name, tmp_path_factory):
    found = files_of(write_package(kind, name, tmp_path_factory.mktemp("new")))
    cls = class_name(kind, name)
    assert cls.isidentifier() and not keyword.iskeyword(cls)
    module = f"medgraft_{name.replace('-', '_')}"
    tree = ast.parse(found[f"src/{module}.py"])
    assert cls in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert cls not in imported  # it would be its own base class
    assert max(len(line) for path, text in found.items() if path.endswith(".py") for line in text.splitlines()) <= 120
    if "plugin" not in name:
        assert not [
            path for path, text in found.items() if "plugin_" in text or "PluginClass" in text or "# example:" in text
        ]


def test_the_packages_pass_ruff_and_are_formatted(tmp_path):
    for kind in KINDS:
        write_package(kind, "a", tmp_path / kind)
        write_package(kind, "x" * LONGEST, tmp_path / kind)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", str(tmp_path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_of_a_task_is_read_by_it_and_always_the_same(tmp_path):
    folders = [write_package("task", name, tmp_path) / "example" for name in ("one", "two")]
    first, second = ({p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} for folder in folders)
    assert first == second and len(first) == 42
    assert is_phantom(folders[0])
    data = PluginTask().load(folders[0]).check()
    assert data.phantom and data.classes == ("disc", "square") and data.inputs["image"].read(0).shape == (32, 32)
    assert {len(set(data.targets[index])) for index in data.splits.values()} == {2}


def test_the_task_of_the_template_names_what_is_missing_and_skips_what_is_damaged(tmp_path):
    from medgraft.errors import DataError

    with pytest.raises(DataError, match=r"labels\.csv does not exist"):
        PluginTask().load(tmp_path)
    example = write_package("task", "hand_films", tmp_path) / "example"
    table = (example / "labels.csv").read_text().splitlines()
    (example / table[1].partition(",")[0]).write_bytes(b"no image")
    data = PluginTask().load(example)
    with pytest.raises(DataError, match="cannot be read as an image"):
        data.inputs["image"].read(0)
    (example / "labels.csv").write_text("file,label\n")
    with pytest.raises(DataError, match="subject"):
        PluginTask().load(example)


def test_the_task_of_the_template_cuts_no_pixels_off(tmp_path):
    example = write_package("task", "hand_films", tmp_path) / "example"
    ramp = np.linspace(0, 60_000, 64, dtype=np.uint16).reshape(8, 8)
    for pixels, seen in ((ramp, np.linspace(0, 255, 64)), (ramp // 300, ramp.ravel() // 300)):
        Image.fromarray(pixels if pixels.max() > 255 else pixels.astype(np.uint8)).save(example / "images" / "00-0.png")
        read = PluginTask().load(example).inputs["image"].read(0)
        assert read.dtype == np.uint8 and np.abs(read.ravel() - seen).max() <= 1


def test_the_task_of_the_template_knows_pixels_by_their_content(tmp_path):
    example = write_package("task", "hand_films", tmp_path) / "example"
    other = Path(shutil.copytree(example, tmp_path / "other"))
    first = PluginTask().load(example).inputs["image"].fingerprint
    assert PluginTask().load(other).inputs["image"].fingerprint == first
    film, donor = (other / "images" / name for name in ("00-0.png", "02-0.png"))
    stamp = film.stat()
    film.write_bytes(donor.read_bytes())
    os.utime(film, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert PluginTask().load(other).inputs["image"].fingerprint != first


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "Big", "größe", "1st", "_x", "x_", "x__y", "x.y", "x y", "x+y", "x:y", "../x", "a/b", "-x", "x" * 31, "x\n"],
)
def test_a_name_that_cannot_be_written_everywhere_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be the name of a plugin.*for example my_task"):
        write_package("task", name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("adapter", "lora", "medgraft itself offers adapter 'lora'"),
        ("adapter", "chexpert", "medgraft itself offers task 'chexpert'"),
        ("task", "timm", "medgraft itself offers encoder 'timm'"),
        ("encoder", "biomedclip", "a short name in the catalogue"),
        ("encoder", "medgraft", "leave 'medgraft' out"),
        ("adapter", "medgraft-gain", "leave 'medgraft' out"),
    ],
)
def test_a_name_that_is_taken_is_refused(kind, name, says):
    with pytest.raises(ConfigError, match=says):
        check_name(kind, name)


@pytest.mark.parametrize("name", ["class", "none", "json", "torch", "adapter", "test", "numpy"])
def test_keywords_and_names_of_packages_are_fine_behind_the_prefix(name, tmp_path):
    assert (write_package("adapter", name, tmp_path) / "src" / f"medgraft_{name}.py").is_file()


def test_the_name_of_an_installed_plugin_or_module_is_refused(tmp_path, monkeypatch):
    info = tmp_path / "acme-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[medgraft.adapters]\ngain = acme:Gain\n")
    (tmp_path / "medgraft_loss.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"acme 2\.0 offers adapter 'gain'"):
        check_name("adapter", "gain")
    check_name("task", "gain")  # another kind is another table
    with pytest.raises(ConfigError, match="module 'medgraft_loss' is installed"):
        check_name("task", "loss")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        write_package("task", "mine", tmp_path)
    assert files_of(tmp_path) == {"mine/notes": "keep"}


def test_an_empty_folder_and_missing_parents_are_used(tmp_path):
    (tmp_path / "mine").mkdir()
    assert write_package("adapter", "mine", tmp_path) == tmp_path / "mine"
    assert write_package("adapter", "mine", tmp_path / "a" / "b").is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written.*choose another --out"):
        write_package("adapter", "mine", tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["adapter", "lora"], "'lora' is taken"),
        (["adapter", "Größe"], "cannot be the name of a plugin"),
        (["metric", "mine"], "'adapter'"),
        (["adapter"], "Missing argument"),
    ],
)
def test_the_command_refuses_with_exit_code_two(arguments, says, tmp_path):
    done = CliRunner().invoke(app, ["new", *arguments, *(["--out", str(tmp_path)] if len(arguments) > 1 else [])])
    assert done.exit_code == 2 and says in done.stderr and "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_the_command_lists_the_files_and_what_to_do_next(tmp_path):
    done = CliRunner().invoke(app, ["new", "encoder", "mine", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'mine' / 'pyproject.toml'}" in done.stdout
    assert "pip install -e '.[test]'" in done.stdout and "--encoders mine:tiny" in done.stdout


# -- properties of the name rule --------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_whatever_is_accepted_is_a_module_name_behind_the_prefix(text):
    if NAME.fullmatch(text):
        assert f"medgraft_{text.replace('-', '_')}".isidentifier() and text == os.path.basename(text) == text.lower()
