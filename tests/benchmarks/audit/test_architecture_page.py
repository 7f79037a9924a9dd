"""The page and the picture of the architecture are what the imports are now."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from medgraft.benchmarks.audit.architecture import CHECKOUT, ROWS, edges, modules, page, picture, places, room_of

DOCS = CHECKOUT / "docs"
REMEDY = "run python -m benchmarks.audit.architecture"


def test_the_picture_is_what_the_script_makes():
    assert (DOCS / "architecture.svg").read_text() == picture(edges()), REMEDY


def test_the_table_of_rooms_is_what_the_script_makes():
    text = (DOCS / "architecture.md").read_text()
    assert text == page(text, edges()), REMEDY


def test_every_folder_of_code_has_a_place_in_the_picture():
    rooms = {room_of(path) for path in modules().values()} - {""}
    assert rooms == set(places()), "give it a place in ROWS of benchmarks/audit/architecture.py"
    assert len([room for rows in ROWS.values() for row in rows for room in row]) == len(places())


def test_the_picture_is_drawn_and_its_boxes_do_not_touch():
    root = ElementTree.fromstring((DOCS / "architecture.svg").read_text())
    boxes = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("rx") == "5"]
    assert len(boxes) == len(places())
    spots = [(float(box.attrib["x"]), float(box.attrib["y"]), float(box.attrib["width"])) for box in boxes]
    for i, (x, y, width) in enumerate(spots):
        assert not [other for other in spots[i + 1 :] if other[1] == y and abs(other[0] - x) < width]


@pytest.mark.parametrize("target", re.findall(r"\]\((\.\./[^)#]+)", (DOCS / "architecture.md").read_text()))
def test_what_the_page_links_to_exists(target):
    assert (DOCS / target).exists()
