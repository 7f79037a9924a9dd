"""``medgraft check``: a table, and an exit code that says what happened."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from medgraft import plugins
from medgraft.benchmarks.commands.main import app
from medgraft.commands import console
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.plugins import Plugin, discovery
from medgraft.testing import command
from medgraft.testing.adapter_rules import subject
from medgraft.testing.check import Check, ConformanceError


@pytest.fixture
def medgraft(monkeypatch):
    """Runs the command in this process, with a wide terminal and pytest's own logging left alone."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(console.logging, "basicConfig", lambda **options: None)
    return lambda *arguments: CliRunner().invoke(app, ["check", *arguments])


@pytest.fixture
def broken(monkeypatch):
    """A registered adapter that declares another identity than it has."""
    discover = plugins.discover
    made = Plugin("adapter", "acme_wrong", "broken_adapters:NotTheIdentity", "acme", "1.0")
    for module in (plugins, discovery):  # the name that is offered, and the one that the module itself calls
        monkeypatch.setattr(
            module, "discover", lambda kind: discover(kind) | ({"acme_wrong": made} if kind == "adapter" else {})
        )


def test_a_sound_plugin_is_a_table_and_exit_code_zero(medgraft):
    done = medgraft("pixels:2d")
    assert done.exit_code == 0, done.output
    assert "features_fit_the_spec" in done.stdout and "it reads no text" in done.stdout
    assert re.search(r"pixels:2d: \d+ ok, 0 failed, [1-9] skipped", done.stdout)


def test_a_broken_plugin_is_exit_code_one_and_says_what_to_change(medgraft, broken, monkeypatch):
    # One encoder that it fits and one that it refuses: what is under test here is the command.
    monkeypatch.setattr(subject, "ENCODERS", {name: subject.ENCODERS[name] for name in ("packed-2d", "none-2d")})
    done = medgraft("acme_wrong")
    assert done.exit_code == 1, done.output
    assert "1 failed" in done.stdout and "identity_at_the_start_is_true" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lroa"], "unknown adapter, encoder or task 'lroa'; did you mean lora"),
        (["lora+ace_hgn"], "did you mean ace_hgnn"),
        (["peft:no_such_method"], "no_such_method"),
        (["timm:no_such_model@random"], "no_such_model"),
        (["lora", "--data", "somewhere"], "--data is for tasks"),
        (["lora", "--kind", "task"], "unknown task 'lora'"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence_and_exit_code_two(medgraft, arguments, message):
    done = medgraft(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and message in done.stderr and "Traceback" not in done.stderr


def test_the_kind_is_found_from_the_registry():
    kinds = {name: command.kind_of(name) for name in ("lora", "peft:ia3", "lora+ace_hgnn", "timm:vit", "adni_text")}
    assert list(kinds.values()) == ["adapter", "adapter", "adapter", "encoder", "task"]
    assert command.kind_of("phantom_brain@random") == "encoder"
    with pytest.raises(UnknownNameError):
        command.kind_of("nothing")


def test_a_name_of_several_kinds_asks_for_one(monkeypatch):
    monkeypatch.setattr(plugins, "discover", lambda kind: {"both": None} if kind != "task" else {})
    with pytest.raises(ConfigError, match="'both' names plugins of several kinds; choose one with --kind adapter"):
        command.kind_of("both")


def test_no_check_stops_the_others():
    def fails():
        raise ConformanceError("wrong. Change it.")

    checks = [Check("first", "it", "A rule.", fails), Check("second", "it", "Another.", lambda: None)]
    outcomes = command.run(checks)
    assert [(each.check, each.result, each.message) for each in outcomes] == [
        ("first", "failed", "wrong. Change it."),
        ("second", "ok", ""),
    ]


# --- as it goes, and within bounds ------------------------------------------------------------------------------------


def test_each_outcome_is_told_as_its_check_ends():
    seen: list[str] = []
    checks = [Check(name, "it", "A rule.", lambda name=name: seen.append(f"ran {name}")) for name in ("a", "b")]
    command.run(checks, lambda outcome: seen.append(f"told {outcome.check}"))
    assert seen == ["ran a", "told a", "ran b", "told b"]


def swallows() -> None:
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.05)


@pytest.mark.parametrize("hangs", [lambda: time.sleep(60), swallows], ids=["sleeps", "swallows"])
def test_a_plugin_that_hangs_ends_with_the_time_and_the_rest_is_skipped(hangs):
    handler = signal.getsignal(signal.SIGALRM)
    checks = [Check("first", "it", "A rule.", lambda: None), Check("hangs", "it", "A rule.", hangs)]
    outcomes = command.run([*checks, Check("last", "it", "A rule.", lambda: None)], limit=0.3)
    assert [each.result for each in outcomes] == ["ok", "failed", "skipped"]
    assert outcomes[1].message == "it: did not end within the 0.3 s for all checks; give more with --limit"
    assert sum(each.seconds for each in outcomes) < 5
    assert signal.getsignal(signal.SIGALRM) is handler and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_first_outcome_is_there_before_the_last_check_begins(tmp_path):
    code = (
        "import time\nfrom medgraft.testing import command\nfrom medgraft.testing.check import Check\n"
        "checks = [Check('first', 'it', '', lambda: None), Check('slow', 'it', '', lambda: time.sleep(60))]\n"
        "command.checks_of = lambda *a: checks\n"
        "import sys\nfrom medgraft.benchmarks.commands.main import main\n"
        "sys.argv = ['medgraft', 'check', 'lora']\nmain()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "medgraft check: loading\n"
    assert re.fullmatch(r"ok +0\.0 s  first\n", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.splitlines() == ["interrupted"]
