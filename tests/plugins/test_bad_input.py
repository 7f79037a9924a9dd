"""Plugins that misbehave, each a distribution that pip installed: none is in the way of what did not ask for it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from environments import Environment, clean_environment, write_wheel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Each leaves its name in a file when it is imported.
NOTE = """
import os
with open(os.environ["ACME_LOG"], "a") as log:
    log.write(__name__ + "\\n")
"""
GOOD = '''
from medgraft import Adapter, Attachment


class Plugin(Adapter):
    """Changes nothing."""

    def attach(self, encoder, sites):
        """Attaches to nothing in particular."""
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        return attachment
'''
SOURCES = {
    "raises": "raise RuntimeError('no [/driver] here')",
    "lacks": "import no_such_module_of_acme",
    "number": "Plugin = 5",
    "function": "def Plugin(config): return config",
    "stranger": "class Plugin: api_version = 1",
    "future": GOOD + "    api_version = 99\n",
    "hangs": "import time; time.sleep(60)",
    "leaves": "import sys; print('hello from a plugin'); sys.exit(3)",
    "dies": "import os; os._exit(7)",
    "deaf": "import os; os.environ.pop('HOME', None); input('password: ')",
    "fine": GOOD,
}
BROKEN = {
    "raises": ("RuntimeError: no [/driver] here", "tell the authors of acme-raises"),
    "lacks": ("No module named 'no_such_module_of_acme'", "install no_such_module_of_acme"),
    "number": ("is 5, not a subclass of medgraft.Adapter", "tell the authors of acme-number"),
    "function": ("not a subclass of medgraft.Adapter", "tell the authors of acme-function"),
    "stranger": ("not a subclass of medgraft.Adapter", "tell the authors of acme-stranger"),
    "future": ("declares api_version 99", "install a matching release of acme-future"),
    "hangs": ("did not finish importing within 30 s", "--limit"),
    "leaves": ("SystemExit: 3", "tell the authors of acme-leaves"),
    "dies": ("exit code 7", "tell the authors of acme-dies"),
    "deaf": ("EOFError", "tell the authors of acme-deaf"),
}


def entry(name: str, module: str) -> str:
    return f"[medgraft.adapters]\n{name} = {module}:Plugin\n"


@pytest.fixture(scope="module")
def site(medgraft_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """All of them in one environment: one distribution per case, two that share a name, one that claims a built-in."""
    folder = tmp_path_factory.mktemp("bad-plugins")
    wheels = [
        write_wheel(folder, f"acme-{case}", entry(f"acme_{case}", f"acme_{case}"), {f"acme_{case}": NOTE + source})
        for case, source in SOURCES.items()
    ]
    for owner in ("acme", "bolt"):
        module = f"{owner}_twin"
        wheels.append(write_wheel(folder, f"{owner}-twin", entry("twin", module), {module: NOTE + GOOD}, "2.5"))
    wheels.append(write_wheel(folder, "acme-claims", entry("lora", "acme_claims"), {"acme_claims": NOTE + GOOD}))
    environment = clean_environment(folder / "venv", medgraft_wheel)
    environment.install(*wheels)
    return environment


def imported(log: Path) -> set[str]:
    return set(log.read_text().split()) if log.is_file() else set()


def medgraft(site: Environment, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return site.run("medgraft", *arguments, cwd=tmp_path, ACME_LOG=str(tmp_path / "log"))


def test_listing_shows_them_all_and_imports_none(site, tmp_path):
    done = medgraft(site, tmp_path, "ls", "adapters")
    assert done.returncode == 0, done.stderr
    assert all(f"acme_{case}" in done.stdout and f"acme-{case} 1.0" in done.stdout for case in SOURCES)
    assert imported(tmp_path / "log") == set()


def test_listing_is_quick(site, tmp_path):
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        assert medgraft(site, tmp_path, "ls").returncode == 0
        spent.append(time.perf_counter() - start)
    assert min(spent) < 1.5  # half a second on an idle machine; importing torch alone takes longer than this


def test_a_claimed_built_in_name_stays_ours_with_a_warning(site, tmp_path):
    done = medgraft(site, tmp_path, "ls", "adapters")
    assert "adapter 'lora' of acme-claims 1.0 is ignored: medgraft has a built-in of that name" in done.stderr
    assert done.stderr.count("acme-claims") == 1
    assert "LoRA" in done.stdout
    assert "medgraft.adapters.lora:Lora, medgraft" in medgraft(site, tmp_path, "describe", "lora").stdout
    assert imported(tmp_path / "log") == set()


def test_two_with_one_name_are_both_there_by_their_full_names(site, tmp_path):
    listed = medgraft(site, tmp_path, "ls", "adapters").stdout
    assert "adapter twin is offered by several distributions; ask for acme-twin:twin or bolt-twin:twin" in listed
    asked = medgraft(site, tmp_path, "describe", "bolt-twin:twin")
    assert asked.returncode == 0 and "bolt_twin:Plugin, bolt-twin 2.5" in asked.stdout, asked.stderr
    assert imported(tmp_path / "log") == {"bolt_twin"}


def test_broken_ones_are_shown_with_what_happened_and_what_to_do(site, tmp_path):
    start = time.perf_counter()
    done = medgraft(site, tmp_path, "ls", "adapters", "--broken", "--limit", "30")
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 60  # the one that sleeps for a minute was ended
    rows = {case: row(done.stdout, f"acme_{case}") for case in BROKEN}
    for case, (happened, remedy) in BROKEN.items():
        assert happened in rows[case] and remedy in rows[case], (case, rows[case])
        assert f"acme-{case} 1.0" in rows[case]
    assert "it printed: hello from a plugin" in rows["leaves"]
    assert "has a built-in of that name" in row(done.stdout, "lora")
    assert "acme_fine" not in done.stdout and "ace_lora" not in done.stdout


def row(table: str, name: str) -> str:
    """The text of one row, cell by cell, however its cells wrap."""
    cells: list[list[str]] = []
    inside = False
    for line in table.splitlines():
        if not line.startswith("│"):
            continue
        parts = [part.strip() for part in line.strip("│").split("│")]
        inside = parts[0] == name or (inside and not parts[0])
        if inside:
            cells.append(parts)
    return " | ".join(" ".join(filter(None, column)) for column in zip(*cells, strict=True))


ASK = """
import json, sys
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.errors import MedgraftError

said = {}
for name in sys.argv[1:]:
    try:
        check_names(Sweep(adapters=(name,)))
        said[name] = ""
    except MedgraftError as error:
        said[name] = str(error)
sys.stdout.write("\\n" + json.dumps(said))
"""


def test_one_that_is_asked_for_fails_the_sweep_before_it_starts(site, tmp_path):
    cases = [case for case in BROKEN if case not in ("hangs", "dies", "deaf")]  # those would take this process along
    names = [*(f"acme_{case}" for case in cases), "acme_fine", "twin", "acme-twin:twin"]
    done = site.run("python", "-c", ASK, *names, cwd=tmp_path, ACME_LOG=str(tmp_path / "log"))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for case in cases:
        assert said[f"acme_{case}"].startswith(f"adapter 'acme_{case}' (acme_{case}:Plugin, from acme-{case} 1.0)")
        assert BROKEN[case][0] in said[f"acme_{case}"]
    assert said["acme_fine"] == said["acme-twin:twin"] == ""
    assert "several distributions offer it: acme-twin:twin, bolt-twin:twin" in said["twin"]
    assert imported(tmp_path / "log") == {f"acme_{case}" for case in [*cases, "fine", "twin"]}


def test_a_sweep_that_asks_for_one_ends_with_one_sentence(site, tmp_path):
    done = medgraft(site, tmp_path, "run", "--adapters", "lora,acme_leaves", "--tasks", "chexpert")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: adapter 'acme_leaves'") and "SystemExit: 3" in last
    assert not list((tmp_path / "results").rglob("*.json"))


def test_a_sweep_that_asked_for_none_runs_and_records_who_took_part(site, tmp_path):
    sizes = ["--train", "24", "--valid", "8", "--test", "8", "--per-class", "1", "--size", "64"]
    assert medgraft(site, tmp_path, "cohort", "chexpert", "--out", "films", *sizes).returncode == 0
    asked = ["--adapters", "acme_fine,acme-twin:twin", "--tasks", "chexpert", "--seeds", "0", "--epochs", "1"]
    size = ["--data", "chexpert=films", "--limit", "8", "--no-baselines", "--jobs", "1"]
    done = medgraft(site, tmp_path, "run", *asked, *size)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")]
    recorded = {each["spec"]["adapter"]: each["plugins"][0] for each in results}
    assert recorded["acme_fine"] == {
        "kind": "adapter",
        "name": "acme_fine",
        "target": "acme_fine:Plugin",
        "distribution": "acme-fine",
        "version": "1.0",
    }
    assert (recorded["acme-twin:twin"]["distribution"], recorded["acme-twin:twin"]["version"]) == ("acme-twin", "2.5")
    assert imported(tmp_path / "log") == {"acme_fine", "acme_twin"}


def test_all_of_them_can_be_switched_off(site, tmp_path):
    log = str(tmp_path / "log")
    done = site.run("medgraft", "ls", cwd=tmp_path, ACME_LOG=log, MEDGRAFT_DISABLE_PLUGINS="all")
    assert done.returncode == 0 and "acme-" not in done.stderr
    assert "switched off by MEDGRAFT_DISABLE_PLUGINS: adapter acme_deaf, acme_dies" in " ".join(done.stdout.split())
    assert "acme_fine" not in done.stdout.partition("switched off")[0]
