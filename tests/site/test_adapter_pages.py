"""Pages of adapters: each has what its class says; pictures show what was recorded; rows are those of the tables."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import adapter_pages
import pytest
from diagrams import Tower, placement, towers_of
from latex2mathml.converter import convert
from measured import anchor_of, rows_of, tables

from medgraft import plugins
from medgraft.registry import build_encoder, recipe

DOCS = Path(__file__).parents[2] / "docs"
NO_FORMULA = {"peft", "scratch_cnn"}
"""A library of methods, and a network of many layers."""
NAMES = adapter_pages.names()


@pytest.mark.parametrize("name", NAMES)
def test_every_adapter_has_a_formula_that_can_be_drawn(name):
    latex = recipe(plugins.load(plugins.discover("adapter")[name]), "formula", "")
    assert bool(latex) != (name in NO_FORMULA)
    for line in latex.splitlines():
        drawn = ElementTree.fromstring(convert(line))
        words = "".join(drawn.itertext())
        assert "\\" not in words and "?" not in words, words  # a command that the converter does not know


@pytest.mark.parametrize("name", ["lora", "knn", "ace_lora"])
def test_a_page_has_what_the_class_says(name):
    text, picture = adapter_pages.page(name, DOCS)
    for heading in ("Formula", "Where it sits", "Options", "Training", "Measured", "Files"):
        assert f"\n## {heading}\n" in text
    assert "arxiv.org/abs/" in text and "<math" in text
    cls = plugins.load(plugins.discover("adapter")[name])
    for option in cls.Config.model_fields:
        assert f"| `{option}` |" in text
    ElementTree.fromstring(picture)
    assert f"](../../adapters/{name}.py)" in text
    if name == "lora":
        assert "| `phantom_chest` | 32,768 |" in text, "counted on the encoder: r (in + out) for q and v of six blocks"
        assert "load_peft" in text and "can be merged" in text
    if name == "knn":
        assert "0 before it has seen the task's classes" in text and "It is not exported" in text
    if name == "ace_lora":
        assert "`medgraft import ace_lora FILE --out FOLDER`" in text
        assert "chexpert (PHANTOM), from [leaderboard.md]" in text


def test_a_new_adapter_gets_a_page_without_hand_work(monkeypatch):
    """Names come from the entry points, and foreign ones are left out."""
    lora = plugins.discover("adapter")["lora"]
    new = {"new": replace(lora, name="new"), "foreign": replace(lora, name="foreign", distribution="other")}
    monkeypatch.setattr(adapter_pages.plugins, "discover", lambda kind: {"lora": lora, **new})
    assert adapter_pages.names() == ["lora", "new"]


def test_the_picture_shows_the_recorded_sites_and_only_those():
    sites = build_encoder("phantom_chest").sites()
    (image, text) = towers_of(sites, ["image.blocks.0.attn.q", "image.blocks.2.attn.q", "image.norm", "image.blocks.1"])
    assert image == Tower("image", 4, {"attn.q": 2, "stem": 1, "block": 1}) and text.hit == {}
    drawn = placement([image, text], "Where it sits")
    assert drawn.count("<text") == drawn.count(">q<") + len(re.findall(r"<text[^>]*>(?!q<)", drawn))
    lit = re.findall(r'fill="#00695c"[^>]*/?>\s*<text[^>]*>([^<]+)', drawn)
    assert lit == ["stem, last norm", "q"] and "in 2 of 4 blocks" in drawn and ">text<" not in drawn
    assert "<title>Where it sits</title>" in drawn and 'role="img"' in drawn


def test_rows_are_found_by_adapter_whatever_their_options():
    found = tables(DOCS)
    assert next(iter(found)) == "leaderboard.md"
    table = found["leaderboard.md"][0]
    assert table.heading == "adni_image (PHANTOM)" and table.anchor == "adni_image-phantom"
    assert len(rows_of(table, "linear_probe")) == 3 and len(rows_of(table, "brain_adapter")) == 1
    assert rows_of(table, "brain") == [] and rows_of(table, "lora") == []
    chest = [row for table in found["chest.md"] for row in rows_of(table, "tip_adapter")]
    assert any("train_keys True" in row for row in chest)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("What a board believes", "what-a-board-believes"),
        ("chexpert:nogap (PHANTOM)", "chexpertnogap-phantom"),
        ("CPU: `x_y` and [link](a.md)", "cpu-x_y-and-link"),
    ],
)
def test_anchors_are_githubs(heading, anchor):
    assert anchor_of(heading) == anchor
