"""The model card beside a saved adapter: what it is, what it fits, how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medgraft.checkpoints.weights import UNRECORDED
from medgraft.registry import recipe

if TYPE_CHECKING:
    from medgraft.grafting import Grafted

CARD_NAME = "README.md"
MARK = "<!-- written by medgraft; remove this line to keep your own text -->"


def write_card(grafted: Grafted, config: dict[str, Any], folder: Path) -> None:
    """Writes ``README.md``, unless the folder has one that a person wrote.

    Args:
        grafted: What was saved.
        config: Content of ``adapter_config.json``.
        folder: The adapter's folder.
    """
    path = folder / CARD_NAME
    if path.exists() and MARK not in path.read_text(errors="replace"):
        return
    path.write_text(render(grafted, config))


def render(grafted: Grafted, config: dict[str, Any]) -> str:
    """The card's text."""
    base, names = config["base_encoder"], list(config["adapters"])
    front = {"library_name": "medgraft", "base_model": base["name"], "tags": ["medgraft", "adapter", *names]}
    counts = grafted.trainable_count()
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "", MARK, ""]
    lines += [f"# {' + '.join(names)} on {base['name']}", ""]
    lines += ["| part | plugin | trainable | options |", "|---|---|---|---|"]
    for name, stored in config["adapters"].items():
        options = json.dumps(stored["config"], sort_keys=True)
        count = counts.get(name)
        lines.append(f"| {name} | `{stored['class']}` | {'-' if count is None else f'{count:,}'} | `{options}` |")
    if "head" in counts:
        lines.append(f"| head | `{config['head']}` | {counts['head']:,} | |")
    recorded = config["base_digest"] != UNRECORDED
    checked = "checked when the adapter is loaded" if recorded else "they are not checked when the adapter is loaded"
    lines += ["", f"Base weights: `{config['base_digest']}` ({checked})."]
    lines += [f"Licence of the base encoder: {base.get('licence') or 'unknown'}."]
    for name in config["adapters"]:
        if paper := recipe(type(grafted.adapters[name]), "paper", ""):
            lines.append(f"Method: {paper}.")
    lines += ["", "```python", "from medgraft import load_graft", ""]
    lines += [f'grafted = load_graft("path/to/this/folder", encoder="{base["name"]}")', "```", ""]
    return "\n".join(lines)
