"""The label of a row: complete, marked, and harmless as text and as a picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from test_leaderboard import store
from test_verification import HOSTILE

from medgraft.benchmarks.sharing.finding import find
from medgraft.benchmarks.sharing.label import PHANTOM, WIDTH, as_markdown, as_svg, label_of, write_label
from medgraft.errors import ConfigError, MedgraftError

SVG = "{http://www.w3.org/2000/svg}"


def test_a_label_says_parameters_cost_quality_and_data(tmp_path):
    for seed in (0, 1):
        cell = store(tmp_path, seed)
    label = label_of(find("brain_adapter", [tmp_path]))
    text, picture = as_markdown(label), as_svg(label)
    for word in ("1.5k", "f1_macro", "20 subjects, 2 seeds", cell.spec.cohort.revision, PHANTOM):
        assert word in text and word in picture, word
    low, high = find("brain_adapter", [tmp_path]).row.metrics["f1_macro"][1:]
    assert f"[{low:.3f}, {high:.3f}]" in text


def test_real_data_carry_no_mark_of_a_phantom(tmp_path):
    store(tmp_path, phantom=False)
    label = label_of(find("brain_adapter", [tmp_path]))
    assert "PHANTOM" not in as_markdown(label) + as_svg(label)


def test_the_picture_is_well_formed_has_an_alternative_and_runs_nothing(tmp_path):
    store(tmp_path)
    root = ElementTree.fromstring(as_svg(label_of(find("brain_adapter", [tmp_path]))))
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    assert root.find(f"{SVG}title") is not None and "f1_macro" in (root.findtext(f"{SVG}desc") or "")
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {"svg", "title", "desc", "rect", "text"}
    assert not any(name.startswith("on") or "href" in name for each in root.iter() for name in each.attrib)


@pytest.mark.parametrize("name", [HOSTILE, "]]>&amp;<!--", '"><script>alert(1)</script>', "x" * 300, "\u202e\x00y"])
def test_a_foreign_name_is_text(tmp_path, name):
    store(tmp_path, adapter=name, encoder=name)
    label = label_of(find(str(next(tmp_path.rglob("*.json"))), []))
    root = ElementTree.fromstring(as_svg(label))
    assert not list(root.iter(f"{SVG}script")) and "<script" not in as_svg(label)
    assert "<script" not in as_markdown(label) and "\x1b" not in as_markdown(label) + as_svg(label)
    for line in root.iter(f"{SVG}text"):
        size = float(line.get("font-size", "12"))
        assert len(line.text or "") * size * 0.6 < 1.35 * WIDTH, line.text  # wide letters are 0.6 of the size


def test_a_row_without_numbers_has_no_label(tmp_path):
    store(tmp_path, status="oom")
    with pytest.raises(ConfigError, match="no numbers to put on a label"):
        label_of(find("brain_adapter", [tmp_path]))
    store(tmp_path, seed=1)
    (tmp_path / "file").touch()
    with pytest.raises(MedgraftError, match="choose another --out"):
        write_label(find("brain_adapter", [tmp_path]), tmp_path / "file" / "x")
