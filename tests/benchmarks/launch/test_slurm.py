"""Sweeps by a real Slurm: the same numbers, and what becomes of jobs that are cancelled, cut short or pushed aside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_here import Slurm, absent, skip_or_fail, start, stop_all
from sweeping import Toy
from test_resume import numbers

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    skip_or_fail(absent())
    # A short path: that of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = start(Path(folder))
        try:
            yield cluster
        finally:
            stop_all(cluster)


@pytest.fixture
def sweeps(toy: Toy, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy.environment |= slurm.environment
    return toy


def asked(toy: Toy, folder: Path, *more: str, adapters: str = "toy_gain", launcher: str = "slurm") -> list[str]:
    options = toy.options("--seeds", "0,1", "--results", str(folder), "--launcher", launcher, *more)
    quick = ["--set", "slurm.poll=0.5"] if launcher == "slurm" else []
    return ["--adapters", adapters, *options, *quick]


def rows(folder: Path) -> list[CellResult]:
    return [each for _, each in read_results([folder])]


def test_its_numbers_are_those_of_the_local_launcher(sweeps, tmp_path):
    remote = sweeps.run(*asked(sweeps, tmp_path / "slurm"), cwd=tmp_path)
    local = sweeps.run(*asked(sweeps, tmp_path / "local", launcher="local"), cwd=tmp_path)
    assert remote.returncode == local.returncode == 0, remote.stderr
    assert len(numbers(tmp_path / "slurm")) == 2
    assert numbers(tmp_path / "slurm") == numbers(tmp_path / "local")
    assert [path for path in (tmp_path / "slurm").iterdir() if path.name.startswith(".")] == []
