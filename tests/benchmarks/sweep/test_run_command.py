"""Mistakes at the command line: one sentence that names the thing, exit code 2, before anything is trained or made."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sweeping import Toy, command
from typer.testing import Result

from medgraft.benchmarks.commands.arguments import parse_data, parse_seeds
from medgraft.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def refused(toy: Toy, medgraft: Callable[..., Result], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must be refused; returns its sentence."""

    def run(*arguments: str) -> str:
        results = tmp_path / "results"
        done = medgraft("run", *arguments, *([] if "--results" in arguments else ["--results", str(results)]))
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output and list(results.rglob("*.json")) == []
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--adapters", "toy_gian"], "unknown adapter 'toy_gian'; did you mean toy_gain"),
        (["--adapters", "toy_gain", "--encoders", "toi:tiny"], "unknown encoder 'toi:tiny'; did you mean toy"),
        (["--adapters", "toy_gain", "--tasks", "toyy"], "unknown task 'toyy'; did you mean toy"),
        (["--adapters", "toy_gain", "--preset", "papper"], "unknown preset 'papper'; did you mean paper"),
        (["--adapters", "toy_gain", "--backend", "eagre"], "backend: "),
        (["--adapters", "toy_gain", "--seeds", "a"], "'a' is neither a number nor a range; write 0,1,2 or 0-4"),
        (["--adapters", "toy_gain", "--data", "adni"], "'adni' is not of the form NAME=PATH"),
        (["--adapters", ","], "--adapters ',' has an empty item"),
        ([], "no adapter was named"),
        (["--adapters", "toy_broken"], "failed to import"),
        (["--adapters", "toy_gain", "--config", "/nowhere.yaml"], "--config /nowhere.yaml cannot be read"),
        (["--adapters", "toy_gain", "--epochs", "-1"], "epochs: "),
        (["--adapters", "toy_gain", "--limit", "2"], "limit: "),
        (["--adapters", "toy_gain", "--jobs", "0"], "jobs: "),
        (["--adapters", "toy_gain", "--augment-views", "-1"], "augment_views: "),
        (["--adapters", "toy_gain", "--cache-size", "lots"], "write a number with KB, MB, GB or TB, or none"),
    ],
)
def test_a_bad_option_is_one_sentence(refused, arguments, says):
    assert says in refused(*arguments)


def test_a_config_field_that_does_not_exist_is_named_with_those_that_do(refused, toy, tmp_path):
    (tmp_path / "sweep.yaml").write_text("options: {toy_gain: {nois: 1}}\n")
    said = refused("--adapters", "toy_gain", "--config", str(tmp_path / "sweep.yaml"), *toy.options())
    assert "options of adapter 'toy_gain': nois: no such option; its options are: noise" in said


def test_an_encoder_that_does_not_fit_is_refused_with_the_reason(refused, toy):
    said = refused("--adapters", "scratch_cnn", *toy.options())
    assert "'scratch_cnn' does not fit encoder 'toy:tiny': a network from scratch uses no encoder" in said


def test_an_unreadable_checkpoint_is_named(refused, tmp_path):
    (tmp_path / "chest.safetensors").write_bytes(b"no tensors")
    encoder = f"embedded:chest@{tmp_path / 'chest.safetensors'}"
    assert "chest.safetensors cannot be read" in refused("--adapters", "lora", "--encoders", encoder)


def test_a_checkpoint_that_does_not_exist_is_named(refused):
    said = refused("--adapters", "lora", "--encoders", "embedded:chest@/nowhere.safetensors")
    assert "encoder embedded:chest: weights '/nowhere.safetensors' do not exist" in said


def test_a_checksum_mismatch_is_named(refused, monkeypatch):
    from medgraft import registry

    entries = registry.catalogue().encoders
    alias = registry.AliasEntry(name="embedded:chest", sha256="0" * 64)
    changed = registry.catalogue().model_copy(
        update={"encoders": entries.model_copy(update={"aliases": {**entries.aliases, "pinned": alias}})}
    )
    monkeypatch.setattr(registry, "catalogue", lambda: changed)
    assert "expected 0000000000000000" in refused("--adapters", "lora", "--encoders", "pinned", "--tasks", "chexpert")


@pytest.mark.parametrize("task", ["adni_image", "chexpert", "chexpert_5x200"])
def test_a_folder_of_something_else_is_named(refused, toy, task):
    cohort, encoder = ("adni", "phantom_brain@random") if "adni" in task else ("chexpert", "phantom_chest@random")
    adapter = "zero_shot" if task == "chexpert_5x200" else "linear_probe"
    said = refused(
        *("--adapters", adapter, "--tasks", task, "--encoders", encoder, "--no-baselines"),
        *("--data", f"{cohort}={toy.cohort}"),
    )
    assert str(toy.cohort) in said


def test_a_folder_that_does_not_exist_is_named(refused, toy):
    said = refused("--adapters", "toy_gain", *toy.options(), "--data", "toy=/nowhere")
    assert "--data toy=/nowhere: there is no such folder" in said


def test_a_table_without_a_needed_column_is_named(refused, chest_cohort, tmp_path):
    copy = Path(shutil.copytree(chest_cohort, tmp_path / "copy"))
    table = copy / "CheXpert-v1.0-small" / "train.csv"
    table.write_text(table.read_text().replace("Edema", "Edma", 1))
    said = refused(
        *("--adapters", "linear_probe", "--tasks", "chexpert", "--encoders", "phantom_chest@random"),
        *("--no-baselines", "--data", f"chexpert={copy}"),
    )
    assert "train.csv has no column Edema" in said


def test_a_results_folder_that_cannot_be_written_is_named(refused, toy, tmp_path):
    (tmp_path / "file").touch()
    said = refused("--adapters", "toy_gain", *toy.options("--results", str(tmp_path / "file" / "x")))
    assert "cannot be written" in said and "choose another --results" in said


def test_bad_input_leaves_stored_results_as_they_are(refused, toy, tmp_path):
    results = tmp_path / "kept"
    assert (
        command("run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", str(results))).exit_code == 0
    )
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    refused("--adapters", "toy_gain,toy_gian", *toy.options("--fresh", "--results", str(results)))
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_an_option_that_does_not_exist_suggests_one(medgraft):
    done = medgraft("run", "--adaptors", "lora")
    assert done.exit_code == 2 and "--adapters" in done.stderr and "Traceback" not in done.output


def test_debug_shows_the_traceback(toy):
    done = toy.run("--adapters", "nothing_like_it", "--debug")
    assert "Traceback" in done.stderr and "UnknownNameError" in done.stderr


def test_a_bug_is_one_line_and_code_1(medgraft, monkeypatch):
    from medgraft.benchmarks.sweep import request

    monkeypatch.setattr(request, "read_sweep", lambda *a: 1 / 0)
    done = medgraft("run", "--adapters", "lora")
    assert done.exit_code == 1
    assert (
        done.stderr == "internal error: ZeroDivisionError: division by zero; run again with --debug for the traceback\n"
    )


# --- dry run ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_lists_cells_and_reasons_and_makes_nothing(medgraft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    names = ["--adapters", "linear_probe,scratch_cnn", "--encoders", "phantom_chest@random", "--tasks", "chexpert"]
    done = medgraft("run", *names, "--seeds", "0,1", "--epochs", "3", "--no-baselines", "--dry-run")
    assert done.exit_code == 0 and "2 cells" in done.stdout and "PHANTOM" in done.stdout and "0,1" in done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("skipped ")]
    assert len(skipped) == 1 and skipped[0].startswith("skipped chexpert / phantom_chest@random / scratch_cnn: adapter")
    assert list(tmp_path.iterdir()) == []


def test_the_limit_reaches_the_cells(toy, medgraft, tmp_path):
    from medgraft.benchmarks.results.reading import read_results

    medgraft("run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--limit", "6", "--results", str(tmp_path)))
    (found,) = (each for _, each in read_results([tmp_path]))
    assert {name: part["samples"] for name, part in found.data["splits"].items()} == {"train": 6, "val": 6, "test": 6}


# --- small parsers and other ways in ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0,2,1", [0, 2, 1]), ("0-2,2", [0, 1, 2]), (" 3 , 4 ", [3, 4]), (None, None)]
)
def test_seeds_are_lists_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "1-", "-1", "x", "3-1", "1.5"])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_a_path_may_hold_an_equals_sign():
    assert parse_data(["adni=/a=b", "chexpert=c"]) == {"adni": "/a=b", "chexpert": "c"}


@pytest.mark.parametrize("item", ["adni", "=x", "adni="])
def test_half_a_pair_is_refused(item):
    with pytest.raises(ConfigError, match="NAME=PATH"):
        parse_data([item])


def test_the_module_in_a_checkout_is_the_same_command():
    environment = os.environ | {"COLUMNS": "200"}
    both = [
        subprocess.run(
            [sys.executable, "-m", name, "--help"], cwd=CHECKOUT, env=environment, capture_output=True, text=True
        )
        for name in ("benchmarks.run", "medgraft.benchmarks.run")
    ]
    helps = [done.stdout.split("\n", 3)[3] for done in both]
    assert helps[0] == helps[1] and "--adapters" in helps[0]


def test_a_checkout_that_is_not_installed_says_what_to_do():
    code = (
        "import sys, runpy; sys.modules['medgraft'] = None; "
        "runpy.run_module('benchmarks.run', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "medgraft is not installed here; run `make install` (or `pip install -e .`) first\n"


ENDED = """
import os
from multiprocessing import forkserver
from medgraft.benchmarks.launch.warm_start import ended_on_error, start_fork_server
try:
    with ended_on_error():
        start_fork_server()
        raise ValueError
except ValueError:
    _, status = os.waitpid(forkserver._forkserver._forkserver_pid, 0)
    print(os.waitstatus_to_exitcode(status))
"""


def test_an_error_before_the_first_cell_ends_the_fork_server_that_would_hold_the_pipe():
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, str(-signal.SIGKILL)), done.stderr
