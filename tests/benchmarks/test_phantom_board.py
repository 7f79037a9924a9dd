"""``make board``: the sweep, the board and what its head says of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from medgraft import __version__
from medgraft.benchmarks.audit import phantom_board
from medgraft.benchmarks.cohorts.places import write_phantom
from medgraft.benchmarks.results.spec import NUMBERS_VERSION

TINY = ("--tasks", "adni_text", "--seeds", "0", "--epochs", "1", "--limit", "12", "--no-baselines", "--jobs", "1")


def head_of(out: Path) -> str:
    return out.read_text().splitlines()[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_command_sweeps_and_writes_the_board_with_its_date_and_versions(tmp_path):
    write_phantom("adni", tmp_path / "adni", {"subjects": 24, "visits": 1, "spacing": 6.0}, 1)
    out, results = tmp_path / "board.md", tmp_path / "results"
    options = ["--out", str(out), "--results", str(results), *TINY, "--data", f"adni={tmp_path / 'adni'}"]
    assert phantom_board.main(options) == 0
    versions = f"with medgraft {__version__}, numbers version {NUMBERS_VERSION}, in "
    month = datetime.now(UTC).date().isoformat()[:7]
    assert re.search(rf"on {month}-\d\d {re.escape(versions)}", head_of(out))
    assert "`make board`" in head_of(out) and "--adapters ace_lora,brain_adapter --tasks adni_text" in head_of(out)
    assert "## adni_text (PHANTOM)" in out.read_text() and re.search(r"\| brain_adapter +\|", out.read_text())


@pytest.fixture
def commands(monkeypatch):
    """Commands that would run, in the place of running them; ``codes`` are how they end."""
    ran: list[tuple[str, ...]] = []
    codes = {"run": 0}

    def medgraft(*words: str) -> int:
        ran.append(words)
        if words[0] == "leaderboard":
            Path(words[3], "leaderboard.md").write_text("# Leaderboard\n\nMade by `x`.\n\nrows\n")
        return codes.get(words[0], 0)

    monkeypatch.setattr(phantom_board, "_medgraft", medgraft)
    return ran, codes


def test_a_board_whose_sweep_failed_stays_as_it_was(tmp_path, commands, capsys):
    ran, codes = commands
    out = tmp_path / "board.md"
    out.write_text("as it was")
    codes["run"] = 1
    assert phantom_board.make(out, tmp_path, []) == 1
    assert out.read_text() == "as it was" and [words[0] for words in ran] == ["run"]
    assert "stays as it was" in capsys.readouterr().err


def test_each_command_has_results_of_its_own_and_goes_on_from_them(tmp_path, commands, monkeypatch):
    ran, _ = commands
    for extra in ([], ["--limit", "8"], []):
        assert phantom_board.make(tmp_path / "board.md", tmp_path, extra) == 0
    folders = [words[-1] for words in ran if words[0] == "run"]
    assert folders[0] == folders[2] != folders[1]
    monkeypatch.setattr(phantom_board, "_finished", lambda results: 2)
    assert phantom_board.make(tmp_path / "board.md", tmp_path, []) == 0
    assert "with 2 of 2 cells from an earlier run" in head_of(tmp_path / "board.md")


def test_a_head_takes_the_place_of_the_line_on_the_command():
    board = "# Leaderboard\n\nMade by `medgraft leaderboard x`.\n\nF1 and AUC.\n"
    text = phantom_board.headed(board, ["run", "--tasks", "tag:few shot"], "2026-01-31", 333.2, 0, 4)
    assert text.startswith(
        "# Leaderboard\n\nMade by `make board` (`medgraft run --tasks 'tag:few shot'`) on 2026-01-31 "
    )
    assert "in 5 min 33 s on " in text and text.endswith("\n\nF1 and AUC.\n") and "leaderboard x" not in text
    with pytest.raises(ValueError, match="does not begin"):
        phantom_board.headed("# Something else\n", [], "2026-01-31", 1, 0, 1)


def test_the_board_in_docs_says_when_and_by_what_it_was_made():
    head = head_of(Path(__file__).parents[2] / phantom_board.BOARD)
    assert re.search(r"on \d{4}-\d\d-\d\d with medgraft [\d.]+, numbers version \d+, (in \d+ \w+|with \d+ of)", head)
    assert " ".join(["medgraft", *phantom_board.SWEEP]) in head
