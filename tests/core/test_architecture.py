"""The house as its plan says: layers, no circles, private parts, rooms of a size that one looks over."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

CHECKOUT = Path(__file__).parents[2]
FOLDERS = {
    "medgraft": "src/medgraft",
    "medgraft.adapters": "adapters",
    "medgraft.encoders": "encoders",
    "medgraft.benchmarks": "benchmarks",
}
MOST_FILES = 16
"""Modules of a room; the two folders of one plugin per file may hold more, and earlier names of modules are none."""
OPEN = {"adapters", "encoders"}


class Import(NamedTuple):
    """One module that another imports, at its top or inside a function; imports for types alone are none."""

    importer: str
    imported: str
    line: int


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in (CHECKOUT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(CHECKOUT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names that code imports, ``from a import b`` as ``a.b``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports_of(ast.Module([other], []))
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        yield from imports_of(node)


def module_of(name: str) -> str | None:
    """The longest beginning of a dotted name that is a module of ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def every_import() -> list[Import]:
    found = []
    for importer, path in MODULES.items():
        for name, line in imports_of(ast.parse(path.read_text())):
            imported = module_of(name)
            if imported is not None and imported != importer:
                found.append(Import(importer, imported, line))
    return found


IMPORTS = every_import()


def layer(module: str) -> str:
    return next(
        (name for name in ("adapters", "encoders", "benchmarks") if f"{module}.".startswith(f"medgraft.{name}.")),
        "core",
    )


def shown(found: Iterator[Import]) -> list[str]:
    return [f"{each.importer}:{each.line} imports {each.imported}" for each in found]


def test_the_files_are_found():
    assert len(MODULES) > 200 and len(IMPORTS) > 800


def test_layers_point_one_way():
    """benchmarks -> core <- adapters, encoders; the core imports no plugin, adapters and encoders not each other."""
    allowed = {
        ("benchmarks", "core"),
        ("benchmarks", "adapters"),
        ("benchmarks", "encoders"),
        ("adapters", "core"),
        ("encoders", "core"),
    }
    wrong = (
        each
        for each in IMPORTS
        if (pair := (layer(each.importer), layer(each.imported)))[0] != pair[1] and pair not in allowed
    )
    assert shown(wrong) == []


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count: they hide a circle and do not undo it."""
    uses: dict[str, set[str]] = {}
    for each in IMPORTS:
        uses.setdefault(each.importer, set()).add(each.imported)
    assert circles(uses) == []


def circles(uses: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected parts of more than one module (Tarjan, SIAM J. Comput. 1, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(uses.get(module, ())):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            members = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(members) > 1:
                found.append(sorted(members))

    for module in sorted(uses):
        if module not in index:
            visit(module)
    return found


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_parts_are_private_to_their_folder():
    def owner(module: str) -> str | None:
        head, parts, _ = f"{module}.".partition(".parts.")
        return head if parts else None

    wrong = (
        each for each in IMPORTS if (home := owner(each.imported)) and not f"{each.importer}.".startswith(f"{home}.")
    )
    assert shown(wrong) == []


def test_the_kit_and_the_templates_use_public_contracts_only():
    """What a plugin author may import: contracts of the core, and what docs/plugins.md names of the harness."""
    guide = (CHECKOUT / "docs" / "plugins.md").read_text()
    wrong = (
        each
        for each in IMPORTS
        if each.importer.startswith(("medgraft.testing", "medgraft.scaffold"))
        and layer(each.imported) != "core"
        and each.imported not in guide
    )
    assert shown(wrong) == []


def test_no_room_holds_more_than_one_looks_over():
    counts: dict[str, int] = {}
    for path in MODULES.values():
        if path.name != "__init__.py" and not path.read_text().startswith('"""Earlier name of '):
            room = str(path.parent.relative_to(CHECKOUT))
            counts[room] = counts.get(room, 0) + 1
    assert {room: n for room, n in counts.items() if n > MOST_FILES and room not in OPEN} == {}


@pytest.mark.parametrize(
    "page",
    [*sorted((CHECKOUT / "docs").glob("*.md")), CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md"],
    ids=lambda page: page.name,
)
def test_every_module_that_a_page_names_exists(page):
    text = page.read_text()
    files = set(re.findall(r"(?<![\w/.])((?:src/medgraft|adapters|encoders|benchmarks|tests)/[\w/]+\.py)", text))
    made_up = {name for name in files if Path(name).stem.removeprefix("test_").startswith("my_")}
    assert [name for name in sorted(files - made_up) if not (CHECKOUT / name).is_file()] == []
    commands = set(re.findall(r"python -m (benchmarks[\w.]*)", text))
    assert [name for name in sorted(commands) if f"medgraft.{name}" not in MODULES] == []
