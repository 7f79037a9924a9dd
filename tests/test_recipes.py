"""CONTRIBUTING's recipes, walked: each file is written where it says, each line declared; one sweep runs them all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from medgraft import plugins
from medgraft.benchmarks.results.reading import read_results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[1]
PAGE = CHECKOUT / "CONTRIBUTING.md"
RECIPE = re.compile(r"^### Add (?:a|an) (\w+)\n(.*?)(?=^###? |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, dict[str, str]]:
    """Kind -> its blocks of code, ``python`` and ``toml``."""
    return {kind: dict(BLOCK.findall(text)) for kind, text in RECIPE.findall(PAGE.read_text())}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as a wheel lays them out, with the recipes' files and lines in them."""
    site = tmp_path_factory.mktemp("recipes") / "site"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(CHECKOUT / "src" / "medgraft", site / "medgraft", ignore=ignored)
    for folder in ("adapters", "encoders", "benchmarks"):
        shutil.copytree(CHECKOUT / folder, site / "medgraft" / folder, ignore=ignored)
    shutil.copy(CHECKOUT / "registry.yaml", site / "medgraft")
    groups = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]
    for blocks in recipes().values():
        place = blocks["python"].splitlines()[0].removeprefix("# ")
        assert not (CHECKOUT / place).exists()
        (site / "medgraft" / place.removeprefix("src/medgraft/")).write_text(blocks["python"])
        for group, entries in tomllib.loads(blocks["toml"])["project"]["entry-points"].items():
            assert len(entries) == 1, "one thing, one line"
            groups[group] |= entries
    info = site / "medgraft-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: medgraft\nVersion: 0.1.0\n")
    lines = [f"[{group}]\n" + "\n".join(f"{n} = {t}" for n, t in entries.items()) for group, entries in groups.items()]
    (info / "entry_points.txt").write_text("\n\n".join(lines) + "\n")
    return site


def command(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200", "MEDGRAFT_CACHE": str(site.parent / "cache")}
    program = "from medgraft.benchmarks.commands.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=300,
    )


def test_there_is_a_recipe_for_every_kind():
    assert set(recipes()) == set(plugins.GROUPS)


@pytest.mark.parametrize("kind", plugins.GROUPS)
def test_it_is_listed_after_one_file_and_one_line(site, kind, tmp_path):
    group = plugins.GROUPS[kind]
    ((name, _),) = tomllib.loads(recipes()[kind]["toml"])["project"]["entry-points"][group].items()
    done = command(site, "ls", group.partition(".")[2], cwd=tmp_path)
    assert re.search(rf"│ {name} +│ medgraft 0\.1\.0 +│", done.stdout), done.stdout + done.stderr


def test_one_sweep_runs_all_of_them(site, tmp_path):
    cohort = command(site, "cohort", "my_spectra", "--out", str(tmp_path / "spectra"), "--subjects", "60", cwd=tmp_path)
    assert cohort.returncode == 0, cohort.stdout + cohort.stderr
    options = ["--adapters", "my_scale", "--encoders", "my_source:tiny", "--tasks", "my_dose", "--no-baselines"]
    data = [
        "--data",
        f"my_spectra={tmp_path / 'spectra'}",
        "--launcher",
        "my_launcher",
        "--seeds",
        "0",
        "--epochs",
        "2",
    ]
    done = command(site, "run", *options, *data, "--results", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ((_, cell),) = read_results([tmp_path / "out"])
    assert cell.status == "success" and cell.spec.adapter == "my_scale" and cell.spec.encoder == "my_source:tiny"
    value = cell.metrics["pinball"]
    assert value.value > 0 and value.ci_low < value.value < value.ci_high


def test_what_the_recipes_add_keeps_the_kits_rules(site, tmp_path):
    for name in ("my_scale", "my_source:tiny", "my_dose"):
        done = command(site, "check", name, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
