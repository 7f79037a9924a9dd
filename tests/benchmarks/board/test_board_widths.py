"""The board on terminals of any width: every name and number in one piece."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from test_leaderboard import store

from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.board.terminal import show_board

WIDTHS = (40, 60, 80, 120, 200)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    for adapter in ("attentive_probe", "perceiver_resampler", "linear_probe"):
        for encoder in ("phantom_brain", "timm:vit_small_patch16_224@random"):
            store(folder, adapter=adapter, encoder=encoder, task="adni_image_text")
    store(folder, 1, adapter="attentive_probe", encoder="phantom_brain", task="adni_image_text", status="timeout")
    return board_rows([folder])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_board_breaks_no_word(rows, width):
    out = io.StringIO()
    show_board(rows, Console(file=out, width=width, force_terminal=True, color_system=None))
    text = out.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width and "…" not in text
    for word in ("perceiver_resampler", "attentive_probe", "timm:vit_small_patch16_224@random", "timeout", "PHANTOM"):
        assert word in text
    for row in rows:
        value, low, _ = row.metrics["f1_macro"]
        assert value is None or re.search(rf"{value:.3f} \[{low:.2f}".replace("[0.", "[."), text)
