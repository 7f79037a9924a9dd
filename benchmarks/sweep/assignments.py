"""Options on the command line: ``--set lora.rank=4`` for adapters, tasks, encoder sources, launchers and training.

A value is read as what the option is declared to be, so ``lora.targets=q,v`` is a list and ``peft:vera.method=4`` a
text. What is set here wins over the ``--config`` file, and that over the preset and the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from medgraft import plugins, registry
from medgraft.errors import ConfigError, UnknownNameError, nearest
from medgraft.launcher import launcher_class
from medgraft.options import from_text, plain
from medgraft.registry import TrainDefaults, adapter_class, resolve_adapter
from medgraft.task.names import is_task, task_class

TRAIN = "train"
FORM = "write NAME.OPTION=VALUE, for example lora.rank=4, or train.lr=1e-3 for every adapter that trains"
STARTS = re.compile(r"\s*[\w:+./*-]+\.\w+\s*=")
"""What a part of a comma-separated text looks like where a new assignment begins and no value goes on."""


@dataclass
class Assignments:
    """What ``--set`` asks for.

    Attributes:
        options: Adapter, task or launcher -> option -> value.
        train: Adapter -> hyper-parameter -> value.
        every: Hyper-parameter -> value, for every adapter that trains.
        encoders: Source of encoders -> option -> value.
    """

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    train: dict[str, dict[str, Any]] = field(default_factory=dict)
    every: dict[str, Any] = field(default_factory=dict)
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict)


def split_assignments(items: Iterable[str]) -> list[tuple[str, str]]:
    """Names and values; commas separate assignments, and the items of a list where no new one begins.

    Example:
        >>> split_assignments(["lora.rank=4,lora.targets=q,v", "train.lr=1e-3"])
        [('lora.rank', '4'), ('lora.targets', 'q,v'), ('train.lr', '1e-3')]

    Raises:
        ConfigError: One is not of the form NAME.OPTION=VALUE, or a name stands there twice.
    """
    pairs: list[list[str]] = []
    for item in items:
        first = True
        for part in item.split(","):
            if first or STARTS.match(part):
                name, sign, value = part.partition("=")
                if not sign or "." not in name or not all(piece.strip() for piece in name.split(".")):
                    raise ConfigError(f"--set {item!r}: {part!r} is no option; {FORM}")
                pairs.append([name.strip(), value])
            else:
                pairs[-1][1] += f",{part}"
            first = False
    names = [name for name, _ in pairs]
    for name, value in pairs:
        if not value.strip():
            raise ConfigError(f"--set {name}= has no value; {FORM}")
        if names.count(name) > 1:
            raise ConfigError(f"--set {name} is given {names.count(name)} times; give it once")
    return [(name, value) for name, value in pairs]


def read_assignments(items: Iterable[str]) -> Assignments:
    """What ``--set`` asks for; imports the plugins whose options are set.

    Raises:
        ConfigError: One is malformed, or there is no such option; a value out of range is found when it is used.
        UnknownNameError: There is no such adapter, task, source of encoders or launcher.
    """
    assignments = Assignments()
    for name, text in split_assignments(items):
        scope, rest = _scope(name, lambda each: each == TRAIN or _is_name(each))
        if scope == TRAIN:
            adapter, option = _scope(rest, _is_adapter) if "." in rest else ("", rest)
            value = _value(TrainDefaults, [option], text, f"training options{f' of {adapter!r}' if adapter else ''}")
            (assignments.train.setdefault(adapter, {}) if adapter else assignments.every)[option] = value
            continue
        kind, config = _config(scope)
        path = rest.split(".")
        table = (assignments.encoders if kind == "encoder" else assignments.options).setdefault(scope, {})
        value = _value(config, path, text, f"options of {kind} {scope!r}")
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value
    return assignments


def _scope(name: str, is_known: Callable[[str], bool]) -> tuple[str, str]:
    """The longest known name in front of a dotted one, and the rest."""
    places = [match.start() for match in re.finditer(r"\.", name)]
    for place in reversed(places):
        if is_known(name[:place]):
            return name[:place], name[place + 1 :]
    first = name.partition(".")[0]
    is_task(first, strict=True)  # raises for an unknown variant of a task, with the variants that there are
    everything = [TRAIN, *(each for kind in plugins.GROUPS for each in plugins.discover(kind))]
    raise UnknownNameError("adapter, task, encoder source or launcher in --set", first, everything)


def _is_name(name: str) -> bool:
    return _is_adapter(name) or is_task(name) or any(name in plugins.discover(kind) for kind in ("encoder", "launcher"))


def _is_adapter(name: str) -> bool:
    try:
        adapters = [resolve_adapter(part.strip()) for part in name.split("+")]
    except UnknownNameError:
        return False
    return not any("." in (each.variant or "") for each in adapters)  # what follows the dot is an option


def _config(scope: str) -> tuple[str, type[BaseModel]]:
    """Kind of a name, and the class that declares its options."""
    if _is_adapter(scope):
        if "+" in scope:
            raise ConfigError(f"--set {scope}: options go by the parts of a composed adapter; write {_parts(scope)}")
        return "adapter", adapter_class(resolve_adapter(scope)).Config
    if is_task(scope):
        return "task", task_class(scope).Config
    if scope in plugins.discover("launcher"):
        return "launcher", launcher_class(scope).Config
    source = plugins.load(plugins.find("encoder", scope))
    config = getattr(source, "Config", None)
    if config is None or not callable(getattr(source, "with_options", None)):
        raise ConfigError(f"--set {scope}: this source of encoders has no options; a model's name says all there is")
    return "encoder", config


def _parts(composed: str) -> str:
    return " and ".join(f"{part.strip()}.OPTION=VALUE" for part in composed.split("+"))


def _value(config: type[BaseModel], path: list[str], text: str, what: str) -> Any:
    """A text as the value of an option; behind the first dot lie the entries of a table, which no type declares."""
    fields = config.model_fields
    if path[0] not in fields:
        tables = [name for name, info in fields.items() if _is_table(info.annotation)]
        inside = f"{tables[0]}.{path[0]}" if tables else ""
        near = nearest(path[0], fields)
        hint = f"; did you mean {near}?" if near else f"; for an entry of its table write {inside}" if inside else ""
        raise ConfigError(f"{what}: {path[0]}: no such option{hint}; its options are: {', '.join(fields) or 'none'}")
    if len(path) == 1:
        return from_text(fields[path[0]].annotation, text)
    if not _is_table(fields[path[0]].annotation):
        raise ConfigError(f"{what}: {path[0]} is no table, so {'.'.join(path)} is no option")
    return plain(text)


def _is_table(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", annotation) is dict


def with_encoder_options(names: Iterable[str], options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Encoder names with the options of their sources in them.

    Raises:
        ConfigError: A source has options, and none of the encoders is of it; or a value is out of range.
    """
    from medgraft.registry import resolve_encoder

    names, used = list(names), set()
    for place, name in enumerate(names):
        parsed = resolve_encoder(name)
        source_options = options.get(parsed.plugin.name)
        if source_options:
            used.add(parsed.plugin.name)
            model = plugins.load(parsed.plugin).with_options(parsed.model, source_options)
            weights = "" if parsed.weights == "default" else f"@{parsed.weights}"
            names[place] = f"{parsed.plugin.name}:{model}{weights}"
    if unused := sorted(set(options) - used):
        raise ConfigError(f"--set {unused[0]}: no encoder of the sweep is of that source; name one with --encoders")
    return names


def canonical_encoder(name: str) -> str:
    """One name for the names of one encoder: the catalogue's short one where there is one.

    Example:
        >>> canonical_encoder("embedded:chest"), canonical_encoder("phantom_chest@default")
        ('phantom_chest', 'phantom_chest')
    """
    from medgraft.registry import resolve_encoder

    parsed = resolve_encoder(name)
    weights = "" if parsed.weights == "default" else f"@{parsed.weights}"
    full = f"{parsed.plugin.name}:{parsed.model}"
    base_name, aliases = name.partition("@")[0], registry.catalogue().encoders.aliases
    digests = {aliases[base_name].sha256} if base_name in aliases else {entry.sha256 for entry in aliases.values()}
    short = [alias for alias, entry in aliases.items() if entry.name == full and entry.sha256 in digests]
    return f"{short[0] if short else full}{weights}"
