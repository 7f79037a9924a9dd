"""Trying plugins out in processes of their own: none of them can reach the process that asks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from distributions import GOOD, install

from medgraft import plugins
from medgraft.errors import PluginError
from medgraft.plugins import discovery
from medgraft.plugins import trials as probing

pytestmark = pytest.mark.slow

SOURCES = {
    "acme_fine": GOOD.format(name="Plugin"),
    "acme_raises": "raise RuntimeError('no driver')",
    "acme_lacks": "import no_such_module_of_acme.deep",
    "acme_leaves": "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)",
    "acme_dies": "import os\nos.write(1, b'last words')\nos._exit(7)",
    "acme_crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
    "acme_hangs": "import subprocess, time\nsubprocess.Popen(['sleep', '61.75'])\ntime.sleep(120)",
    "acme_stops": "raise KeyboardInterrupt",
    "acme_asks": "input('password: ')",
    "acme_chatty": "print('x' * 100_000)\n" + GOOD.format(name="Plugin"),
    "acme_verbose": "raise RuntimeError('y' * 100_000)",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, probing.Finding]:
    """One look at all of them, with the time that it took."""
    site = tmp_path_factory.mktemp("site")
    install(site, "acme", {name: f"{name}:Plugin" for name in SOURCES}, SOURCES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        known = plugins.discover("adapter")
        start = time.monotonic()
        findings = probing.probe([known[name] for name in SOURCES], limit=6)
        assert time.monotonic() - start < 60
    return {finding.plugin.name: finding for finding in findings}


@pytest.mark.parametrize(
    ("name", "outcome", "message", "remedy"),
    [
        ("acme_fine", "loaded", "", ""),
        ("acme_raises", "failed", "failed to import: RuntimeError: no driver", "tell the authors of acme"),
        ("acme_lacks", "failed", "No module named 'no_such_module_of_acme'", "install no_such_module_of_acme, or acme"),
        ("acme_leaves", "failed", "failed to import: SystemExit: 3", "MEDGRAFT_DISABLE_PLUGINS=acme_leaves"),
        ("acme_dies", "died", "exit code 7", "tell the authors"),
        ("acme_crashes", "died", "signal 11", "tell the authors"),
        ("acme_hangs", "hung", "did not finish importing within 6 s", "more than 6 s with --limit"),
        ("acme_stops", "failed", "KeyboardInterrupt", "tell the authors"),
        ("acme_asks", "failed", "EOFError", "tell the authors"),
        ("acme_chatty", "loaded", "", ""),
        ("acme_verbose", "failed", "yyy", "tell the authors"),
    ],
)
def test_each_has_its_outcome_its_words_and_a_remedy(found, name, outcome, message, remedy):
    finding = found[name]
    assert finding.outcome == outcome and message in finding.message and remedy in finding.remedy
    assert bool(finding.message) == bool(finding.remedy) == (outcome != "loaded")


def test_what_they_print_is_kept_and_bounded(found):
    assert found["acme_leaves"].output.split() == ["out", "err"]
    assert found["acme_dies"].output == "last words"
    assert len(found["acme_chatty"].output) <= probing.OUTPUT
    assert len(found["acme_verbose"].message) <= probing.OUTPUT


def test_what_a_plugin_started_ends_with_it(found):
    assert found["acme_hangs"].outcome == "hung"
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert b"sleep\x0061.75\x00" not in running


def test_nothing_of_them_reaches_this_process(found, capfd):
    assert set(SOURCES).isdisjoint(__import__("sys").modules)
    assert not any(plugin.name in SOURCES for plugin in discovery._loaded)
    assert "last words" not in "".join(capfd.readouterr())


def test_problems_are_those_that_fail_and_those_that_no_name_leads_to(tmp_path, monkeypatch):
    install(tmp_path, "acme", {"lora": "acme_x:Plugin", "acme_bad": "acme_bad:Plugin"}, {"acme_bad": "Plugin = 5"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(discovery, "_warned", set())
    found = probing.problems(["adapter"])
    assert [(each.plugin.name, each.outcome) for each in found] == [("lora", "refused"), ("acme_bad", "failed")]
    assert "built-in of that name" in found[0].message and "rename" in found[0].remedy


def test_what_lies_in_the_current_folder_is_not_taken_for_installed(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise RuntimeError('not the real one')")
    monkeypatch.chdir(tmp_path)
    (finding,) = probing.probe([plugins.find("adapter", "linear_probe")])
    assert finding.outcome == "loaded", finding


def test_a_process_that_cannot_start_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch is not well')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"cannot be tried out.*torch is not well"):
        probing.probe([plugins.find("adapter", "linear_probe")])
