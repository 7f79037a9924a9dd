"""The options of a peft method as ``medgraft describe`` shows them, read from peft's own configuration class."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from medgraft.errors import UnknownNameError
from medgraft.options import Option, allowed_by, arms, as_text, kind_of

OURS = (
    "target_modules", "exclude_modules", "target_parameters", "modules_to_save", "layers_to_transform",
    "layers_pattern", "fan_in_fan_out",
)  # fmt: skip
"""Fields that ``targets`` stands for, or that follow from the encoder."""


def options_of(method: str, defaults: Mapping[str, Mapping[str, Any]]) -> list[Option]:
    """Options of a method, each by the name that it is set by: ``options.r``.

    Args:
        method: peft's name, any case.
        defaults: Method -> values that this package puts in the place of peft's own.

    Raises:
        UnknownNameError: peft has no such method.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig

    configs = {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if method.lower() not in configs:
        raise UnknownNameError("peft method", method, configs)
    cls = configs[method.lower()]
    common = {field.name for field in dataclasses.fields(PeftConfig)} | set(OURS)
    types = get_type_hints(cls)
    changed = defaults.get(method.lower(), {})
    options = []
    for field in dataclasses.fields(cls):
        if field.init and field.name not in common:
            kind = types.get(field.name, Any)
            words = "table" if _is_configuration(kind) else kind_of(kind)
            default = as_text(changed[field.name]) if field.name in changed else _default(field)
            help_ = field.metadata.get("help", "")
            meaning = _first_sentence(help_ if isinstance(help_, str) else "".join(help_)) or "Not explained by peft."
            options.append(Option(f"options.{field.name}", words, default, _allowed(kind), meaning))
    return options


def _is_configuration(kind: Any) -> bool:
    return any(dataclasses.is_dataclass(arm) for arm in arms(kind))


def _allowed(kind: Any) -> str:
    return "" if _is_configuration(kind) or not get_args(kind) else allowed_by(kind)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return as_text(getattr(field.default, "value", field.default))
    if field.default_factory is dataclasses.MISSING:
        return "must be given"
    value = field.default_factory()
    return "peft's own" if dataclasses.is_dataclass(value) else as_text(value)


def _first_sentence(text: str) -> str:
    """The first sentence of peft's help, without its links and code marks."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", re.sub(r"<[^>]+>", "", " ".join(text.split()))).replace("`", "")
    end = re.search(r"(?<=[a-z0-9)'])\.(?=\s|[A-Z]|$)", plain)
    return plain[: end.end()] if end else plain
