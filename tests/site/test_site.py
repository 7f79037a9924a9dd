"""The site of ``docs``: it builds without a network, its links lead somewhere, and it loads nothing from afar."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import adapter_pages
import pytest

ROOT = Path(__file__).parents[2]
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
"""Element -> attribute whose address a browser fetches by itself."""
RELATIONS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
"""Of a ``link``, those that a browser fetches."""


class Page(HTMLParser):
    """What a page loads, where it links to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.pictures: list[str | None] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := facts.get(name))}
        if address := facts.get(LOADED.get(tag, "")):
            self.loads.append(address)
        if tag == "link" and RELATIONS & set((facts.get("rel") or "").split()):
            self.loads.append(facts.get("href") or "")
        if tag == "a" and facts.get("href"):
            self.links.append(facts["href"] or "")
        if tag == "img":
            self.pictures.append(facts.get("alt"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of mkdocs, such as a broken link, is an error."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_page_of_docs_and_every_adapter_has_one(site):
    assert len(adapter_pages.names()) > 30
    for name in adapter_pages.names():
        assert (site / "adapters" / f"{name}.html").is_file(), name
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file(), page


def test_no_page_loads_anything_from_afar(site, built):
    assert len(built) > 60
    for path, page in built.items():
        assert [each for each in page.loads if re.match(r"(https?:)?//", each)] == [], path
        for each in page.loads:
            start = site if each.startswith("/") else path.parent  # of 404.html, which is shown at any address
            if not each.startswith("data:"):
                assert (start / unquote(urldefrag(each).url.partition("?")[0]).lstrip("/")).is_file(), (path, each)
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]*", sheet.read_text(encoding="utf-8")) == [], (
            sheet
        )


def test_every_link_inside_the_site_leads_somewhere(site, built):
    for path, page in built.items():
        if path.name == "404.html":
            continue  # whose links are absolute, since it may be shown at any address
        for link in page.links:
            address, anchor = urldefrag(link)
            if re.match(r"[\w+.-]+:", address):
                continue
            place = (path.parent / unquote(address)).resolve() if address else path
            assert place.is_file(), (path, link)
            if anchor and place.suffix == ".html" and not anchor.startswith("__"):
                assert unquote(anchor) in built[place].anchors, (path, link)


def test_every_picture_has_words(built):
    assert sum(len(page.pictures) for page in built.values()) > 30
    for path, page in built.items():
        assert all(words and len(words.split()) > 2 for words in page.pictures), path


def test_the_commands_are_all_there(site):
    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for command in ("run", "predict", "leaderboard", "cohort chexpert"):
        assert f"medgraft {command}" in text
    assert "--test-on" in text and "at most 86,400" in text


def test_the_api_shows_docstrings_without_sphinxs_marks(site):
    text = (site / "reference" / "api" / "adapters.html").read_text(encoding="utf-8")
    assert "Base class of adapter plugins" in text and ":meth:" not in text and ":class:" not in text
    assert "&gt;&gt;&gt;" in (site / "reference" / "api" / "grafts.html").read_text(encoding="utf-8")
