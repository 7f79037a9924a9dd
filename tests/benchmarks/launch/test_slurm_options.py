"""Options of the launcher ``slurm`` and profiles, without any Slurm."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from sweeping import Toy, command, typed
from test_resume import stored

from medgraft.benchmarks.launch.slurm.handle import SlurmHandle
from medgraft.benchmarks.launch.slurm.launcher import SlurmLauncher
from medgraft.benchmarks.launch.slurm.options import SlurmConfig
from medgraft.benchmarks.launch.slurm.queue import JobState, SlurmAwayError, _parsed, in_slurms_words
from medgraft.benchmarks.launch.slurm.submission import RUN, CommandExecutor
from medgraft.benchmarks.sweep.request import read_sweep
from medgraft.errors import ConfigError, MedgraftError
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
        ({}, Resources(timeout=3600), ["--time=65", "--cpus-per-task=1", "--requeue", "--array=0-0%1"]),
        ({}, Resources(threads=4, device="cuda"), ["--cpus-per-task=4", "--gpus-per-node=1"]),
        ({}, Resources(threads=4, device="cuda", devices=2), ["--cpus-per-task=8", "--gpus-per-node=2"]),
        ({"gpus": 0, "memory_gb": 1.5}, Resources(device="cuda"), ["--mem=1536M"]),
        ({"extra": {"nice": 100, "exclusive": True}}, Resources(), ["--nice=100", "--exclusive\n"]),
        ({"group_minutes": 150}, Resources(timeout=3600), ["--time=125"]),
        ({"partition": "a b", "account": "x"}, Resources(), ["--partition='a b'", "--account=x"]),
    ],
)
def test_options_stand_in_the_script(tmp_path, monkeypatch, config, resources, parts):
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", classmethod(lambda cls: 1))
    executor = CommandExecutor(tmp_path, SlurmConfig(**config).parameters("name", resources))
    script = executor.script([[(tmp_path / "it's", "ended-0", "begun-0", ["python", "-m", "x", "$(boom)"])]], 3)
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
    made.saw(JobState("FAILED"))
    end = made.poll()
    assert end is not None and (end.code, end.reason) == (None, "error") and "does its node see" in end.message


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


def test_what_slurm_itself_puts_back_in_line_runs_again_a_bounded_number_of_times(tmp_path):
    made = handle(tmp_path, requeues=1)
    for state in ("PENDING", "RUNNING"):
        made.saw(JobState(state))
    (tmp_path / "ended-0").write_text("143")  # of the run that was ended
    made.saw(JobState("PENDING", "BeginTime"))
    assert made.poll() is None and made.waits() and made.again["requeues"] == 1 and made.signalled is None
    (tmp_path / "ended-0").unlink()  # as its script does
    for state in ("RUNNING", "PENDING"):
        made.saw(JobState(state))
    made.looked = 0.0
    end = made.poll()
    assert end is not None and end.reason == "killed" and "more than 1 times; raise --set slurm.requeues" in end.message


def test_slurms_lists_are_read():
    text = "12_3|RUNNING|None|\n12_4|CANCELLED by 1000\n12_5|PENDING|(null)|\n\nodd\n"
    states = _parsed(text)
    assert states["12_3"] == JobState("RUNNING", "None") and states["12_5"].waits
    assert states["12_4"].over and set(states) == {"12_3", "12_4", "12_5"}
    assert in_slurms_words("sbatch: error: a\nsbatch: error: a\nallocation failure: b\n") == "a; allocation failure: b"


# --- Slurm that does not answer ---------------------------------------------------------------------------------------

LAUNCHER = "medgraft.benchmarks.launch.slurm.launcher"


class Scripts:
    """Stands for submitit: takes arrays, and fails as told."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers, self.arrays = list(answers), []

    def submit_script(self, tasks, at_once):
        self.arrays.append((len(tasks), at_once))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def launched(monkeypatch, folder: Path, scripts: Scripts, jobs: int, resources: Resources, **options) -> SlurmLauncher:
    monkeypatch.setattr(f"{LAUNCHER}.time.sleep", lambda seconds: None)
    monkeypatch.setattr(f"{LAUNCHER}.jobs_in_accounts", lambda ids: {})
    made = SlurmLauncher(SlurmConfig(poll=0.5, **options), resources)
    made.executor = scripts  # type: ignore[assignment]  # which keeps scripts and submits none
    for number in range(jobs):
        made.submit(Job(f"{number}", folder / f"{number}", ("true",)))
    return made


def asks(monkeypatch, launcher: SlurmLauncher, answer) -> list[str]:
    """Lets the launcher ask once; what it cancelled meanwhile."""
    ended = []

    def jobs_called(name):
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    monkeypatch.setattr(f"{LAUNCHER}.jobs_called", jobs_called)
    monkeypatch.setattr(f"{LAUNCHER}.end_jobs", lambda *which: ended.extend(which))
    launcher.asked = 0.0
    launcher.wait([], 0.0)
    return ended


def test_an_array_whose_submission_got_no_answer_is_cancelled_before_it_is_sent_again(tmp_path, monkeypatch):
    scripts = Scripts(SlurmAwayError("socket timed out"), "9")
    launcher = launched(monkeypatch, tmp_path, scripts, 2, Resources())
    launcher.wait([], 0.0)
    assert launcher.unsure and all(each.in_line for each in launcher.handles)
    assert asks(monkeypatch, launcher, SlurmAwayError("away")) == [] and len(scripts.arrays) == 1
    assert asks(monkeypatch, launcher, {"8_0": JobState("PENDING"), "8_1": JobState("PENDING")}) == ["8"]
    assert [each.id for each in launcher.handles] == ["9_0", "9_1"] and not launcher.unsure


def test_it_bears_with_slurm_for_as_long_as_told(tmp_path, monkeypatch):
    launcher = launched(monkeypatch, tmp_path, Scripts("9"), 1, Resources(), patience=0.0)
    launcher.wait([], 0.0)
    asks(monkeypatch, launcher, {"9_0": JobState("PENDING")})
    with pytest.raises(MedgraftError, match="Slurm has not answered for 0 minutes"):
        asks(monkeypatch, launcher, SlurmAwayError("away"))


def test_a_job_struck_off_while_it_waited_was_cancelled(tmp_path, monkeypatch):
    launcher = launched(monkeypatch, tmp_path, Scripts("9"), 2, Resources())
    launcher.wait([], 0.0)
    first, second = launcher.handles
    asks(monkeypatch, launcher, {"9_0": JobState("PENDING"), "9_1": JobState("RUNNING")})
    asks(monkeypatch, launcher, {})
    end = first.poll()
    assert end is not None and "job 9_0 was cancelled" in end.message
    assert second.poll() is None and second.state == JobState("FORGOTTEN")


def test_no_more_jobs_than_asked_for_may_run_whatever_array_they_are_of(tmp_path, monkeypatch):
    scripts = Scripts("7", "8")
    launcher = launched(monkeypatch, tmp_path, scripts, 5, Resources(jobs=3))
    launcher.wait([], 0.0)
    launcher.submit(Job("late", tmp_path, ("true",)))
    for number in range(2):
        launcher.handles[number].exit = Exit(0)
    launcher.wait([], 0.0)
    assert scripts.arrays == [(5, 3)]  # three are left of the first, and all may run
    launcher.handles[0].exit = Exit(0)
    launcher.wait([], 0.0)
    assert scripts.arrays == [(5, 3), (1, 3)]


def grouped(monkeypatch, folder: Path, scripts: Scripts, groups: str) -> SlurmLauncher:
    """A launcher with a job for each letter, which is its group."""
    launcher = launched(monkeypatch, folder, scripts, 0, Resources(timeout=3600), group_minutes=120)
    for number, group in enumerate(groups):
        launcher.submit(Job(f"{number}", folder / f"{number}", ("true",), group=group))
    launcher.wait([], 0.0)
    return launcher


def test_cells_of_one_group_share_jobs_within_the_bound(tmp_path, monkeypatch):
    scripts = Scripts("7")
    launcher = grouped(monkeypatch, tmp_path, scripts, "abaa")
    assert scripts.arrays == [(3, 500)]
    assert [each.id for each in launcher.handles] == ["7_0", "7_1", "7_0", "7_2"]
    asks(monkeypatch, launcher, {name: JobState("RUNNING") for name in ("7_0", "7_1", "7_2")})
    assert [each.waits() for each in launcher.handles] == [False, False, True, False]
    (tmp_path / "2").mkdir(), (tmp_path / "2" / "begun-0").touch()
    assert not launcher.handles[2].waits()


def test_a_cell_that_is_cancelled_puts_its_neighbours_back_in_line(tmp_path, monkeypatch):
    scripts = Scripts("7", "8")
    launcher = grouped(monkeypatch, tmp_path, scripts, "aab")
    asks(monkeypatch, launcher, {"7_0": JobState("RUNNING"), "7_1": JobState("RUNNING")})
    monkeypatch.setattr(f"{LAUNCHER}.jobs_called", lambda name: {"7_0": JobState("CANCELLED")})
    launcher.handles[0].cancel()
    launcher.wait([], 0.0)
    assert [(each.id, each.attempt) for each in launcher.handles] == [("8_0", 1), ("7_1", 0)]


def test_the_script_runs_its_cells_in_turn_and_after_a_requeue_those_that_are_left(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()

    def script(*runs: str) -> None:
        subprocess.run(["bash", "-c", "\n".join([RUN, *(f"cd {tmp_path}; run {each}" for each in runs)])], check=False)

    script("a ended-0 begun-0 echo one", "b ended-0 begun-0 sh -c 'exit 3'", "c ended-0 begun-0 sh -c 'kill -TERM $$'")
    assert [(tmp_path / name / "ended-0").read_text().strip() for name in "abc"] == ["0", "3", "143"]
    assert all((tmp_path / name / "begun-0").exists() for name in "abc")
    shutil.rmtree(tmp_path / "a")  # the sweep has taken its result
    script("a ended-0 begun-0 echo one", "b ended-0 begun-0 echo two", "c ended-0 begun-0 echo three")
    assert not (tmp_path / "a").exists() and (tmp_path / "b" / "ended-0").read_text() == "3\n"
    assert (tmp_path / "c" / "ended-0").read_text() == "0\n" and (tmp_path / "c" / "log.txt").read_text() == "three\n"


def test_a_wrong_option_names_the_ones_that_exist():
    from medgraft.launcher import make_launcher

    with pytest.raises(ConfigError, match="its options are: partition"):
        make_launcher("slurm", {"queue": "main"}, Resources())
    assert SlurmLauncher.one_machine is False
