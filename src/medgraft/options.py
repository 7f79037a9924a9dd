"""Options of plugins: what a value must be, how text becomes one, and what people are told about each.

Text comes from the command line (``--set lora.rank=4``); everything else is checked as it is, so that neither ``yes``
nor ``"8"`` is ever taken for a number.
"""

from __future__ import annotations

import functools
import inspect
import json
import numbers
import re
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from medgraft.errors import ConfigError, nearest
from medgraft.typed.values import is_a

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every random generator in use accepts."""
Model = TypeVar("Model", bound=BaseModel)
NONE = ("none", "null")
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    str: ("text", "texts"),
    Any: ("anything", "values"),
    dict: ("table", "tables"),
}
"""Type -> what it is called in the singular and in the plural."""


class Options(BaseModel):
    """Base of every configuration: unknown fields are errors, and no number, text or truth value stands for another."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        if problem := _first_problem(_arms_of_field(cls, info.field_name or ""), value):
            raise ValueError(problem)
        return value


class Option(NamedTuple):
    """One option, in words for people.

    Attributes:
        name: Its name.
        kind: Type, such as ``whole number`` or ``list of texts``.
        default: What holds where nothing is said.
        allowed: Range or choices; empty where the type says it all.
        meaning: What it does.
    """

    name: str
    kind: str
    default: str
    allowed: str
    meaning: str


def arms(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type, ``Annotated`` taken off; one for most."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(each for arm in get_args(annotation) for each in arms(arm))
    return (annotation,)


def mistaken(annotation: Any, value: Any) -> str:
    """Why a value is of another kind than its type, for kinds that pydantic would turn into each other; else empty."""
    return _first_problem(arms(annotation), value)


@functools.cache
def _arms_of_field(config: type[Options], name: str) -> tuple[Any, ...]:
    """Taken apart once: a board reads tens of thousands of specifications."""
    field = config.model_fields.get(name)
    return arms(field.annotation) if field is not None else ()


def _first_problem(alternatives: tuple[Any, ...], value: Any) -> str:
    """What the first alternative says against a value that none takes; empty where one does."""
    first = ""
    for arm in alternatives:
        problem = _mistaken(arm, value)
        if not problem:
            return ""
        first = first or problem
    return first


def _mistaken(arm: Any, value: Any) -> str:
    if arm is None or arm is type(None):
        return "" if value is None else "none is the only other value"
    if arm in (int, float):
        if isinstance(value, bool):
            return "must be a number, not true or false (yes, no, on and off mean those in YAML)"
        return "" if isinstance(value, numbers.Number) else "must be a number"
    if arm is bool:
        return "" if isinstance(value, bool) else "must be true or false"
    if get_origin(arm) in (tuple, list):
        if isinstance(value, (str, numbers.Number)):
            return "must be a list"
        if not is_a(value, (tuple, list)):
            return ""
        inner = get_args(arm)
        each = inner if get_origin(arm) is tuple and inner[-1:] != (...,) else (inner[0],) * len(value)
        return next((problem for kind, item in zip(each, value, strict=False) if (problem := mistaken(kind, item))), "")
    return ""


def from_text(annotation: Any, text: str) -> Any:
    """What a text of the command line means for an option of that type; the text itself where it means nothing.

    Example:
        >>> from_text(int, "4"), from_text(float | None, "none"), from_text(tuple[str, ...], "q,v")
        (4, None, ('q', 'v'))
    """
    text = text.strip()
    for arm in arms(annotation):
        with suppress(ValueError, ValidationError):
            return _converted(arm, text)
    return text


def _converted(arm: Any, text: str) -> Any:
    """Text as one type.

    Raises:
        ValueError: It is no such value.
    """
    if arm is None or arm is type(None):
        if text.lower() not in NONE:
            raise ValueError(text)
        return None
    if arm is bool:
        if text.lower() not in TRUTH:
            raise ValueError(text)
        return TRUTH[text.lower()]
    if get_origin(arm) is Literal:
        return {str(choice): choice for choice in get_args(arm)}.get(text, text)
    if get_origin(arm) in (tuple, list):
        inner = get_args(arm)
        parts = list_parts(text)
        if get_origin(arm) is tuple and inner[-1:] != (...,):
            if len(parts) != len(inner):
                raise ValueError(text)
            return tuple(from_text(kind, part) for kind, part in zip(inner, parts, strict=True))
        return tuple(from_text(inner[0], part) for part in parts)
    if arm is Any:
        return plain(text)
    if arm in (int, float):
        return arm(text)
    return TypeAdapter(arm).validate_python(text)


def list_parts(text: str) -> list[str]:
    """Texts of a list's parts: a list in JSON, or commas between them, in brackets, in quotation marks or without any.

    Example:
        >>> list_parts("q, v"), list_parts('["left, right", "both"]'), list_parts("['a', b]")
        (['q', 'v'], ['left, right', 'both'], ['a', 'b'])
    """
    text = text.strip()
    if text.startswith("["):
        with suppress(json.JSONDecodeError, RecursionError):
            return [part if isinstance(part, str) else json.dumps(part) for part in json.loads(text)]
    parts = (part.strip() for part in text.strip("[]()").split(","))
    return [
        part[1:-1] if len(part) > 1 and part[0] == part[-1] and part[0] in "'\"" else part for part in parts if part
    ]


def plain(text: str) -> Any:
    """Text as the number, truth value, nothing, list or text that it looks like, where no type says what it is.

    Example:
        >>> plain("4"), plain("1e-3"), plain("true"), plain("[q, v]"), plain("pissa")
        (4, 0.001, True, ['q', 'v'], 'pissa')
    """
    text = text.strip()
    if text.lower() in NONE:
        return None
    if text.lower() in ("true", "false"):
        return TRUTH[text.lower()]
    if text.startswith("[") and text.endswith("]"):
        with suppress(json.JSONDecodeError, RecursionError):
            return json.loads(text)
        return [plain(part) for part in list_parts(text)]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def readable(error: ValidationError) -> str:
    """A pydantic error as one line: field, problem, given value."""
    parts: list[str] = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            parts.append(f"{field}: no such option")
            continue
        problem = item["msg"].removeprefix("Value error, ")
        value = repr(item["input"])
        parts.append(f"{field}: {problem} (got {value if len(value) <= 80 else value[:77] + '...'})")
    return "; ".join(parts)


def checked(config: type[Model], values: Mapping[str, Any], what: str) -> Model:
    """A configuration with the values.

    Args:
        config: Its class.
        values: By field name.
        what: Whose options they are, for the error: ``options of adapter 'lora'``.

    Raises:
        ConfigError: An option does not exist, is of another kind or out of range.
    """
    try:
        return config.model_validate(dict(values))
    except ValidationError as error:
        names = ", ".join(config.model_fields) or "none"
        strange = [str(item["loc"][0]) for item in error.errors() if item["type"] == "extra_forbidden"]
        near = next((match for name in strange if (match := nearest(name, config.model_fields))), "")
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(f"{what}: {readable(error)}; its options are: {names}{hint}") from error


def described(config: type[BaseModel], defaults: Mapping[str, Any] | None = None) -> list[Option]:
    """The options of a configuration class.

    Args:
        config: Its fields; a meaning stands in ``Field(description=...)`` or under ``Attributes:`` in the docstring of
            the class or of the one that it inherits the field from.
        defaults: Values that take the place of the class's own defaults, such as the catalogue's.
    """
    options: list[Option] = []
    meanings = _meanings(config)
    for name, info in config.model_fields.items():
        default = (defaults or {}).get(name, info.get_default(call_default_factory=True))
        shown = "must be given" if info.is_required() and name not in (defaults or {}) else as_text(default)
        meaning = in_words(info.description or meanings.get(name, ""))
        options.append(
            Option(name, kind_of(info.annotation), shown, allowed_by(info.annotation, info.metadata), meaning)
        )
    return options


def _meanings(config: type[BaseModel]) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if issubclass(cls, BaseModel):
            meanings |= attributes_in(cls.__doc__ or "")
    return meanings


def attributes_in(docstring: str) -> dict[str, str]:
    """The ``Attributes:`` of a docstring in Google style, by name, each on one line."""
    lines = iter(inspect.cleandoc(docstring).splitlines())
    attributes: dict[str, str] = {}
    name = ""
    if not any(line.strip() == "Attributes:" for line in lines):
        return attributes
    for line in lines:
        if line.strip() and not line.startswith(" "):
            break
        if (start := re.match(r" {4}(\w+):\s*(.*)", line)) is not None:
            name = start[1]
            attributes[name] = start[2]
        elif name and line.strip():
            attributes[name] += f" {line.strip()}"
    return attributes


def in_words(text: str) -> str:
    """A description without the markup of docstrings."""
    text = re.sub(r":\w+:`~?(?:[^`<]*\.)?([^`.<]+)`", r"\1", text)
    text = re.sub(r"``?([^`]+)``?", r"\1", " ".join(text.split()))
    return re.sub(r"\b(None|True|False)\b", lambda word: word[0].lower(), text)


def as_text(value: Any) -> str:
    """A value as one would write it on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if is_a(value, (tuple, list)):
        return ",".join(as_text(each) for each in value) or "nothing"
    if is_a(value, Mapping):
        return ", ".join(f"{name}: {as_text(each)}" for name, each in value.items()) or "nothing"
    return f"{value:g}" if isinstance(value, float) else (str(value) or "nothing")


def kind_of(annotation: Any, plural: bool = False) -> str:
    """A type in plain words.

    Example:
        >>> kind_of(int | None), kind_of(tuple[str, ...]), kind_of(Literal["a", "b"])
        ('whole number or none', 'list of texts', 'choice')
    """
    named = [_kind(arm, plural) for arm in arms(annotation) if arm not in (None, type(None))]
    if any(arm in (None, type(None)) for arm in arms(annotation)):
        named.append("none")
    return " or ".join(dict.fromkeys(named))


def _kind(arm: Any, plural: bool) -> str:
    origin, inner = get_origin(arm), get_args(arm)
    if origin is Literal:
        return "choices" if plural else "choice"
    if origin is tuple and inner[-1:] != (...,):
        kinds = list(dict.fromkeys(kind_of(each, plural=True) for each in inner))
        return f"{len(inner)} {kinds[0]}" if len(kinds) == 1 else f"{len(inner)} values"
    if origin in (tuple, list, set, frozenset):
        return f"{'lists' if plural else 'list'} of {kind_of(inner[0], plural=True)}"
    words = WORDS.get(origin if origin is dict else arm)
    if words is None:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", getattr(arm, "__name__", "value")).lower()
        return f"{name}s" if plural else name
    return words[plural]


def allowed_by(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Range or choices of a type with the constraints beside it; empty for none."""
    parts = [_bounds(metadata)]
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        parts.append(_bounds(_flat(more)))
    if get_origin(annotation) in (Union, types.UnionType):
        parts += [allowed_by(arm) for arm in get_args(annotation) if arm is not type(None)]
    elif get_origin(annotation) is Literal:
        parts.append(", ".join(str(choice) for choice in get_args(annotation)))
    elif get_origin(annotation) in (tuple, list):
        inside = list(dict.fromkeys(allowed_by(each) for each in get_args(annotation) if each is not ...))
        parts += [f"each {each}" for each in inside if each]
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _flat(metadata: Iterable[Any]) -> list[Any]:
    """Constraints, those inside a ``Field(...)`` taken out of it."""
    return [inner for each in metadata for inner in getattr(each, "metadata", None) or [each]]


def _bounds(metadata: Iterable[Any]) -> str:
    bounds = {
        name: getattr(each, name) for each in metadata for name in LIMITS if getattr(each, name, None) is not None
    }
    low = next((f"{words} {as_text(bounds[name])}" for name, words in LOW.items() if name in bounds), "")
    high = next((f"{words} {as_text(bounds[name])}" for name, words in HIGH.items() if name in bounds), "")
    if "ge" in bounds and "le" in bounds:
        low, high = f"{as_text(bounds['ge'])} to {as_text(bounds['le'])}", ""
    least, most = bounds.get("min_length"), bounds.get("max_length")
    sizes = [
        "not empty" if least == 1 else f"at least {least} long" if least else "",
        f"at most {most} long" if most is not None else "",
    ]
    return ", ".join(part for part in (low, high, *sizes) if part)


LOW = {"ge": "at least", "gt": "above"}
HIGH = {"le": "at most", "lt": "below"}
LIMITS = (*LOW, *HIGH, "min_length", "max_length")
