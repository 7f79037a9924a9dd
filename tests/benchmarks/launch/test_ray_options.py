"""Options of the launcher ``ray``, and what it makes of Ray's words, without any Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_here import free_port
from sweeping import command, typed
from test_resume import stored

from medgraft.benchmarks.launch.ray.handle import RayHandle
from medgraft.benchmarks.launch.ray.launcher import RayLauncher
from medgraft.benchmarks.launch.ray.options import RayConfig
from medgraft.benchmarks.launch.ray.task import run_command, started_mark
from medgraft.errors import ConfigError
from medgraft.launcher import Exit, Job, Resources


@pytest.mark.parametrize(
    ("config", "resources", "needs"),
    [
        ({}, Resources(threads=3), {"num_cpus": 3}),
        ({"cpus": 0.5, "memory_gb": 2}, Resources(), {"num_cpus": 0.5, "memory": 2 << 30}),
        ({}, Resources(device="cuda"), {"num_cpus": 1, "num_gpus": 1.0}),
        ({"gpus": 0.25, "resources": {"a100": 1}}, Resources(device="cuda"),
         {"num_cpus": 1, "num_gpus": 0.25, "resources": {"a100": 1.0}}),
        ({"gpus": 0}, Resources(device="cuda"), {"num_cpus": 1}),
        ({}, Resources(threads=2, device="cuda", devices=4), {"num_cpus": 8, "num_gpus": 4.0}),
    ],
)  # fmt: skip
def test_what_a_task_needs_is_said_in_rays_words(config, resources, needs):
    assert RayConfig(**config).needs(resources) == needs


def test_a_worker_gets_no_variable_that_was_not_named(monkeypatch):
    for name in ("HF_TOKEN", "HF_HOME", "MEDGRAFT_CACHE_SIZE", "MINE", "OTHER"):
        monkeypatch.setenv(name, "x")
    found = RayConfig(env=["MINE"]).environment()
    assert {"HF_HOME", "MEDGRAFT_CACHE_SIZE", "MINE"} <= found.keys() and not {"HF_TOKEN", "OTHER"} & found.keys()


def test_the_cluster_is_the_one_that_is_named_then_the_environments_then_a_local_one(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert RayConfig(address="other:1").where() == "other:1" and RayConfig().where() == "head:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    assert RayConfig().where() == "local"


def test_a_head_that_is_gone_costs_one_sentence_before_anything_is_submitted(toy, tmp_path):
    place = f"ray.address=127.0.0.1:{free_port()}"
    options = toy.options("--results", str(tmp_path / "r"), "--launcher", "ray", "--set", place)
    done = typed("run", "--adapters", "toy_gain", *options, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and stored(tmp_path / "r") == {}
    assert line.startswith("error: no Ray cluster answers at '127.0.0.1:") and "refused" in line
    assert "start one with `ray start --head`" in line and line.endswith("; nothing was submitted")


def test_without_ray_it_names_the_extra(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("medgraft.benchmarks.launch.ray.launcher.importlib.util.find_spec", lambda name: None)
    options = toy.options("--results", str(tmp_path / "r"), "--launcher", "ray")
    done = typed("run", "--adapters", "toy_gain", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --launcher ray: it needs ray; install it with: pip install 'medgraft[ray]'"
    assert "here: it needs ray" in command("describe", "ray").stdout


def test_a_local_cluster_has_no_more_cores_than_the_machine():
    with pytest.raises(ConfigError, match="a task of launcher 'ray' needs 4000 cores and this machine has"):
        RayLauncher(RayConfig(address="local", cpus=4000), Resources()).check()


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not see the folder of the results"):
        run_command(["true"], str(tmp_path / "none"), 0, {})


# --- handles and groups -----------------------------------------------------------------------------------------------


def handle(folder: Path, restarts: int = 1) -> RayHandle:
    made = RayHandle(Job("x", folder, ("true",)), "1", restarts, lambda handle: None)
    made.submitted = True
    return made


@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [("lost", "killed", "was lost, 2 times"), ("oom", "oom", "raise --set ray.memory_gb"), ("failed", "error", "no Y")],
)
def test_a_row_says_what_became_of_a_task(tmp_path, how, reason, words):
    made = handle(tmp_path)
    made.ended({"how": "lost", "code": None, "words": "no X"})
    assert made.poll() is None and made.in_line and made.attempt == 1
    made.submitted = True
    made.ended({"how": how, "code": None, "words": "no Y"})
    end = made.poll()
    assert end is not None and end.reason == reason and words in end.message


def test_an_exit_code_is_the_commands(tmp_path):
    made = handle(tmp_path)
    made.ended({"how": "done", "code": -9, "words": ""})
    assert made.poll() == Exit(-9)


class Link:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.tasks, self.ends = [], []

    def say(self, message):
        self.tasks.append((message["submit"]["id"], message["submit"]["home"]))

    def hear(self, seconds):
        ends, self.ends = self.ends, []
        return ends


def test_a_group_goes_where_its_first_task_has_started(tmp_path):
    launcher = RayLauncher(RayConfig(), Resources())
    link = launcher.link = Link()  # type: ignore[assignment]
    handles = []
    for number, group in enumerate(("a", "a", "b", "")):
        (tmp_path / str(number)).mkdir()
        handles.append(launcher.submit(Job(str(number), tmp_path / str(number), ("true",), group=group)))
    launcher.wait([], 0.0)
    assert link.tasks == [("1", ""), ("3", ""), ("4", "")] and handles[1].waits()
    (tmp_path / "0" / started_mark(0)).write_text('{"node": "n1"}')
    handles[0].looked = 0.0
    launcher.wait([], 0.0)
    assert link.tasks[3:] == [("2", "n1")] and not handles[0].waits()
    link.ends = [{"ended": "2", "how": "lost", "code": None, "words": "node died"}]
    launcher.wait([], 0.0)
    assert launcher.homes == {}
