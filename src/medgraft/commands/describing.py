"""``medgraft describe``: what a plugin is, its options as a table, and where an adapter attaches."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from medgraft import plugins
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.options import Option, described, in_words
from medgraft.registry import adapter_facts, build_encoder, catalogue, resolve_adapter
from medgraft.task.names import current_name, task_class, task_facts, variants_of

if TYPE_CHECKING:
    from rich.console import Console

    from medgraft.plugins import Kind, Plugin
    from medgraft.task import Task


def describe_plugin(console: Console, name: str, encoder: str | None = None, *, sites: bool = False) -> None:
    """Prints what is known of a plugin; imports that one only.

    Args:
        console: Where to.
        name: An adapter (also ``peft:vera``), a task, a source of encoders or an encoder of one.
        encoder: Where the adapter attaches on this encoder.
        sites: Draw the sites of the encoder that the name stands for.

    Raises:
        UnknownNameError: No plugin has the name.
        ConfigError: ``sites`` are asked of what is no encoder.
    """
    name = current_name(name)
    kind, plugin = _plugin_named(name)
    if sites and kind != "encoder":
        raise ConfigError(f"--sites draws encoders, and {name!r} is an {kind}; name one, such as embedded:chest")
    obj: Any = plugins.load(plugin) if kind != "task" or name == plugin.name else task_class(name)
    title = name if kind == "task" else plugin.name
    console.print(f"[bold]{title}[/bold]  {kind}, {plugin.target}, {plugin.distribution} {plugin.version}")
    text = obj.__doc__ or sys.modules[plugin.target.partition(":")[0]].__doc__ or ""
    console.print(in_paragraphs(text), markup=False, highlight=False)
    if kind == "adapter":
        _describe_adapter(console, name, encoder)
    elif kind == "encoder":
        for model, line in obj.models().items():
            console.print(f"  {plugin.name}:{model}  {line}", markup=False)
        _show_options(console, options_of_source(obj), f"--set {plugin.name}.OPTION=VALUE")
        if sites or "@" in name:
            _describe_encoder(console, name, sites=sites)
    elif kind == "task":
        _describe_task(console, name, obj)
    elif kind == "cohort":
        _show_options(console, described(obj.Config), f"medgraft cohort {name} --OPTION VALUE")
    elif kind == "launcher":
        console.print(f"here: {obj.missing() or 'ready'}", markup=False, highlight=False)
        _show_options(console, described(obj.Config), f"--set {plugin.name}.OPTION=VALUE")


def _describe_encoder(console: Console, name: str, *, sites: bool) -> None:
    """Builds an encoder: its facts, what of a file went into it, and its sites where they are asked for."""
    encoder = build_encoder(name)
    for fact, value in encoder.spec.model_dump().items():
        console.print(f"{fact}: {value}", markup=False, highlight=False)
    for matched in encoder.loaded:
        console.print(f"loaded {matched}", markup=False, highlight=False, soft_wrap=True)
    if sites:
        from medgraft.commands.site_picture import picture

        console.print(picture(encoder), markup=False, highlight=False, soft_wrap=True)


def _describe_task(console: Console, name: str, cls: type[Task]) -> None:
    facts = task_facts(name)
    console.print(f"title: {facts.title}", markup=False)
    if facts.tags:
        console.print(f"tags: {', '.join(facts.tags)}", markup=False)
    for variant in variants_of(name):
        console.print(f"  {variant}  {task_facts(variant).title}", markup=False, highlight=False)
    _show_options(console, described(cls.Config), f"--set {name}.OPTION=VALUE")


def _plugin_named(name: str) -> tuple[Kind, Plugin]:
    base = name.partition("@")[0]
    alias = catalogue().encoders.aliases.get(base)
    source = (alias.name if alias else base).partition(":")[0]
    for kind in plugins.GROUPS:
        registered = plugins.discover(kind)
        full = {f"{plugin.distribution}:{each}": plugin for each, plugin in registered.items()}
        if (plugin := registered.get(name) or full.get(name) or registered.get(source)) is not None:
            return kind, plugin
    everything = [each for kind in plugins.GROUPS for each in plugins.discover(kind)]
    raise UnknownNameError("plugin", name, [*everything, *catalogue().encoders.aliases])


def options_of_source(source: Any) -> list[Option]:
    """Options of a source of encoders; none for most, whose models' names say all there is."""
    config = getattr(source, "Config", None)
    return [] if config is None else described(config)


def _describe_adapter(console: Console, name: str, encoder: str | None) -> None:
    parsed = resolve_adapter(name)
    facts = adapter_facts(parsed)
    entry = catalogue().adapters.get(parsed.plugin.name) if parsed.plugin.builtin else None
    lines = [f"{name}: {text}" for name, text in facts.to_dict().items()]
    if entry is not None and entry.tasks:
        lines.append(f"default tasks: {', '.join(entry.tasks)}")
    console.print("\n".join(lines), markup=False)
    cls = plugins.load(parsed.plugin)
    options = described(cls.Config, entry.defaults if entry else None)
    if parsed.variant is not None and cls.variant_field is not None:
        fixed = f"the name says it: {parsed.variant}"
        chosen = {"default": parsed.variant, "allowed": fixed}
        options = [each._replace(**chosen) if each.name == cls.variant_field else each for each in options]
    _show_options(console, [*options, *cls.variant_options(parsed.variant)], f"--set {name}.OPTION=VALUE")
    _show_recipe(console, name, facts.train)
    if encoder is not None:
        _coverage(console, name, encoder)


def _show_options(console: Console, options: Sequence[Option], setting: str) -> None:
    if not options:
        console.print("options: none", markup=False)
        return
    console.print(f"options ({setting}):", markup=False, highlight=False)
    console.print(table_of(options))


def _show_recipe(console: Console, name: str, train: BaseModel) -> None:
    console.print(f"training (--set train.{name}.OPTION=VALUE):", markup=False, highlight=False)
    console.print(table_of(described(type(train), train.model_dump())))


def table_of(options: Sequence[Option]) -> Any:
    """The options as a table for the terminal."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table("option", "type", "default", "allowed", "meaning", box=SIMPLE, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[4].ratio = 1
    for option in options:
        table.add_row(*(Text(text) for text in option))
    return table


def in_paragraphs(docstring: str) -> str:
    """A docstring for the terminal: its paragraphs without markup, sections of programmers left out."""
    text = inspect.cleandoc(docstring)
    text = re.split(r"\n(?:Args|Attributes|Example|Examples|Returns|Raises):\n", f"{text}\n")[0]
    return "\n\n".join(in_words(part) if not part.startswith("- ") else _items(part) for part in text.split("\n\n"))


def _items(part: str) -> str:
    return "\n".join(in_words(item) for item in re.split(r"\n(?=- )", part))


def _coverage(console: Console, name: str, encoder: str) -> None:
    from medgraft.grafting import graft

    grafted = graft(encoder, name)
    for adapter, patterns in grafted.coverage().items():
        for pattern, sites in patterns.items():
            console.print(f"{adapter}: {pattern} hits {len(sites)} sites: {', '.join(sites[:6])}", markup=False)
    for part, trainable in grafted.trainable_count().items():
        console.print(f"{part}: {trainable:,} trainable parameters", markup=False)
        for indent, inner, count in _decomposed(grafted.adapters[part]):
            console.print(f"{'  ' * indent}{inner}: {count:,}", markup=False)


def _decomposed(adapter: Any) -> list[tuple[int, str, int]]:
    """Trainable numbers of an adapter's parts and of each tower in them: (depth, name, count); none for one part."""
    parts: dict[str, dict[str, int]] = {}
    for name, parameter in sorted(adapter.named_parameters(), key=lambda item: "." not in item[0]):
        if parameter.requires_grad:
            inner = parts.setdefault(name.partition(".")[0], {})
            tower = next((each for each in plugins.discover("modality") if each in re.split(r"[./]", name)), "")
            inner[tower] = inner.get(tower, 0) + parameter.numel()
    if len(parts) < 2:
        return []
    lines: list[tuple[int, str, int]] = []
    for name, towers in parts.items():
        lines.append((1, name, sum(towers.values())))
        lines += [(2, tower, count) for tower, count in towers.items() if tower]
    return lines
