"""Tables on terminals of any width: every name and number in one piece."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from medgraft.commands.layout import show_table

WIDTHS = (40, 60, 80, 120, 200)
HEADS = ("task", "encoder", "adapter", "seeds", "epochs", "cohort")
LONG = "pair:inflate3d:slices=6,depth_2d=4:phantom_chest|phantom_brain"
ROWS = [
    ("adni_image_text", "phantom_brain", "attentive_probe", "0,1,2", "12", "PHANTOM"),
    ("adni_image_text", "phantom_brain", "gated_xattn: without text", "0,1,2", "12", "PHANTOM"),
    ("chest_prompts:atelectasis", "phantom_brain@random", "lora+ace_hgnn", "0", "3", "PHANTOM"),
]


def shown(width: int, heads=HEADS, rows=ROWS, names: int = 3, title: str = "") -> str:
    out = io.StringIO()
    show_table(Console(file=out, width=width, force_terminal=True, color_system=None), heads, rows, names, title)
    return out.getvalue()


def words(rows) -> set[str]:
    return {word for row in rows for cell in row for word in cell.split()}


@pytest.mark.parametrize("width", WIDTHS)
def test_every_word_is_whole_and_no_line_too_long(width):
    text = shown(width)
    assert words(ROWS) <= {word.rstrip(",") for word in text.split()} | set(text.split())
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_name_wider_than_the_terminal_is_whole_all_the_same(width):
    text = shown(
        width, rows=[(LONG, LONG, "lora", "0", "3", "real"), ("oasis", "phantom_brain", "vpt", "0", "3", "real")]
    )
    assert text.count(LONG) == 2
    assert all(len(line.rstrip()) <= max(width, len(LONG) + 4) for line in text.splitlines())


def test_what_all_rows_share_makes_room():
    """At 80 columns the rows are a table, without the column that says nothing."""
    rows = [(LONG, name, f"{value} [.20-.40]", f"{value} [.40-.60]") for name, value in (("lora", 0.3), ("vpt", 0.31))]
    lines = shown(80, ("encoder", "adapter", "F1 macro", "AUC"), rows, 2).splitlines()
    assert lines[0] == f"encoder: {LONG}" and lines[1].split() == ["adapter", "F1", "macro", "AUC"]
    assert lines[2].split()[0] == "lora" and len(lines) == 4
    assert LONG in shown(200, ("encoder", "adapter", "F1 macro", "AUC"), rows, 2).splitlines()[1], "with room it stays"


def test_a_table_without_rows_or_with_one_is_shown():
    assert shown(80, rows=[]).split() == list(HEADS)
    assert words(ROWS[:1]) <= set(re.split(r"[\s]+|, ", shown(30, rows=ROWS[:1])))


def test_wide_characters_and_escapes_are_counted_as_they_are_seen():
    text = shown(60, rows=[("\x1b[31m脳の検査", "[bold]x[/bold]", "a", "0", "3", "real")] * 2)
    assert "\x1b[31m" not in text and "\\x1b[31m脳の検査" in text and "[bold]x[/bold]" in text
