"""The wheel: one top-level name, everything inside, at peace with AdapterHub's ``adapters``, and typed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow(seconds=400)

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCES = {"medgraft": "src/medgraft", "medgraft/adapters": "adapters", "medgraft/encoders": "encoders"} | {
    "medgraft/benchmarks": "benchmarks"
}
RIVAL = "adapters==1.3.0"
CONSUMER = '''
"""What an author of a plugin writes; every name must resolve and have a type."""

from collections.abc import Mapping

import torch
from medgraft import Adapter, AdapterConfig, Attachment, Encoder, Features, Grafted, Site, Support, build_encoder, graft
from medgraft.adapters.lora import Lora
from medgraft.benchmarks.results.result import CellResult
from medgraft.encoders.embedded import EmbeddedSource
from medgraft.task import Task, TaskData


class Mine(Adapter):
    class Config(AdapterConfig):
        rank: int = 4

    config: Config

    def supports(self, encoder: Encoder) -> Support:
        return Support(encoder.spec.dim > self.config.rank, "too narrow")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        return Attachment(encoder)


grafted: Grafted = graft(build_encoder("embedded:chest"), "lora", rank=2)
features: Features = grafted(torch.zeros(1, 1, 128, 128))
counts: dict[str, int] = grafted.trainable_count()
reveal_type(graft)
reveal_type(features.pooled)
wrong: str = grafted.trainable_count()  # the one error that must be found
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the checkout and none is picked up from there."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("src", "adapters", "encoders", "benchmarks"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "registry.yaml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tree / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--installer", "pip", "--outdir", str(out), str(tree)],
        check=True,
        capture_output=True,
        text=True,
    )
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel beside its rival; third-party packages are borrowed from this one."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", str(wheel), RIVAL], check=True, capture_output=True, text=True)
    # A plain path line: the editable finder of this environment does not follow.
    (site_packages(home) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def site_packages(home: Path) -> Path:
    return next((home / "lib").glob("python*")) / "site-packages"


def run(home: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(home / "bin" / arguments[0]), *arguments[1:]], capture_output=True, text=True, cwd=cwd)


# --- what is inside ---------------------------------------------------------------------------------------------------


def test_medgraft_is_the_only_top_level_name(names):
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"medgraft"}


def test_every_module_of_the_four_folders_is_inside(names):
    for target, source in SOURCES.items():
        folder = CHECKOUT / source
        missing = [
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*.py")
            if f"{target}/{path.relative_to(folder).as_posix()}" not in names
        ]
        assert missing == [], source


def test_the_catalogue_the_weights_and_the_type_marker_are_inside(names):
    folder = CHECKOUT / "encoders" / "weights"
    files = [path for path in folder.rglob("*") if path.is_file()]
    weights = {f"medgraft/encoders/weights/{path.relative_to(folder).as_posix()}" for path in files}
    assert {"medgraft/registry.yaml", "medgraft/py.typed"} | weights <= names
    assert sum(name.endswith(".safetensors") for name in weights) >= 2


def test_the_templates_of_the_pages_are_inside(names):
    templates = {path.name for path in (CHECKOUT / "benchmarks" / "site" / "templates").iterdir()}
    assert {"index.html", "rows.html", "board.js", "page.css"} <= templates
    assert {f"medgraft/benchmarks/site/templates/{name}" for name in templates} <= names


def test_the_catalogue_is_the_checkouts(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("medgraft/registry.yaml") == (CHECKOUT / "registry.yaml").read_bytes()


def test_neither_tests_nor_caches_are_inside(names):
    inside = {name.removeprefix("medgraft/testing/") for name in names}  # the kit for authors is no test of ours
    assert [name for name in inside if "test" in name or "__pycache__" in name] == []


# --- installed beside its rival ---------------------------------------------------------------------------------------


def test_no_file_belongs_to_both_distributions(clean):
    records = []
    for info in ("medgraft-*.dist-info", "adapters-*.dist-info"):
        (record,) = site_packages(clean).glob(f"{info}/RECORD")
        records.append({line.partition(",")[0] for line in record.read_text().splitlines()})
    assert min(map(len, records)) > 10 and records[0].isdisjoint(records[1])


def test_each_import_finds_its_own_package(clean, tmp_path):
    code = (
        "import json, importlib.util as u, medgraft.adapters.lora, medgraft.registry as r\n"
        "print(json.dumps([u.find_spec('adapters').origin, medgraft.__file__, medgraft.adapters.lora.__file__, "
        "str(r.catalogue_path())]))"
    )
    done = run(clean, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    home = site_packages(clean)
    rival, core, lora, catalogue = (Path(text).relative_to(home).as_posix() for text in json.loads(done.stdout))
    assert (rival, core) == ("adapters/__init__.py", "medgraft/__init__.py")
    assert (lora, catalogue) == ("medgraft/adapters/lora.py", "medgraft/registry.yaml")


def test_the_command_lists_the_built_in_plugins(clean, tmp_path):
    done = run(clean, "medgraft", "ls", "adapters", cwd=tmp_path)
    assert done.returncode == 0 and "brain_adapter" in done.stdout and "Brain-Adapter" in done.stdout, done.stderr


def test_the_shipped_encoders_load_from_the_wheel(clean, tmp_path):
    code = "from medgraft import graft; print(sum(graft('embedded:chest', 'lora', rank=2).trainable_count().values()))"
    done = run(clean, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr


def test_the_harness_plans_from_the_wheel(clean, tmp_path):
    names = ["--adapters", "lora", "--encoders", "embedded:chest@random", "--tasks", "chexpert", "--dry-run"]
    done = run(clean, "python", "-m", "medgraft.benchmarks.run", *names, "--no-baselines", cwd=tmp_path)
    assert done.returncode == 0 and "cells" in done.stdout, done.stderr


# --- types ------------------------------------------------------------------------------------------------------------


def pyright(folder: Path, python: Path | str) -> dict[str, Any]:
    """Pyright's report on a folder that has a ``pyrightconfig.json``, with the packages of a Python."""
    # Node collects its young objects at every 16 MB, and most of what pyright makes stays to the end; at every 64 MB,
    # the same check takes a tenth less of a core.
    options = f"{os.environ.get('NODE_OPTIONS', '')} --max-semi-space-size=64".strip()
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(python), "-p", str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"NODE_OPTIONS": options},
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def check_types(home: Path, folder: Path, what: str, strict: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Pyright's diagnostics of severity ``error`` or ``information``, in the project's own mode.

    Paths are relative to the folder; pyright ignores others.
    """
    settings = {"include": [what], "strict": strict, "typeCheckingMode": "basic", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    return pyright(folder, home / "bin" / "python")["generalDiagnostics"]


def test_a_plugin_is_type_checked_against_the_wheel(clean, tmp_path):
    (tmp_path / "consumer.py").write_text(CONSUMER)
    found = check_types(clean, tmp_path, "consumer.py")
    errors = [each for each in found if each["severity"] == "error"]
    assert [each["range"]["start"]["line"] for each in errors] == [len(CONSUMER.splitlines()) - 1], errors
    revealed = [each["message"] for each in found if each["severity"] == "information"]
    assert len(revealed) == 2 and "-> Grafted" in revealed[0] and revealed[1].endswith('"Tensor"')


@pytest.mark.timeout(900)  # it reads the types of torch, pandas and scikit-learn: a minute or two of one core
def test_the_installed_package_has_no_type_error(clean, tmp_path):
    package = Path(shutil.copytree(site_packages(clean) / "medgraft", tmp_path / "medgraft"))
    core = [f"medgraft/{path.name}" for path in (CHECKOUT / "src" / "medgraft").iterdir()]
    found = check_types(clean, tmp_path, "medgraft", strict=core)
    errors = [
        f"{Path(each['file']).relative_to(package)}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in found
        if each["severity"] == "error"
    ]
    assert errors == []


# --- the build --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_building_warns_of_nothing(tmp_path, kind):
    for name in ("src", "adapters", "encoders", "benchmarks"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "registry.yaml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    code = f"from setuptools import build_meta; build_meta.build_{kind}('made')"
    code = f"import os; os.makedirs('made'); {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_Warning" not in done.stderr and "****" not in done.stderr, done.stderr


def test_static_tools_find_every_package_of_the_checkout(tmp_path):
    """``make install`` links the four folders under one name, where pyright's ``extraPaths`` points."""
    home = tmp_path / "venv"
    home.mkdir()
    (home / ".installed").touch()  # so that make has nothing to install
    done = subprocess.run(["make", "links", f"VENV={home}"], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    places = ["adapters/lora.py", "encoders/timm.py", "benchmarks/sweep/plan.py", "src/medgraft/objective.py"]
    settings = {"include": [str(CHECKOUT / place) for place in places], "extraPaths": [str(home / "links")]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({**settings, "pythonVersion": "3.11"}))
    report = pyright(tmp_path, sys.executable)
    assert report["summary"]["filesAnalyzed"] >= len(places)
    assert [
        each["message"] for each in report["generalDiagnostics"] if each.get("rule") == "reportMissingImports"
    ] == []
    lora = (home / "links" / "medgraft" / "adapters" / "lora.py").resolve()
    assert lora == CHECKOUT / "adapters" / "lora.py"  # what a tool opens is the checkout's file
