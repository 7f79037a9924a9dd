"""``docs/architecture.svg`` and the table of rooms in ``docs/architecture.md``, made from the imports.

``python -m benchmarks.audit.architecture`` writes both; a test says when they are no longer what the code is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "medgraft": "src/medgraft",
    "medgraft.adapters": "adapters",
    "medgraft.encoders": "encoders",
    "medgraft.benchmarks": "benchmarks",
}
CONTRACTS = "contracts"
"""Name of the room that the modules directly in ``src/medgraft`` are, with those of one contract in a folder."""
CONTRACT_FOLDERS = {"adapter", "encoder", "grafting", "metric", "plugins", "task", "typed"}

ROWS: dict[str, tuple[tuple[str, ...], ...]] = {
    "benchmarks": (
        ("commands", "audit", "gpu", "simulate", "pretrain"),
        ("site", "sharing", "speed"),
        ("sweep", "tuning", "launch", "export", "predict"),
        ("suite", "board", "kernels", "schedule", "mirror"),
        ("explain", "watch"),
        ("cell", "external", "fairness", "measure", "prepare"),
        ("results", "training", "prefix_cache", "tasks"),
        ("calibration", "statistics"),
        ("objectives", "cohorts", "phantoms", "figures"),
        ("texts", "metrics", "storage"),
    ),
    "plugins": (("adapters", "adapters/parts", "adapters/kernels", "encoders", "encoders/parts"),),
    "core": (
        ("testing", "scaffold", "commands of the core", "suites"),
        ("checkpoints", "attachment"),
        (CONTRACTS, "modalities", "fast", "ops", "files"),
    ),
}
"""Bands of the picture, each a few rows of rooms; imports point down."""

WIDTH, BOX, HEIGHT, GAP = 1000, 168, 34, 46
START, END = "<!-- rooms: python -m benchmarks.audit.architecture -->", "<!-- end of rooms -->"


def modules() -> dict[str, Path]:
    """Dotted name of every module -> its file."""
    named = {}
    for package, folder in FOLDERS.items():
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(CHECKOUT / folder).with_suffix("").parts]
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def room_of(path: Path) -> str:
    """The room that a file lies in; empty for the root of the harness, which only starts commands.

    Example:
        >>> room_of(CHECKOUT / "adapters/kernels/moe/op.py"), room_of(CHECKOUT / "src/medgraft/task/base.py")
        ('adapters/kernels', 'contracts')
    """
    parts = path.relative_to(CHECKOUT).parts[:-1]
    if parts[0] == "benchmarks":
        return parts[1] if len(parts) > 1 else ""
    if parts[0] != "src":
        return "/".join(parts[:2])
    inner = parts[2] if len(parts) > 2 else CONTRACTS
    if inner in CONTRACT_FOLDERS:
        return CONTRACTS
    return "commands of the core" if inner == "commands" else inner


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that code imports, at its top or in a function; those for types alone are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def edges() -> set[tuple[str, str]]:
    """Each room with each room that it imports from, lazy imports too.

    How often is left out: the page would then change with every import that anyone adds or drops.
    """
    named, pairs = modules(), set[tuple[str, str]]()
    for path in named.values():
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            while name and name not in named:
                name = name.rpartition(".")[0]
            if name and (pair := (room_of(path), room_of(named[name])))[0] != pair[1] and all(pair):
                pairs.add(pair)
    return pairs


def places() -> dict[str, tuple[float, float]]:
    """Room -> the middle of its box in the picture."""
    middle, y = {}, 40.0
    for rows in ROWS.values():
        for row in rows:
            step = WIDTH / len(row)
            middle |= {room: (step * (i + 0.5), y) for i, room in enumerate(row)}
            y += HEIGHT + GAP
        y += 26
    return middle


def picture(pairs: Collection[tuple[str, str]]) -> str:
    """The rooms as boxes in three bands, and a line from each room to those that it imports from.

    Lines to the contracts are left out.
    """
    middle = places()
    height = max(y for _, y in middle.values()) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" '
        'role="img" aria-labelledby="title-rooms desc-rooms">',
        '<title id="title-rooms">Rooms of the code and which imports which</title>',
        '<desc id="desc-rooms">Three bands of boxes: the harness above the plugins above the core; lines lead down '
        "from each room to those that it imports from. The table below the picture says the same in words.</desc>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
    ]
    for band, rows in ROWS.items():
        top = middle[rows[0][0]][1] - 32
        bottom = middle[rows[-1][0]][1] + 26
        tall = f'y="{top:.0f}" height="{bottom - top:.0f}"'
        lines.append(f'<rect x="4" {tall} width="{WIDTH - 8}" fill="#f3f5f9" rx="8"/>')
        lines.append(f'<text x="12" y="{top + 13:.0f}" font-size="12" fill="#667">{band}</text>')
    for a, b in sorted(pairs):
        if b == CONTRACTS:
            continue  # nearly every room imports those, and nothing else would be seen
        (x1, y1), (x2, y2) = middle[a], middle[b]
        bend = (y1 + y2) / 2
        lines.append(
            f'<path d="M {x1:.0f} {y1:.0f} C {x1:.0f} {bend:.0f} {x2:.0f} {bend:.0f} {x2:.0f} {y2:.0f}" fill="none" '
            f'stroke="#5b7db1" stroke-opacity="0.35" stroke-width="1.4"><title>{a} imports {b}</title></path>'
        )
    for room, (x, y) in middle.items():
        lines.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" rx="5" fill="white" '
            'stroke="#345"/>'
        )
        lines.append(f'<text x="{x:.0f}" y="{y + 5:.0f}" font-size="14" text-anchor="middle" fill="#123">{room}</text>')
    return "\n".join([*lines, "</svg>", ""])


def table(pairs: Collection[tuple[str, str]]) -> str:
    """One line of Markdown for each room: from which others it imports, in the picture's order."""
    lines = ["| room | imports from |", "|---|---|"]
    for room in places():
        targets = [other for other in places() if (room, other) in pairs]
        lines.append(f"| {room} | {', '.join(targets) or 'nothing'} |")
    return "\n".join(lines)


def page(text: str, pairs: Collection[tuple[str, str]]) -> str:
    """The page with the table of rooms in its place."""
    inner = f"{START}\n\n{table(pairs)}\n\n{END}"
    return re.sub(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: inner, text, flags=re.DOTALL)


def main() -> None:
    """Writes the picture and the table."""
    docs, pairs = CHECKOUT / "docs", edges()
    (docs / "architecture.svg").write_text(picture(pairs), encoding="utf-8")
    path = docs / "architecture.md"
    path.write_text(page(path.read_text(encoding="utf-8"), pairs), encoding="utf-8")


if __name__ == "__main__":
    main()
