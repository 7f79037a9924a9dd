"""A launcher of somebody else's, installed as pip would: the harness speaks to it through the contract alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from distributions import install
from sweeping import Toy, typed
from test_resume import numbers, stored

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

THEIRS = """
import signal, subprocess
from medgraft.launcher import Exit, Handle, Launcher, LauncherConfig

class Started(Handle):
    def __init__(self, process):
        self.process = process

    def poll(self):
        code = self.process.poll()
        return None if code is None else Exit(code)

    def cancel(self):
        self.process.kill()
        self.process.wait()

class Plain(Launcher):
    class Config(LauncherConfig):
        "Options."

        nice: int = 0

    def slots(self):
        return self.resources.jobs or 2

    def submit(self, job):
        (job.folder.parents[1] / "by-theirs").open("a").write(f"{job.name} {self.config.nice}\\n")
        with (job.folder / "log.txt").open("wb") as log:
            command = ["nice", "-n", str(self.config.nice), *job.command]
            return Started(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

class Broken(Plain):
    def submit(self, job):
        raise RuntimeError("the cluster is\\naway")

class Gone(Plain):
    def submit(self, job):
        return Started(subprocess.Popen(["sh", "-c", "kill -TERM $$"]))

class Knows(Plain):
    def submit(self, job):
        handle = super().submit(job)
        handle.cancel()
        handle.poll = lambda: Exit(None, "oom", "the scheduler says OUT_OF_MEMORY")
        return handle

class Unfinished(Launcher):
    pass
"""
ENTRIES = {name: f"theirs_launch:{name.capitalize()}" for name in ("plain", "broken", "gone", "knows", "unfinished")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launchers")
    install(folder, "theirs", ENTRIES, {"theirs_launch": THEIRS}, group="medgraft.launchers")
    return folder


@pytest.fixture
def installed(toy: Toy, site: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.syspath_prepend(str(site))  # for refused()
    return toy


def run(toy: Toy, launcher: str, folder: Path, *more: str, adapters: str = "toy_gain"):
    options = toy.options("--seeds", "0,1", "--results", str(folder), "--launcher", launcher, *more)
    return toy.run("--adapters", adapters, *options, cwd=folder.parent)


def refused(toy: Toy, launcher: str, folder: Path, *more: str):
    """The same in this process, for what ends before a worker starts."""
    options = toy.options("--seeds", "0,1", "--results", str(folder), "--launcher", launcher, *more)
    return typed("run", "--adapters", "toy_gain", *options, cwd=folder.parent)


def rows(folder: Path) -> list[CellResult]:
    return [each for _, each in read_results([folder])]


def test_it_gives_the_numbers_of_the_local_one(installed, tmp_path):
    theirs = run(installed, "plain", tmp_path / "theirs", "--set", "plain.nice=3")
    local = run(installed, "local", tmp_path / "local")
    assert theirs.returncode == local.returncode == 0, theirs.stderr
    assert len(numbers(tmp_path / "theirs")) == 2
    assert numbers(tmp_path / "theirs") == numbers(tmp_path / "local")
    started = (tmp_path / "theirs" / "by-theirs").read_text().splitlines()
    assert sorted(started) == ["toy/toy_gain seed 0 3", "toy/toy_gain seed 1 3"]
    assert not (tmp_path / "local" / "by-theirs").exists()
    assert [path for path in (tmp_path / "theirs").iterdir() if path.name.startswith(".")] == []
    assert {each.efficiency and each.efficiency.concurrent_jobs for each in rows(tmp_path / "theirs")} == {2}


def test_failures_are_told_apart_and_named_with_their_step(installed, tmp_path):
    names = "toy_trouble:raise,toy_trouble:kill,toy_trouble:stuck,toy_trouble:crash"
    run(installed, "plain", tmp_path / "r", "--timeout", "20", "--jobs", "4", "--seeds", "0", adapters=names)
    found = {each.spec.adapter.partition(":")[2]: each for each in rows(tmp_path / "r")}
    assert {how: (each.status, each.stage) for how, each in found.items()} == {
        "raise": ("error", "build"),
        "kill": ("killed", "build"),
        "stuck": ("timeout", "train"),
        "crash": ("error", "train"),
    }
    assert "SIGSEGV" in found["crash"].message and "raise --timeout" in found["stuck"].message
    log = (tmp_path / "r" / found["raise"].log).read_text()
    assert "RuntimeError: this adapter always fails" in log


@pytest.mark.parametrize(
    ("launcher", "status", "message"),
    [
        ("gone", "killed", "the worker was killed from outside (SIGTERM)"),
        ("knows", "oom", "the scheduler says OUT_OF_MEMORY"),
    ],
)
def test_a_worker_that_never_began_is_a_row(installed, tmp_path, launcher, status, message):
    done = run(installed, launcher, tmp_path / "r", "--seeds", "0")
    (row,) = rows(tmp_path / "r")
    assert done.returncode == 1 and (row.status, row.stage, row.message) == (status, "", f"while starting: {message}")


@pytest.mark.parametrize(
    ("launcher", "sentence"),
    [
        (
            "broken",
            r"error: submit\(\) of launcher 'broken' failed: RuntimeError: the cluster is away; what",
        ),
        ("unfinished", r"error: launcher 'unfinished' .* has no submit\(\) of its own"),
        ("plane", r"error: unknown launcher 'plane'.*plain"),
    ],
)
def test_one_that_does_not_work_costs_one_sentence(installed, tmp_path, launcher, sentence):
    done = refused(installed, launcher, tmp_path / "r")
    (line,) = done.stderr.splitlines()
    assert re.match(sentence, line), line
    assert done.returncode == 2 and stored(tmp_path / "r") == {}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--set", "plain.nise=1"], "nise: no such option; did you mean nice?"),
        (["--set", "plain.nice=much"], "options of launcher 'plain'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(installed, tmp_path, more, sentence):
    done = refused(installed, "plain", tmp_path / "r", *more)
    assert done.returncode == 2 and sentence in done.stderr and stored(tmp_path / "r") == {}


def test_options_of_a_launcher_that_is_not_in_use_are_refused(installed, tmp_path):
    done = refused(installed, "local", tmp_path / "r", "--set", "plain.nice=1")
    assert done.returncode == 2 and "the sweep runs by 'local'; give --launcher plain" in done.stderr
