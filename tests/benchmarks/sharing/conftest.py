"""One small sweep, really run, for all tests of this folder: a foreign task, and one with groups of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sweeping import Toy


@dataclass
class Swept:
    """What the sweep left.

    Attributes:
        results: Its folder.
        cohorts: Cohort -> folder.
        site: Where the foreign distribution is installed.
        output: All that it wrote to its terminal.
    """

    results: Path
    cohorts: dict[str, Path]
    site: Path
    output: str

    def cells(self, task: str) -> Sequence[Path]:
        """Files of the results of a task."""
        return sorted(path for path in self.results.rglob("*.json") if path.parent.name == task)

    def data(self) -> list[str]:
        """``--data`` of both cohorts."""
        return [word for name, path in self.cohorts.items() for word in ("--data", f"{name}={path}")]


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory, toy_site: Path, toy_cohort: Path, chest_cohort: Path) -> Swept:
    results = tmp_path_factory.mktemp("swept")
    cohorts = {"toy": toy_cohort, "chexpert": chest_cohort}
    given = [word for name, path in cohorts.items() for word in ("--data", f"{name}={path}")]
    done = Toy(toy_site, toy_cohort).run(
        *("--adapters", "toy_gain", "--tasks", "toy,chexpert"),
        *("--encoders", "toy:tiny", "--seeds", "0", "--keep", "all", "--no-baselines"),
        *("--epochs", "2", "--jobs", "1", "--results", str(results)),
        *given,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Swept(results, cohorts, toy_site, done.stdout + done.stderr)


@pytest.fixture
def installed(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> Swept:
    """The same, its foreign distribution installed in this process."""
    monkeypatch.syspath_prepend(str(swept.site))
    monkeypatch.setenv("COLUMNS", "200")
    return swept
