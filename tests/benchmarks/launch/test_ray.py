"""Sweeps by a real Ray of two nodes: numbers as by ``local``, and what becomes of workers and nodes that are lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sweeping import Toy, command
from test_resume import numbers, running, wait_for

from medgraft.benchmarks.cell.job import JOB
from medgraft.benchmarks.launch.ray.handle import RayHandle
from medgraft.benchmarks.launch.ray.launcher import RayLauncher
from medgraft.benchmarks.launch.ray.options import RayConfig
from medgraft.benchmarks.results.reading import read_results
from medgraft.errors import MedgraftError
from medgraft.launcher import Exit, Job, Resources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOON = {"RAY_gcs_rpc_server_reconnect_timeout_s": "3"}
"""Ray's client gives a head that is gone a minute."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        made = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": folder})
        try:
            made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


def asked(cluster: Any, folder: Path, *more: str, adapters: str = "toy_gain") -> list[str]:
    where = ["--launcher", "ray", "--set", f"ray.address={cluster.gcs_address}"]
    return [
        "--adapters",
        adapters,
        "--results",
        str(folder),
        *where,
        "--set",
        "ray.env=[TOY_HELD,TOY_PROCESSES]",
        *more,
    ]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def marks(folder: Path) -> dict[str, dict[str, str]]:
    """Key and attempt of each task that has started -> what it said."""
    return {
        f"{each.parent.name}/{each.name}": json.loads(each.read_text()) for each in folder.glob(".work-*/*/started-*")
    }


def ended(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=400)[1]


@dataclass
class Story:
    """A sweep of two cells, one on each node: one node is lost, then the worker on the other killed."""

    folder: Path
    local: Path
    code: int
    errors: str
    nodes: set[str]
    outlived: list[int]


@pytest.fixture(scope="module")
def story(cluster: Any, toy_site: Path, toy_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    home = tmp_path_factory.mktemp("story")
    held, processes, folder = home / "held", home / "processes", home / "ray"
    held.touch()
    processes.mkdir()
    toy = Toy(toy_site, toy_cohort, {"TOY_HELD": str(held), "TOY_PROCESSES": str(processes)})
    process = toy.start(*asked(cluster, folder, *toy.options("--seeds", "0,1")))
    wait_for(lambda: process.poll() is not None or len(running(processes)) == 2, "two cells", 200)
    assert process.poll() is None, ended(process)
    first, nodes = running(processes), {mark["node"] for mark in marks(folder).values()}
    (other,) = cluster.worker_nodes
    cluster.remove_node(other, allow_graceful=False)
    wait_for(lambda: len(running(processes)) == 1, "the end of what ran on the lost node", 120)
    os.kill(parent(parent(*running(processes))), signal.SIGKILL)
    wait_for(lambda: not set(first) & set(running(processes)), "the end of what the killed worker ran", 120)
    held.unlink()
    errors = ended(process)
    outlived = running(processes)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(toy_site))
        command("run", "--adapters", "toy_gain", *toy.options("--seeds", "0,1", "--results", str(home / "local")))
    return Story(folder, home / "local", process.returncode, errors, nodes, outlived)


def test_a_killed_worker_and_a_lost_node_cost_another_try_and_nothing_else(story):
    assert story.code == 0, story.errors
    assert len(story.nodes) == 2 and story.errors.count("its Ray worker or node was lost; it is started again") == 2
    assert {each.status for _, each in read_results([story.folder])} == {"success"}


def test_its_numbers_are_those_of_the_local_launcher(story):
    assert len(numbers(story.folder)) == 2 and numbers(story.folder) == numbers(story.local)


def test_nothing_is_left_of_it(story):
    assert story.outlived == [] and [each for each in story.folder.iterdir() if each.name.startswith(".")] == []


# --- the launcher alone, with commands that cost nothing --------------------------------------------------------------


def launched(cluster: Any, folder: Path) -> tuple[RayLauncher, RayHandle, int]:
    """A launcher with one job, which sleeps; its process."""
    launcher = RayLauncher(RayConfig(address=cluster.gcs_address, cpus=0.1, restarts=0), Resources())
    folder.mkdir()
    (folder / JOB).write_text("{}")
    handle = launcher.submit(Job("it", folder, ("sh", "-c", f"echo $$ >{folder}/pid; exec sleep 600")))
    end = time.monotonic() + 200
    while not (folder / "pid").is_file() or not (folder / "pid").read_text().strip():
        launcher.wait([handle], 0.2)
        assert handle.poll() is None and time.monotonic() < end, handle.exit
    assert not handle.waits()
    return launcher, handle, int((folder / "pid").read_text())


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_cancelled_job_has_ended_when_cancel_returns(cluster, tmp_path):
    launcher, handle, pid = launched(cluster, tmp_path / "job")
    try:
        handle.cancel()
        assert not exists(pid) and handle.poll() == Exit(None, "killed", "it was cancelled")
    finally:
        launcher.close()


def test_a_sweep_that_is_killed_takes_its_jobs_with_it(cluster, tmp_path):
    launcher, _, pid = launched(cluster, tmp_path / "job")
    assert launcher.link is not None and launcher.link.process.stdin is not None
    launcher.link.process.stdin.close()  # as the system does it with `kill -9`
    wait_for(lambda: not exists(pid), "the end of the job", 120)
    with pytest.raises(MedgraftError, match=r"the Ray cluster at '.*' is gone \(.*the same command goes on"):
        for _ in range(600):
            launcher.wait([], 0.1)
    launcher.close()


def test_a_head_that_goes_ends_the_sweep_with_one_sentence(cluster, tmp_path, monkeypatch):
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    launcher, _, pid = launched(cluster, tmp_path / "job")
    address = cluster.gcs_address
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    with pytest.raises(MedgraftError, match=f"the Ray cluster at '{address}' is gone") as caught:
        for _ in range(1200):
            launcher.wait([], 0.1)
    assert str(caught.value).endswith("the same command goes on from there once the cluster is back")
    launcher.close()
    wait_for(lambda: not exists(pid), "the end of the job", 120)
