"""A real Chromium for tests, and a board to open in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import many
import numpy as np
import pytest
from test_leaderboard import store  # pyright: ignore[reportMissingImports]

from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import BoardRow, board_rows, make_row
from medgraft.benchmarks.site.publish import publish
from medgraft.benchmarks.suite.ranks import Ranked, SuiteBoard
from medgraft.suites import find_suite

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "](javascript:alert(1))",
    "\x1b[31mred\x07", "\u202etxt.exe", "\"'><b>quoted</b>", "</script><script>alert(1)</script>", "\u2028line",
)  # fmt: skip
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser; the test fails without one, unless it could not be installed here by any means."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None and shutil.which("apt-get") is None and not os.environ.get("CI"):
        pytest.skip("neither Chromium nor an apt-get that could install it is on this machine")
    if found is None:
        pytest.fail("Chromium is missing; `make browser` (as root) or `sudo apt-get install chromium` installs it")
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser of the system."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = play.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield opened
        finally:
            opened.close()


def hostile_rows() -> list[BoardRow]:
    """Rows all of whose words were written by somebody who means ill."""
    made = []
    for number, name in enumerate(HOSTILE):
        cell = many.result(
            "hostile", name, name, 0, 0.001 * number, spec={"adapter_options": {name: name}},
            message=name, adapters={name: {"title": name, "paper": name, "licence": name}},
            env={"platform": name, "cpu": "/home/someone/secret/cpu"}, plugins=[{"name": name, "distribution": name}],
        )  # fmt: skip
        cell.data["classes"] = [name, "other"]
        cell.data["notes"] = [name, "read from /home/someone/secret/17.nii"]
        cell.metrics[f"f1_{name.lower()}"] = cell.metrics["f1_macro"]
        made.append(make_row([(Path("none.json"), cell)]))
    return made


def regression_rows() -> list[BoardRow]:
    """Rows of a task whose metric is an error, the best last; one of them failed."""
    made = []
    for number, name in enumerate(("coarse", "fair", "fine")):
        error = many.estimate(6.0 - number, 0.4) | {"ci_low": 5.5 - number, "ci_high": 6.5 - number}
        cell = many.result(
            "brain_age", "phantom_brain", name, 0, 0.0, primary="mae", calibration=None, groups={},
            metrics={"mae": error, "rmse": error, "pearson": many.estimate(0.5 + number / 10)},
        )  # fmt: skip
        cell.data |= {"objective": "regression", "classes": []}
        made.insert(0, make_row([(Path("none.json"), cell)]))
    broken = many.result(
        "brain_age", "phantom_brain", "broken", 0, 0.0, status="oom", metrics={}, message="out of memory"
    )
    return [*made, make_row([(Path("none.json"), broken)])]


def whole_board(folder: Path) -> Path:
    """A site with several tables: generated and real, with predictions and without, errors, hostile names."""
    for seed in (0, 1):
        store(folder / "r", seed, skill=0.9, phantom=False, adapter="lora")
        store(folder / "r", seed, skill=0.2, phantom=False, adapter="bitfit")
    rows = [*board_rows([folder / "r"]), *many.rows(3, 2, 16, 1), *regression_rows(), *hostile_rows()]
    shown = BoardOptions("medgraft leaderboard /srv/private/r", suites=(suite_board(),))
    publish(rows, folder / "site", shown)
    return folder / "site"


def suite_board() -> SuiteBoard:
    """Ranks of a suite, one adapter of which is named by somebody who means ill."""
    suite = find_suite("medgraft-phantom")
    columns = [(task.task, encoder) for task in suite.tasks for encoder in task.encoders]
    values = dict.fromkeys(columns, 0.5)
    ranked = [Ranked("lora", 1.25, 1.0, 2.0, values), Ranked(HOSTILE[0], 1.75, 1.0, 2.0, values)]
    return SuiteBoard(suite, True, ranked, {HOSTILE[1]: "a seed"}, {"of another split": (("ssf on adni",), 2)})


def no_errors(page: Any) -> list[str]:
    """Starts to collect what a page complains of."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
    return said


def column(page: Any, section: str, name: str) -> list[str]:
    """Texts of a column of a table."""
    return page.evaluate(
        """([section, name]) => { const table = document.querySelector(`#${section} table`);
        const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
        const cells = [...table.tBodies[0].rows].map((row) => row.cells[heads.indexOf(name)]);
        return cells.map((cell) => (cell.querySelector("b, a") ?? cell).textContent); }""",
        [section, name],
    )


def numbers(texts: list[str]) -> np.ndarray:
    return np.array([float(text) for text in texts])
