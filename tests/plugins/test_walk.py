"""The path of a plugin's author, as docs/plugins.md walks it: a new package, pip, the kit, the listing, a sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from environments import CHECKOUT, Environment, clean_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GUIDE = CHECKOUT / "docs" / "plugins.md"
NAMES = {"adapter": "my_bottleneck", "encoder": "my_vit", "task": "my_films"}


@pytest.fixture(scope="module")
def author(medgraft_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A clean environment in which the three new packages are installed, editable, by pip."""
    folder = tmp_path_factory.mktemp("author")
    environment = clean_environment(folder / "venv", medgraft_wheel)
    for kind, name in NAMES.items():
        done = environment.run("medgraft", "new", kind, name, "--out", folder, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert f"{name}/pyproject.toml" in done.stdout and "pip install -e" in done.stdout
    environment.install(*(part for name in NAMES.values() for part in ("-e", folder / name)))
    return environment


@pytest.fixture
def home(author: Environment) -> Path:
    return author.home.parent


@pytest.mark.parametrize("kind", NAMES)
def test_the_new_package_passes_its_own_test(author, home, kind):
    done = author.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=home / NAMES[kind])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout)


@pytest.mark.parametrize("kind", NAMES)
def test_it_is_listed_with_its_distribution_and_version(author, home, kind):
    done = author.run("medgraft", "ls", f"{kind}s", cwd=home)
    name = NAMES[kind]
    assert re.search(rf"│ {name} +│ medgraft-{name.replace('_', '-')} 0\.1\.0 +│", done.stdout), done.stdout


def test_none_is_broken(author, home):
    done = author.run("medgraft", "ls", "--broken", "--limit", "60", cwd=home)
    assert done.returncode == 0 and re.fullmatch(r"all \d+ plugins load\n", done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "says"),
    [("adapter", "channels of the bottleneck"), ("encoder", "my_vit:tiny"), ("task", "which subjects are in which")],
)
def test_it_can_be_described(author, home, kind, says):
    done = author.run("medgraft", "describe", NAMES[kind], cwd=home, COLUMNS="250")
    assert done.returncode == 0 and says in done.stdout, done.stderr
    assert f"medgraft_{NAMES[kind]}:" in done.stdout


@pytest.mark.parametrize("arguments", [["my_vit:tiny"], ["my_films", "--data", "my_films/example"]])
def test_it_can_be_checked_from_the_command_line(author, home, arguments):
    done = author.run("medgraft", "check", *arguments, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_adapter_is_planned_on_the_default_tasks(author, home):
    """Without --tasks and --encoders: what a foreign adapter that has no block in the catalogue is run on."""
    done = author.run("medgraft", "run", "--adapters", "my_bottleneck,lora", "--dry-run", cwd=home)
    assert done.returncode == 0, done.stderr
    planned = set(re.findall(r"^(\w+) +phantom_\w+ +my_bottleneck ", done.stdout, flags=re.MULTILINE))
    assert planned == {"chexpert", "chexpert_5x200", "adni_image", "adni_text", "adni_image_text"}


def test_all_three_sweep_beside_ours_and_every_result_records_them(author, home, tmp_path):
    names = ["--adapters", "my_bottleneck,lora", "--encoders", "my_vit:tiny", "--tasks", "my_films"]
    size = ["--seeds", "0", "--epochs", "1", "--limit", "12", "--jobs", "1", "--no-baselines"]
    data = ["--data", f"my_films={home / 'my_films' / 'example'}", "--results", str(tmp_path / "results")]
    done = author.run("medgraft", "run", *names, *size, *data, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")]
    assert {result["spec"]["adapter"] for result in results} == {"my_bottleneck", "lora"}
    for result in results:
        assert result["status"] == "success" and result["phantom"] and result["efficiency"]["trainable"]
        part = {each["kind"]: (each["name"], each["distribution"], each["version"]) for each in result["plugins"]}
        assert part["encoder"] == ("my_vit", "medgraft-my-vit", "0.1.0")
        assert part["task"] == ("my_films", "medgraft-my-films", "0.1.0")
        if result["spec"]["adapter"] == "my_bottleneck":
            assert part["adapter"] == ("my_bottleneck", "medgraft-my-bottleneck", "0.1.0")
        else:
            assert part["adapter"][:2] == ("lora", "medgraft")


def test_the_guide_walks_this_path():
    """The commands of the guide are those that are run here."""
    guide = GUIDE.read_text()
    for kind, name in NAMES.items():
        assert f"medgraft new {kind} {name}\n" in guide
    for command in (
        "pip install -e",
        "medgraft ls adapters",
        "medgraft ls --broken",
        "medgraft describe my_bottleneck",
        "medgraft check my_vit:tiny",
        "medgraft check my_films --data my_films/example",
        "--adapters my_bottleneck,lora",
        "--encoders my_vit:tiny",
        "--tasks my_films --data my_films=my_films/example",
    ):
        assert command in guide, command
