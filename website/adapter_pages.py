"""One page for each built-in adapter, made of what its class says and of what it does on the shipped encoders."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from diagrams import placement, towers_of
from latex2mathml.converter import convert
from measured import Table, rows_of, tables

from medgraft import plugins
from medgraft.adapter.class_prompts import ClassAdapter
from medgraft.adapter.support_adapter import SupportAdapter
from medgraft.encoder import Encoder
from medgraft.errors import IncompatibleError
from medgraft.grafting import graft
from medgraft.options import described
from medgraft.registry import adapter_facts, build_encoder, catalogue, recipe, resolve_adapter

ENCODERS = ("phantom_chest", "phantom_brain", "pixels:2d", "pixels:3d")
"""The encoders that come with the package, on which parameters are counted."""
DRAWN = 5
"""Tables of measured rows on one page; the rest is where they come from."""


class Graft(NamedTuple):
    """What an adapter is on one encoder, or why it is none.

    Attributes:
        encoder: Name of the encoder.
        trainable: Trainable parameters.
        refusal: Why it does not fit; empty where it does.
        picture: SVG of where it sits; empty where it does not fit.
    """

    encoder: str
    trainable: int
    refusal: str
    picture: str


def names() -> list[str]:
    """Names of the built-in adapters; another entry point in ``pyproject.toml`` is another page."""
    return sorted(name for name, plugin in plugins.discover("adapter").items() if plugin.builtin)


@cache
def _encoder(name: str) -> Encoder:
    return build_encoder(name)


@cache
def grafts(name: str) -> list[Graft]:
    """The adapter on each of :data:`ENCODERS`."""
    full = "peft:lora" if name == "peft" else name
    found = []
    for encoder_name in ENCODERS:
        encoder = _encoder(encoder_name)
        try:
            grafted = graft(encoder, full)
        except IncompatibleError as error:
            found.append(Graft(encoder_name, 0, str(error).partition(": ")[2], ""))
            continue
        sites = encoder.sites()
        recorded = {site for hits in grafted.coverage().values() for names in hits.values() for site in names}
        title = f"Where {full} sits on {encoder_name}: {', '.join(sorted(recorded)[:6])}"
        picture = placement(towers_of(sites, recorded), title)
        found.append(Graft(encoder_name, sum(grafted.trainable_count().values()), "", picture))
        grafted.ungraft()
    return found


def page(name: str, docs: Path) -> tuple[str, str]:
    """Markdown of an adapter's page, and the SVG of where it sits (empty where it fits no shipped encoder)."""
    plugin = plugins.discover("adapter")[name]
    cls, facts = plugins.load(plugin), adapter_facts(resolve_adapter(name))
    placed = grafts(name)
    picture = next((each.picture for each in placed if each.picture), "")
    parts = [
        f"# {name}",
        f"**{facts.title}**",
        _where_from(facts.paper, facts.licence, plugin.target),
        *_formula(recipe(cls, "formula", "")),
        *_prose(sys.modules[plugin.target.partition(":")[0]].__doc__ or ""),
        *_prose(cls.__doc__ or ""),
        "## Where it sits",
        *_placed(name, cls, placed, picture),
        "## Options",
        *_options(name, cls),
        "## Training",
        _table(described(type(facts.train), facts.train.model_dump())),
        f"`--set train.{name}.OPTION=VALUE` sets one; the [defaults](../plugins.md#signatures) stand on the class.",
        "## Measured",
        *_measured(name, tables(docs)),
        "## Files",
        *_files(name, cls),
    ]
    return "\n\n".join(part for part in parts if part) + "\n", picture


def overview(docs: Path) -> str:
    """Markdown of the page that lists all adapters."""
    lines = [
        "# Adapters",
        "Every adapter that comes with the package. A page each: where the method is from, its formula, where it sits, "
        "options, parameters on the shipped encoders, measured rows, files. The pages are made from the classes "
        "themselves; `medgraft describe NAME` says the same in a terminal, and says it of adapters that others wrote.",
        "| adapter | what | trainable on `phantom_chest` |\n|---|---|---|",
    ]
    for name in names():
        facts = adapter_facts(resolve_adapter(name))
        cls = plugins.load(plugins.discover("adapter")[name])
        count = _count(cls, grafts(name)[0])
        lines[-1] += f"\n| [{name}]({name}.md) | {_cell(facts.title)} | {count} |"
    return "\n\n".join(lines) + "\n"


def _where_from(paper: str, licence: str, target: str) -> str:
    """The paper with its address, and the class."""
    linked = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)
    module, _, name = target.partition(":")
    source = "../" * 2 + module.removeprefix("medgraft.").replace(".", "/") + ".py"
    lines = [f"Paper: {linked}", f"Code: [`{name}`]({source}), {licence}"]
    return "<br>\n".join(line for line in lines if line)


def _formula(latex: str) -> list[str]:
    """The formula as MathML, which browsers draw without a script; as LaTeX for those who copy it."""
    if not latex:
        return []
    lines = [line.strip() for line in latex.strip().splitlines() if line.strip()]
    drawn = "\n".join(f'<div class="formula">{convert(line, display="block")}</div>' for line in lines)
    return ["## Formula", drawn]


def _prose(docstring: str) -> list[str]:
    """A docstring as Markdown: names in backticks, indented lines as code, sections of programmers left out."""
    text = re.split(r"\n(?:Args|Attributes|Example|Examples|Returns|Raises):\n", inspect.cleandoc(docstring) + "\n")[0]
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).replace("::\n\n", ":\n\n").replace("``", "`")
    return text.strip().split("\n\n")


def _count(cls: type, found: Graft) -> str:
    """Trainable parameters in words."""
    if found.refusal:
        return "-"
    if found.trainable == 0 and issubclass(cls, (SupportAdapter, ClassAdapter)):
        return "0 before it has seen the task's classes"
    return f"{found.trainable:,}"


def _placed(name: str, cls: type, placed: Sequence[Graft], picture: str) -> Iterator[str]:
    """The picture, and parameters on each shipped encoder."""
    where = next((each.encoder for each in placed if each.picture), "")
    if picture:
        yield f"![Where {name} sits on {where}; the sites it records are dark]({name}.svg)"
        yield (
            f"On `{where}`, with default options: dark are the sites that it records, which it reads or changes; a "
            "thick frame is a block as a whole. The rest of the encoder is frozen."
        )
    yield "| encoder | trainable parameters, without the head |\n|---|---|\n" + "\n".join(
        f"| `{each.encoder}` | {_cell(f'does not fit: {each.refusal}' if each.refusal else _count(cls, each))} |"
        for each in placed
        if not (each.refusal and each.encoder.startswith("pixels"))
    )
    yield _facts(cls)


def _facts(cls: type) -> str:
    """What a class says of a fresh graft and of merging."""
    start = "changes nothing" if cls.identity_at_init is True else "differs from the encoder"
    merged = "its change can be merged into the encoder's weights" if cls.mergeable else "it cannot be merged"
    return f"A fresh graft {start}; {merged}."


def _options(name: str, cls: type) -> Iterator[str]:
    entry = catalogue().adapters.get(name)
    options = described(cls.Config, entry.defaults if entry else None)
    if not options:
        yield "None."
        return
    yield _table(options)
    yield f'`--set {name}.OPTION=VALUE` sets one, in Python `graft(encoder, "{name}", OPTION=VALUE)`.'


def _table(options: Sequence[Any]) -> str:
    head = "| option | type | default | allowed | meaning |\n|---|---|---|---|---|"
    rows = [
        [f"`{each.name}`", _cell(each.kind), _code(each.default), _cell(each.allowed), _cell(each.meaning)]
        for each in options
    ]
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(text: str) -> str:
    """Text that a cell of a Markdown table shows as it is."""
    line = " ".join(text.split()).replace("``", "`")
    return line.replace("|", "\\|") if "`" in line else re.sub(r"([|*_<>\[\]])", r"\\\1", line)


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def _measured(name: str, found: Mapping[str, Sequence[Table]]) -> Iterator[str]:
    """Rows of the tables in ``docs`` that are of this adapter, each under its task."""
    shown = 0
    others: list[str] = []
    for source, several in found.items():
        for table in several:
            rows = rows_of(table, name)
            if not rows:
                continue
            if shown == DRAWN:
                others.append(f"[{source}](../{source}#{table.anchor})")
                continue
            shown += 1
            yield f"{table.heading}, from [{source}](../{source}#{table.anchor}):"
            yield "\n".join(["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|", *rows])
    if others:
        yield f"Further rows: {', '.join(dict.fromkeys(others))}."
    if not shown:
        yield f"No row yet. `medgraft run --adapters {name}` makes one on the phantoms."
    else:
        yield "Intervals are 95%; what they hold and what a phantom row means: [results](../results.md)."


def _files(name: str, cls: type) -> Iterator[str]:
    """Which files a graft of it is written to and read from."""
    lines = [
        "its own folder (`adapter_config.json`, `adapter_model.safetensors`): `Grafted.save`, `medgraft.load_graft`",
        "the kept graft of a sweep, `KEY.adapter` (`medgraft run --keep`): `medgraft predict`, `medgraft.load`",
        *recipe(cls, "formats", ()),
    ]
    if hasattr(cls, "import_file"):
        lines.append(f"the file of its authors: `medgraft import {name} FILE --out FOLDER`")
    if hasattr(cls, "export_file"):
        lines.append(f"the same, written: `medgraft export FOLDER --format {name} --out FILE`")
    yield "\n".join(f"- {line}" for line in lines)
    if cls.export_refusal:
        yield f"It is not exported for other programs: {cls.export_refusal}."
