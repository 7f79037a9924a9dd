"""Names of tasks: ``family``, ``family:variant``, groups (``family:*``, ``tag:word``) and names of earlier releases."""

from __future__ import annotations

import copy
import functools
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError, create_model

from medgraft import plugins
from medgraft.errors import ConfigError, MedgraftError, PluginError, UnknownNameError
from medgraft.options import checked, readable
from medgraft.registry import TaskEntry, catalogue
from medgraft.task import Task, TaskConfig, Variant
from medgraft.typed.values import is_a

logger = logging.getLogger(__name__)

TAG = "tag:"
"""What a group of tasks with one tag begins with."""
ALL_VARIANTS = ":*"
"""What a group of all variants of one task ends with."""
NAME = r"[A-Za-z0-9][\w.-]{0,63}"
"""Names that users may give to tasks of theirs."""


class TaskName(NamedTuple):
    """A parsed task name: the plugin, and the variant of a family (``adni_image:ad_cn``)."""

    full: str
    plugin: plugins.Plugin
    variant: str | None


@functools.cache
def former_names() -> Mapping[str, str]:
    """Names that tasks had in earlier releases -> their names now."""
    return {entry.formerly: name for name, entry in catalogue().tasks.items() if entry.formerly}


@functools.cache
def _note(former: str, current: str) -> None:
    """Tells once per process that a name was replaced."""
    logger.warning("task %r is now called %r; the old name still works, and its results are read", former, current)


def current_name(name: str) -> str:
    """The name of a task now; names of earlier releases are replaced, with one logged note each.

    Example:
        >>> current_name("rsna")
        'rsna'
    """
    current = former_names().get(name)
    if current is None:
        return name
    _note(name, current)
    return current


def name_in_keys(name: str) -> str:
    """The name by which keys of results tell a task, which stays what it was when the task is given another name.

    Example:
        >>> name_in_keys("adni_image:ad_cn"), name_in_keys("adni_image")
        ('adni_ad_cn', 'adni_image')
    """
    entry = catalogue().tasks.get(name)
    return entry.formerly if entry is not None and entry.formerly else name


def resolve_task(name: str) -> TaskName:
    """Finds the plugin of a task name; imports it only where the name has a variant.

    Raises:
        UnknownNameError: No task, or no variant of the task, has the name; near names are suggested.
        ConfigError: It is a group of tasks.
        PluginError: The task of a variant cannot be loaded.
    """
    name = current_name(name)
    family, colon, variant = name.rpartition(":")
    try:
        return TaskName(name, plugins.find("task", name), None)
    except UnknownNameError:
        if not colon:
            raise
    if family == TAG.rstrip(":") or variant == "*":
        raise ConfigError(f"{name!r} is a group of tasks; name one of them: {', '.join(_expanded(name))}")
    plugin = plugins.find("task", family)
    cls: type[Task] = plugins.load(plugin)
    variants = _declared(cls)
    if variant not in variants and not (cls.takes_names and re.fullmatch(NAME, variant)):
        remedy = "" if variants else f"task {plugin.name!r} has no variants."
        raise UnknownNameError(f"{plugin.name} variant", variant, variants, remedy)
    return TaskName(name, plugin, variant)


def is_task(name: str, *, strict: bool = False) -> bool:
    """Whether a task, a variant of one or a name of an earlier release is meant.

    Args:
        name: The name.
        strict: An unknown variant of a task is an error.

    Raises:
        UnknownNameError: An unknown variant of a task is an error, and this is one.
    """
    try:
        resolve_task(name)
    except UnknownNameError:
        if strict and ":" in name and is_task(name.rpartition(":")[0]):
            raise
        return False
    return True


def task_class(name: str) -> type[Task]:
    """Imports a task plugin; of a variant, the class with the variant's defaults.

    Raises:
        UnknownNameError: No such task or variant.
        PluginError: It cannot be loaded, or a variant does not fit the task's options.
    """
    parsed = resolve_task(name)
    cls = plugins.load(parsed.plugin)
    return cls if parsed.variant is None else variant_class(cls, parsed.variant)


def build_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Builds a task with its options.

    Raises:
        UnknownNameError: No such task.
        ConfigError: An option does not exist or has a value out of range.
    """
    cls = task_class(name)
    return cls(checked(cls.Config, options or {}, f"options of task {current_name(name)!r}"))


def _declared(cls: type[Task]) -> Mapping[str, Variant]:
    """The variants of a task class, which may be a foreign one's and anything."""
    variants: Any = cls.variants
    if not is_a(variants, Mapping):
        raise PluginError(f"variants of task class {cls.__name__} are {variants!r}; make it a dictionary of names")
    for name, variant in variants.items():
        if not isinstance(variant, Variant):
            what = f"variant {name!r} of task class {cls.__name__}"
            raise PluginError(f"{what} is {variant!r}; make it a medgraft.task.Variant")
    return variants


@functools.cache
def variant_class(cls: type[Task], name: str) -> type[Task]:
    """The class of a variant: its family's, with the variant's defaults in place of the family's.

    Raises:
        PluginError: The variant sets an option that the family does not have, or to a value out of range.
    """
    what = f"variant {name!r} of task class {cls.__name__}"
    named = Variant(cohort=f"{cls.cohort}:{name}")  # by a user, where the class allows it
    variant = _declared(cls).get(name, named) if cls.takes_names else _declared(cls)[name]
    facts: dict[str, Any] = {
        "__module__": cls.__module__,
        "__doc__": variant.title or cls.__doc__,
        "Config": _config(cls, variant, what),
        "variants": {},
        "tags": tuple(dict.fromkeys([*cls.tags, *variant.tags])),
    }
    replaced = {name: getattr(variant, name) for name in ("inputs", "cohort", "primary", "objective")}
    facts |= {name: value for name, value in replaced.items() if value is not None}
    return type(f"{cls.__name__}_{name}", (cls,), facts)


def _config(cls: type[Task], variant: Variant, what: str) -> type[TaskConfig]:
    """The family's options with other defaults; a default that the options refuse is a mistake of the author's."""
    fields: dict[str, Any] = {}
    for option, value in variant.defaults.items():
        if option not in cls.Config.model_fields:
            options = ", ".join(cls.Config.model_fields) or "none"
            raise PluginError(f"{what} sets {option!r}, which is none of the task's options: {options}")
        info = copy.copy(cls.Config.model_fields[option])
        info.default, info.default_factory = value, None
        fields[option] = (info.annotation, info)
    config = create_model("Config", __base__=cls.Config, __module__=cls.__module__, **fields)
    try:
        config.model_validate(dict(variant.defaults))
    except ValidationError as error:
        if any(item["type"] != "missing" for item in error.errors()):
            raise PluginError(f"{what} has a default that its options refuse: {readable(error)}") from error
    return config


def task_facts(name: str) -> TaskEntry:
    """What is known of a task besides its code: the catalogue's entry of a built-in one, what a foreign class says.

    Raises:
        UnknownNameError: No such task or variant.
        PluginError: A foreign task cannot be loaded.
    """
    name = current_name(name)
    if (entry := catalogue().tasks.get(name)) is not None:
        return entry
    parsed = resolve_task(name)
    cls = task_class(name)
    doc = (cls.__doc__ or "").strip().partition("\n")[0]  # of a variant, its title
    return TaskEntry(title=doc or parsed.full, encoders=(), tags=cls.tags)


def variants_of(name: str) -> tuple[str, ...]:
    """Full names of the variants of a task, in the order in which its class declares them; imports the task.

    Raises:
        UnknownNameError: No such task.
    """
    parsed = resolve_task(name)
    return tuple(f"{parsed.full}:{variant}" for variant in _declared(task_class(name)))


def every_task() -> tuple[str, ...]:
    """All tasks that load, each followed by its variants; what does not load is warned of and left out."""
    names: list[str] = []
    for task in plugins.discover("task"):
        try:
            names.append(task)
            for variant in variants_of(task):
                task_class(variant)
                names.append(variant)
        except PluginError as error:
            logger.warning("left out of the choice of tasks: %s", error)
            names = [name for name in names if name.partition(":")[0] != task]
    return tuple(names)


def expand_tasks(names: Iterable[str]) -> tuple[str, ...]:
    """Task names for names and groups, each once: ``chest_prompts:*`` are variants, ``tag:few_shot`` all with a tag.

    Raises:
        UnknownNameError: A group is of no task, or no task has the tag.
        ConfigError: A task has no variants.
    """
    chosen: dict[str, None] = {}
    for name in names:
        chosen.update(dict.fromkeys(_expanded(name)))
    return tuple(chosen)


def _expanded(name: str) -> tuple[str, ...]:
    if name.endswith(ALL_VARIANTS):
        variants = variants_of(name.removesuffix(ALL_VARIANTS))
        if not variants:
            raise ConfigError(f"task group {name!r}: the task has no variants; name it without {ALL_VARIANTS}")
        return variants
    if name.startswith(TAG) and TAG.rstrip(":") not in plugins.discover("task"):
        tagged = {task: task_facts(task).tags for task in every_task()}
        tag = name.removeprefix(TAG)
        if chosen := tuple(task for task, tags in tagged.items() if tag in tags):
            return chosen
        raise UnknownNameError("tag of tasks", tag, {each for tags in tagged.values() for each in tags})
    return (current_name(name),)


def expand_where_known(names: Iterable[str]) -> tuple[str, ...]:
    """The same; a name that is unknown stays as it is, for a better error later."""
    chosen: dict[str, None] = {}
    for name in names:
        try:
            chosen.update(dict.fromkeys(_expanded(name)))
        except MedgraftError:
            chosen[name] = None
    return tuple(chosen)
