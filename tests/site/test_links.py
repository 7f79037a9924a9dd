"""Links of the pages as GitHub shows them: files, folders, headings and pictures that they lead to exist."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from measured import anchor_of

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks and words of code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.sub(r"`[^`\n]+`", "code", text)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings; a heading that comes again is numbered."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        anchor = anchor_of(heading)
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def problems(page: Path) -> list[str]:
    """Every link of a page that leads nowhere, and every picture without words."""
    found = []
    for picture, words, target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"(https?|mailto):", target):
            continue
        place = (page.parent / path).resolve() if path else page
        if picture and len(words.split()) < 3:
            found.append(f"the picture {target} has no alternative text")
        if not place.exists():
            found.append(f"{target} leads to no file")
        elif ROOT not in (place, *place.parents):
            found.append(f"{target} leads out of the repository")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place):
            found.append(f"{target} leads to no heading of {place.name}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    generated = re.compile(r"(adapters|reference)/[\w/]+\.md")  # pages that are there on the site alone
    assert [each for each in problems(page) if not generated.search(each)] == []


def test_every_page_of_docs_stands_in_the_navigation_of_the_site():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages - set(re.findall(r"[\w/-]+\.md", str(nav))) == set(), "add these to nav in mkdocs.yml"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](nothing.md)", "no file"),
        ("[a](#nowhere)", "no heading"),
        ("[a](page.md#twice-2)", "no heading"),
        ("[a](page.md#twice-1)", ""),
        ("[`a`](page.md#of-code-and-link)", ""),
        ("![x](page.md)", "no alternative text"),
        ("`[a](nothing.md)`\n\n```\n[a](nothing.md)\n```\n", ""),
    ],
)
def test_a_link_that_leads_nowhere_is_found(tmp_path, monkeypatch, text, problem):
    monkeypatch.setattr("test_links.ROOT", tmp_path)
    (tmp_path / "page.md").write_text("# Twice\n\n# Twice\n\n## Of `code` and [link](x.md)\n")
    (tmp_path / "other.md").write_text(text)
    found = problems(tmp_path / "other.md")
    assert (len(found) == 1 and problem in found[0]) if problem else found == []
