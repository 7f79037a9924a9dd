"""Hooks of mkdocs: pages that are made, and links that leave ``docs/``.

Pages are written for GitHub's view of the repository as well, so they link to ``../CONTRIBUTING.md`` and to code. On
the site, what has a page there goes to the page, and what has none to the repository.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from pathlib import Path
from typing import Any

import adapter_pages
import api_pages
import command_page
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/medgraft/medgraft/blob/main/"
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "readme.md"}
"""Page at the root of the repository -> its place on the site."""
LINK = re.compile(r"\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Adds the pages of adapters and of the API to the navigation, where their headings stand."""
    reference = next(entry["Reference"] for entry in config["nav"] if "Reference" in entry)
    reference[1:1] = [{title: f"reference/api/{page}.md"} for page, (title, _) in api_pages.PAGES.items()]
    for entry in config["nav"]:
        if "Adapters" in entry:
            entry["Adapters"] = ["adapters/index.md", *(f"adapters/{name}.md" for name in adapter_pages.names())]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages and pictures."""

    def add(place: str, content: str) -> None:
        files.append(File.generated(config, place, content=content))

    for source, place in ROOT_PAGES.items():
        add(place, (ROOT / source).read_text(encoding="utf-8"))
    docs = Path(config["docs_dir"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that adapters load
        add("adapters/index.md", adapter_pages.overview(docs))
        for name in adapter_pages.names():
            text, picture = adapter_pages.page(name, docs)
            add(f"adapters/{name}.md", text)
            if picture:
                add(f"adapters/{name}.svg", picture)
    add("reference/index.md", api_pages.index())
    add("reference/commands.md", command_page.page())
    for name, text in api_pages.pages():
        add(f"reference/api/{name}.md", text)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links that leave ``docs/`` into links of the site or of the repository."""
    place = page.file.src_uri
    source = next((root for root, site in ROOT_PAGES.items() if site == place), f"docs/{place}")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.S | re.M)  # prose and blocks in turn
    for number in range(0, len(parts), 2):
        parts[number] = LINK.sub(lambda found: f"]({_target(found[1], source, place)})", parts[number])
    return "".join(parts)


def _target(link: str, source: str, place: str) -> str:
    """Where a link of a page leads on the site.

    Args:
        link: As written.
        source: The page, relative to the root of the repository.
        place: The page on the site, relative to ``docs/``.
    """
    path, mark, anchor = link.partition("#")
    if not path or re.match(r"\w+:", path):
        return link
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    here = posixpath.dirname(place) or "."
    if inside in ROOT_PAGES:
        return posixpath.relpath(ROOT_PAGES[inside], here) + mark + anchor
    if inside.startswith("docs/"):
        return posixpath.relpath(inside.removeprefix("docs/"), here) + mark + anchor
    return f"{REPOSITORY}{inside}{mark}{anchor}"
