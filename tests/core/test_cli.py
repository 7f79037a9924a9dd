"""The command line of the core: listing and describing."""

from __future__ import annotations

import logging
import re

import pytest
from typer.testing import CliRunner

from medgraft import __version__, console
from medgraft.cli import app
from medgraft.console import guarded
from medgraft.errors import ConfigError


@pytest.fixture
def run(monkeypatch):
    """Runs the command in this process, with a wide terminal and pytest's own logging left alone."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(console.logging, "basicConfig", lambda **options: None)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_version_is_shown(run):
    assert run("--version").stdout == f"medgraft {__version__}\n"


@pytest.mark.parametrize(("what", "name"), [("adapters", "ace_lora"), ("encoders", "timm"), ("tasks", "chexpert")])
def test_a_kind_is_listed_with_its_distribution(run, what, name):
    done = run("ls", what)
    assert done.exit_code == 0
    assert re.search(rf"{name}\s.*medgraft {re.escape(__version__)}", done.stdout)


def test_encoders_are_listed_with_their_aliases(run):
    assert re.search(r"phantom_chest.*alias.*embedded:chest", run("ls", "encoders").stdout)


def test_describing_an_adapter_shows_its_options_with_defaults(run):
    done = run("describe", "lora")
    assert done.exit_code == 0
    assert "rank: <class 'int'> = 8" in done.stdout and "Hu et al." in done.stdout


def test_describing_an_adapter_on_an_encoder_shows_where_it_attaches_and_its_size(run):
    done = run("describe", "lora", "--encoder", "embedded:brain@random")
    assert "lora: q hits 6 sites: volume.blocks.0.attn.q" in done.stdout
    assert re.search(r"lora: \d\d,\d{3} trainable parameters", done.stdout)


@pytest.mark.parametrize("name", ["embedded", "embedded:chest@random", "phantom_chest", "phantom_brain@random"])
def test_describing_an_encoder_by_source_name_or_alias_shows_its_models(run, name):
    done = run("describe", name)
    assert done.exit_code == 0 and "embedded:chest" in done.stdout


def test_describing_a_variant_describes_its_family(run):
    assert "method: <class 'str'> = 'lora'" in run("describe", "peft:vera").stdout


def test_describing_a_task_works(run):
    assert run("describe", "chexpert").exit_code == 0


def test_an_unknown_name_is_one_sentence_with_a_suggestion_and_exit_code_two(run):
    done = run("describe", "ace_lara")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: unknown adapter, encoder or task 'ace_lara'; did you mean ace_lora")


def test_debug_lets_the_traceback_through(run):
    assert isinstance(run("describe", "ace_lara", "--debug").exception, ConfigError)


# -- errors on the terminal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("rank is 0"), 2, "error: rank is 0\n"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished is stored"),
        (
            RuntimeError("index out of range"),
            1,
            "internal error: RuntimeError: index out of range; run again with --debug",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(run, capsys, error, code, text):
    with pytest.raises(SystemExit) as stopped, guarded():
        raise error
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith(text)


def test_logging_is_quiet_unless_asked_for(monkeypatch):
    levels = []
    monkeypatch.setattr(console.logging, "basicConfig", lambda **options: levels.append(options["level"]))
    for options in ({}, {"verbose": True}, {"debug": True}):
        with guarded(**options):
            pass
    assert levels == [logging.WARNING, logging.INFO, logging.DEBUG]
