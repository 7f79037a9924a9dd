"""The command ``medgraft``: quick, listing without importing, describing one thing, and refusing in one sentence."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import medgraft
from medgraft import plugins
from medgraft.benchmarks.commands.main import app
from medgraft.commands.console import guarded
from medgraft.errors import DataError
from medgraft.registry import catalogue

HEAVY = (
    "torch",
    "numpy",
    "pandas",
    "sklearn",
    "scipy",
    "transformers",
    "timm",
    "peft",
    "monai",
    "matplotlib",
    "nibabel",
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def imported_by(*arguments: str) -> tuple[int, set[str], str]:
    """Exit code, imported top-level modules and output of the command in a fresh process."""
    code = (
        "import json, sys\nfrom medgraft.benchmarks.commands.main import main\nsys.argv = ['medgraft', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code or 0\n"
        "print('\\n' + json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    out, _, last = done.stdout.rstrip().rpartition("\n")
    number, modules = json.loads(last)
    return number, set(modules), out


# --- quick answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["ls", "adapters"], ["ls", "encoders"], ["ls", "tasks"], ["run", "--help"]]
)
def test_quick_answers_import_nothing_heavy(arguments):
    code, modules, out = imported_by(*arguments)
    assert code == 0 and out.strip()
    assert modules.isdisjoint(HEAVY), sorted(modules & set(HEAVY))


def test_listing_imports_no_plugin():
    code = (
        "import sys; from typer.testing import CliRunner; from medgraft.benchmarks.commands.main import app\n"
        "for kind in ('adapters', 'encoders', 'tasks'):\n"
        "    assert CliRunner().invoke(app, ['ls', kind]).exit_code == 0\n"
        "print([name for name in sys.modules if name.startswith(('medgraft.adapters', 'medgraft.encoders', "
        "'medgraft.benchmarks.tasks'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_is_light():
    code = f"import sys, medgraft; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_version_is_the_packages(run):
    assert run("--version").output.strip() == f"medgraft {medgraft.__version__}"


def test_help_names_every_command(run):
    text = run("--help").output
    assert all(name in text for name in ("ls", "describe", "run", "cohort", "leaderboard"))


# --- ls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "kind"), [("adapters", "adapter"), ("encoders", "encoder"), ("tasks", "task")])
def test_ls_shows_every_plugin_with_its_title(run, what, kind):
    done = run("ls", what)
    assert done.exit_code == 0
    assert all(name in done.output for name in plugins.discover(kind))
    assert {"adapters": "Brain-Adapter", "encoders": "Any ViT or CNN of timm", "tasks": "zero-shot"}[
        what
    ] in done.output


def test_ls_encoders_shows_the_short_names(run):
    assert all(alias in run("ls", "encoders").output for alias in catalogue().encoders.aliases)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["adapters", "encoders", "tasks"])
def test_every_built_in_plugin_loads(run, what, monkeypatch):
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, "all")
    done = run("ls", what, "--broken", "--limit", "120")  # a busy machine is no broken plugin
    assert done.exit_code == 0 and done.output.startswith("all ") and f"{what} load" in done.output


def test_broken_plugins_are_listed_with_their_error(run, tmp_path, monkeypatch):
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medgraft.tasks]\nodd_task = odd_module_that_is_missing:Task\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = run("ls", "tasks", "--broken").output
    assert "odd_task" in text and "ModuleNotFoundError" in text and "chexpert" not in text


def test_ls_of_something_else_says_what_there_is(run):
    done = run("ls", "adaptors")
    assert done.exit_code == 2 and "adapters" in done.stderr and "Traceback" not in done.output


# --- describe ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        (
            "lora",
            [
                "adapter, medgraft.adapters.lora:Lora",
                "paper: Hu et al.",
                "title: LoRA",
                "rank",
                "whole number",
                "at least 1",
                "epochs",
            ],
        ),
        ("peft:vera", ["adapter, medgraft.adapters.peft", "options.r", "256", "Vera attention dimension"]),
        ("embedded", ["encoder, ", "embedded:chest", "embedded:brain", "embedded:slices", "options: none"]),
        ("inflate3d", ["encoder, ", "slices", "Slices that a volume is given as"]),
        ("phantom_chest", ["encoder, ", "embedded:chest"]),
        ("embedded:chest@random", ["encoder, "]),
        ("chexpert", ["task, ", "labels", "competition, all", "uncertainty", "title: CheXpert"]),
    ],
)
def test_describe_says_what_a_thing_is_and_takes(run, name, texts):
    done = run("describe", name)
    assert done.exit_code == 0 and all(text in done.output for text in texts), done.output


def test_describe_shows_where_an_adapter_attaches(run):
    text = run("describe", "lora", "--encoder", "embedded:chest@random").output
    assert "hits" in text and "image.blocks.0.attn.q" in text and "trainable parameters" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lorra"], "unknown plugin 'lorra'; did you mean lora"),
        (["lora", "--encoder", "embeded:chest"], "unknown encoder 'embeded:chest'; did you mean"),
        (["lora", "--encoder", "embedded:chst"], "unknown embedded encoder 'chst'; did you mean chest"),
        (["lora", "--encoder", "pixels:2d"], "does not fit encoder 'pixels:2d'"),
    ],
)
def test_describe_refuses_in_one_sentence(run, arguments, says):
    done = run("describe", *arguments)
    assert done.exit_code == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1


# --- cohort -----------------------------------------------------------------------------------------------------------


def test_a_phantom_cohort_is_written_and_says_so(run, tmp_path):
    sizes = ["--train", "2", "--valid", "1", "--test", "1", "--per-class", "1", "--size", "64"]
    done = run("cohort", "chexpert", "--out", str(tmp_path / "c"), *sizes)
    assert done.exit_code == 0 and "PHANTOM" in done.output and f"--data chexpert={tmp_path / 'c'}" in done.output
    assert (tmp_path / "c" / "PHANTOM").is_file() and (tmp_path / "c" / "CheXpert-v1.0-small" / "train.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["adni", "--out", "{used}"], "is not empty; name a new folder"),
        (["adni", "--out", "{new}", "--layout", "dicom"], "layout 'dicom' is unknown; choose loni or bids"),
        (["adni", "--out", "{new}", "--setting", "nowhere"], "nowhere"),
        (["chexpert", "--out", "{new}", "--setting", "nowhere"], "nowhere"),
        (["chexpert", "--out", "{new}", "--size", "3"], "--size"),
        (["adni", "--out", "{new}", "--spacing", "0"], "spacing"),
        (["adni", "--out", "{new}", "--spacing", "-3"], "spacing"),
        (["adnl", "--out", "{new}"], "adni"),
    ],
)
def test_a_cohort_that_cannot_be_made_is_refused_and_leaves_nothing(run, tmp_path, arguments, says):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    places = {"used": str(tmp_path / "used"), "new": str(tmp_path / "new")}
    done = run("cohort", *(argument.format(**places) for argument in arguments))
    assert done.exit_code == 2 and says in done.stderr and "Traceback" not in done.output, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"]


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet_logging():
    """The guard sets logging up for a command; this process gets its own back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (DataError("the table is empty"), 2, "error: the table is empty\n"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished is stored"),
        (ValueError("odd"), 1, "internal error: ValueError: odd; run again with --debug"),
        (IndexError("odd"), 1, "internal error: IndexError: odd"),
        (AssertionError(), 1, "internal error: AssertionError"),
    ],
)
def test_every_error_has_its_code_and_no_traceback(quiet_logging, capsys, error, code, says):
    with pytest.raises(SystemExit) as end, guarded():
        raise error
    text = capsys.readouterr().err
    assert end.value.code == code and text.startswith(says) and "Traceback" not in text


@pytest.mark.parametrize("error", [DataError("x"), IndexError("x")])
def test_debug_lets_errors_through(quiet_logging, error):
    with pytest.raises(type(error)), guarded(debug=True):
        raise error


def test_the_catalogue_is_found_beside_the_checkout():
    from medgraft.registry import catalogue_path

    assert catalogue_path() == Path(__file__).parents[1] / "registry.yaml"
