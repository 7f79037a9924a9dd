"""The lists of checks, one function per kind of plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgraft.errors import ConfigError
from medgraft.testing.check import Check, bind

if TYPE_CHECKING:
    from medgraft.adapter import Adapter
    from medgraft.encoder import Encoder
    from medgraft.task import Task


def check_adapter(
    adapter: type[Adapter] | str, *, encoders: Mapping[str, Callable[[], Encoder]] | None = None, **config: Any
) -> list[Check]:
    """The checks of an adapter; about ten seconds on one CPU core.

    Args:
        adapter: A subclass of :class:`medgraft.Adapter`, or a registered name (``"lora"``, ``"peft:ia3"``,
            ``"lora+ace_hgnn"``).
        encoders: Name -> builder of the encoders to check on; ``None`` takes the kit's own tiny ones. Give it for an
            adapter that fits none of them. Each is built many times and must come with the same weights.
        **config: Options of the adapter; for several, one mapping per name.

    Returns:
        The checks, to be called one by one.

    Raises:
        ConfigError: ``adapter`` is neither.
        UnknownNameError: No adapter has the name.
        PluginError: The plugin cannot be loaded.
    """
    from medgraft.testing.adapter_rules import attachment as adapter_attachment
    from medgraft.testing.adapter_rules import conduct as adapter_conduct
    from medgraft.testing.adapter_rules import copies as adapter_copies
    from medgraft.testing.adapter_rules import declaration as adapter_declaration
    from medgraft.testing.adapter_rules import merging as adapter_merging
    from medgraft.testing.adapter_rules import numbers as adapter_numbers
    from medgraft.testing.adapter_rules import precision as adapter_precision
    from medgraft.testing.adapter_rules import shortcuts as adapter_shortcuts
    from medgraft.testing.adapter_rules.subject import AdapterSubject

    parts = (adapter_declaration, adapter_numbers, adapter_shortcuts)
    parts += (adapter_attachment, adapter_merging, adapter_conduct, adapter_copies, adapter_precision)
    rules = tuple(rule for part in parts for rule in part.RULES)
    subject = AdapterSubject(adapter, encoders, config)
    if isinstance(adapter, str):
        subject.adapters()  # a variant or option that does not exist is one error now, and not one per check
    return bind(rules, subject)


def check_encoder(encoder: Encoder | Callable[[], Encoder] | str) -> list[Check]:
    """The checks of an encoder; a few seconds for a small one.

    Args:
        encoder: A built encoder, a function without arguments that builds one, or a registered name
            (``"timm:vit_tiny_patch16_224@random"``). One that is passed built is left as it is.

    Returns:
        The checks, to be called one by one; a name or a function is built when the first of them runs.

    Raises:
        ConfigError: ``encoder`` is none of them.
        UnknownNameError: No source of encoders has the name.
    """
    from medgraft.registry import resolve_encoder
    from medgraft.testing import encoder_rules
    from medgraft.testing.encoder_subject import EncoderSubject

    if isinstance(encoder, str):
        resolve_encoder(encoder)
    return bind(encoder_rules.RULES, EncoderSubject(encoder))


def check_task(task: Task | type[Task] | str, data: Path | str | None = None, **config: Any) -> list[Check]:
    """The checks of a task on one copy of its data; seconds for a small one.

    Args:
        task: A task, its class, or a registered name.
        data: Folder of the cohort; ``None`` writes a small phantom of it, for cohorts that medgraft can generate.
        **config: Options of the task; not beside an instance, which has its own.

    Returns:
        The checks, to be called one by one; data are read when the first of them runs.

    Raises:
        ConfigError: ``task`` is none of them.
        UnknownNameError: No task has the name.
        PluginError: The plugin cannot be loaded.
    """
    from medgraft.testing import task_rules
    from medgraft.testing.phantoms import small_phantom

    cls, label, options = _task_class(task, config)

    def build(**changes: Any) -> Task:
        return cls(cls.Config.model_validate({**options, **changes}))

    root = (lambda: small_phantom(cls.cohort)) if data is None else (lambda: Path(data))
    return bind(task_rules.RULES, task_rules.TaskSubject(label, build, root))


def _task_class(task: object, config: dict[str, Any]) -> tuple[type[Task], str, dict[str, Any]]:
    """Class, label and options of what was passed as a task."""
    from medgraft.task import Task
    from medgraft.task.names import task_class

    if isinstance(task, str):
        return task_class(task), task, config
    if isinstance(task, Task):
        return type(task), type(task).__name__, {**task.config.model_dump(), **config}
    if isinstance(task, type) and issubclass(task, Task):
        return task, task.__name__, config
    raise ConfigError(f"{task!r} is no task; pass a medgraft.task.Task, its class, or a registered name")
