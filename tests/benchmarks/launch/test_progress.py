"""Lines of a sweep: they fit the terminal, break between words, and are one line in a file."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from medgraft.benchmarks.schedule.durations import Durations
from medgraft.benchmarks.sweep.display import Display, fitted
from medgraft.commands.layout import say

LONG = "error adni_image_text / inflate3d:slices=8:timm:vit_small_patch14_dinov2 / brain_adapter seed 12: it failed"


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_a_terminal_gets_whole_words(width):
    out = io.StringIO()
    say(Console(file=out, width=width, force_terminal=True, color_system=None), LONG)
    lines = out.getvalue().splitlines()
    assert " ".join(line.strip() for line in lines) == LONG
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


def test_a_file_gets_one_line():
    out = io.StringIO()
    say(Console(file=out, width=20), LONG)
    assert out.getvalue() == f"{LONG}\n"


@pytest.mark.parametrize("width", range(0, 120, 7))
def test_what_fits_is_in_whole_parts(width):
    doing = [f"chexpert/lora seed {seed}: train 40%" for seed in range(3)]
    text = fitted("about 2 min left", doing, width)
    assert len(text) <= width
    parts = text.split(" | ") if text else []
    assert all(part in [*doing, "about 2 min left", "+1", "+2"] for part in parts)
    if width >= 118:
        assert parts == ["about 2 min left", *doing]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_progress_is_one_line_of_the_terminal(width):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    spec = SimpleNamespace(task="adni_image_text", adapter="brain_adapter", seed=1, key=lambda: "k", row=lambda: "r")
    worker = SimpleNamespace(job=SimpleNamespace(spec=spec), doing="frozen prefix", share=0.5, started=0.0)
    display = Display(console, [spec] * 12, 2, Durations())  # pyright: ignore[reportArgumentType]
    display.tick([worker, worker])  # pyright: ignore[reportArgumentType]
    drawn = console.render_lines(display.progress.get_renderable(), console.options, pad=False)
    assert len(drawn) == 1
    assert "12" in "".join(segment.text for segment in drawn[0]) and "…" not in "".join(s.text for s in drawn[0])
