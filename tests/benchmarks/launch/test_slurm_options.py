"""Options of the launcher ``slurm`` and profiles, without any Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeping import Toy, command, typed
from test_resume import stored

from medgraft.benchmarks.launch.slurm.handle import SlurmHandle
from medgraft.benchmarks.launch.slurm.launcher import SlurmLauncher
from medgraft.benchmarks.launch.slurm.options import SlurmConfig
from medgraft.benchmarks.launch.slurm.queue import JobState, _parsed, in_slurms_words
from medgraft.benchmarks.launch.slurm.submission import CommandExecutor
from medgraft.benchmarks.sweep.request import read_sweep
from medgraft.errors import ConfigError
from medgraft.launcher import Exit, Job, Resources

PROFILES = """
gpu: {launcher: slurm, partition: gpu, gpus: 2, minutes: 30}
odd: {launcher: slurm, partitoin: gpu}
much: {launcher: slurm, gpus: many}
bare: {partition: gpu}
here: {launcher: local}
"""


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "medgraft" / "launchers.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(PROFILES)
    return path


def refused(toy: Toy, folder: Path, *more: str) -> str:
    done = typed("run", "--adapters", "toy_gain", *toy.options("--results", str(folder), *more), cwd=folder.parent)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and stored(folder) == {}
    return line


def test_a_profile_brings_a_launcher_and_its_options_and_the_command_line_wins(profiles):
    sweep = read_sweep(None, {"adapters": ["lora"], "profile": "gpu"}, ["slurm.gpus=4"])
    assert sweep.launcher == "slurm"
    assert sweep.options["slurm"] == {"partition": "gpu", "gpus": 4, "minutes": 30}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odd", ["profile 'odd' of {path}: ", "partitoin", "did you mean partition"]),
        ("much", ["profile 'much' of {path}: ", "gpus: must be a number"]),
        ("bare", ["profile 'bare' of {path} must name a launcher"]),
        ("gpus", ["unknown profile in {path}: 'gpus'; did you mean gpu?"]),
    ],
)  # fmt: skip
def test_a_wrong_profile_costs_one_sentence_with_file_and_key(profiles, toy, tmp_path, name, words):
    line = refused(toy, tmp_path / "r", "--profile", name)
    assert all(each.format(path=profiles) in line for each in words), line


def test_a_profile_of_another_launcher_is_refused(profiles, toy, tmp_path):
    line = refused(toy, tmp_path / "r", "--profile", "here", "--launcher", "slurm")
    assert line == "error: --profile here is of launcher 'local'; leave out --launcher slurm"


def test_a_profile_without_a_file_says_where_it_would_be(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert f"{tmp_path}/medgraft/launchers.yaml does not exist" in refused(toy, tmp_path / "r", "--profile", "gpu")


def test_without_sbatch_it_says_so_before_anything_is_made(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused(toy, tmp_path / "r", "--launcher", "slurm")
    assert line == "error: --launcher slurm: there is no sbatch here; run it on a login node of a Slurm cluster"
    assert "here: there is no sbatch here" in command("describe", "slurm").stdout


@pytest.mark.parametrize(
    ("config", "resources", "parts"),
    [
        ({}, Resources(timeout=3600), ["--time=65", "--cpus-per-task=1", "--no-requeue", "--array=0-0%1"]),
        ({}, Resources(threads=4, device="cuda"), ["--cpus-per-task=4", "--gpus-per-node=1"]),
        ({"gpus": 0, "memory_gb": 1.5}, Resources(device="cuda"), ["--mem=1536M"]),
        ({"extra": {"nice": 100, "exclusive": True}}, Resources(), ["--nice=100", "--exclusive\n"]),
        ({"partition": "a b", "account": "x"}, Resources(), ["--partition='a b'", "--account=x"]),
    ],
)
def test_options_stand_in_the_script(tmp_path, monkeypatch, config, resources, parts):
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", classmethod(lambda cls: 1))
    executor = CommandExecutor(tmp_path, SlurmConfig(**config).parameters("name", resources))
    script = executor.script([(tmp_path / "it's", "ended-0", ["python", "-m", "x", "$(boom)"])], 3)
    assert all(f"#SBATCH {each}" in script or each in script for each in parts), script
    assert "'$(boom)'" in script and ".pkl" not in script and "submitit.core" not in script
    assert ("gpus-per-node" in script) == ("--gpus-per-node=1" in parts)


def handle(folder: Path, **config) -> SlurmHandle:
    made = SlurmHandle(Job("x", folder, ("true",)), SlurmConfig(**config), lambda handles: None)
    made.submitted("7_0", folder / "none")
    return made


@pytest.mark.parametrize(
    ("code", "state", "end"),
    [
        ("0", None, Exit(0)),
        ("7", None, Exit(7)),
        ("0", "TIMEOUT", Exit(0)),
        ("137", None, None),
        ("137", "FAILED", Exit(-9)),
        ("", "RUNNING", None),
        ("", "COMPLETED", None),
        ("1x", "PENDING", None),
    ],
)
def test_the_files_word_counts_before_slurms(tmp_path, code, state, end):
    made = handle(tmp_path, timeouts=0)
    if code:
        (tmp_path / "ended-0").write_text(code)
    if state:
        made.saw(JobState(state))
    assert made.poll() == end


@pytest.mark.parametrize(("code", "state", "reason"), [("143", "CANCELLED", "killed"), ("137", "OUT_OF_MEMORY", "oom")])
def test_slurm_knows_why_a_signal_was_sent(tmp_path, code, state, reason):
    made = handle(tmp_path)
    (tmp_path / "ended-0").write_text(code)
    made.saw(JobState(state))
    end = made.poll()
    assert end is not None and end.reason == reason and "job 7_0" in end.message


def test_a_job_that_left_nothing_is_no_success_once_its_file_had_time(tmp_path, monkeypatch):
    monkeypatch.setattr("medgraft.benchmarks.launch.slurm.handle.SETTLING", -1.0)
    made = handle(tmp_path)
    made.saw(JobState("FAILED", code=1))
    end = made.poll()
    assert end is not None and (end.code, end.reason) == (1, "error") and "does its node see" in end.message


@pytest.mark.parametrize(("state", "option"), [("TIMEOUT", "timeouts"), ("NODE_FAIL", "requeues")])
def test_it_is_submitted_again_a_bounded_number_of_times(tmp_path, state, option):
    made = handle(tmp_path, **{option: 2})
    for attempt in range(2):
        made.saw(JobState(state))
        assert made.poll() is None and made.in_line and made.waits() and made.mark == f"ended-{attempt + 1}"
        made.submitted(f"{8 + attempt}_0", tmp_path / "none")
        made.looked = 0.0
    made.saw(JobState(state))
    end = made.poll()
    assert end is not None and end.reason in ("timeout", "killed")


def test_slurms_lists_are_read():
    text = "12_3|RUNNING|None|0|\n12_4|CANCELLED by 1000|None|0:15|\n12_5|PENDING|(null)|0|\n\nodd\n"
    states = _parsed(text)
    assert states["12_3"] == JobState("RUNNING", "None", 0) and states["12_5"].waits
    assert states["12_4"].over and set(states) == {"12_3", "12_4", "12_5"}
    assert in_slurms_words("sbatch: error: a\nsbatch: error: a\nallocation failure: b\n") == "a; allocation failure: b"


def test_a_wrong_option_names_the_ones_that_exist():
    from medgraft.launcher import make_launcher

    with pytest.raises(ConfigError, match="its options are: partition"):
        make_launcher("slurm", {"queue": "main"}, Resources())
    assert SlurmLauncher.one_machine is False
