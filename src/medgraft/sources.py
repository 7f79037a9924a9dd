"""Sources of encoders: what they declare, and names checked against it before anything is built or planned.

A source has ``models()`` and ``build(model, weights)``. Its names are those of ``models()``, and its weights a keyword
or a local file or folder, unless it says otherwise:

``hub_ids = True``
    its models may be hub ids or local paths, so that ``/`` may stand in a name;
``check(model, weights)``
    it decides itself which of both there are, and raises a :class:`~medgraft.errors.MedgraftError` for others.
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from medgraft.errors import CheckpointError, ConfigError, MedgraftError, PluginError, UnknownNameError

KEYWORDS = ("default", "pretrained", "random", "none")
"""Weights that are no file: the source's own, the same by another name, fresh ones, and those of what has none."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?")
"""``owner/name`` on a hub, perhaps with a revision."""

INSTEAD = "make them static or class methods, or let the entry point name an instance"


def usable(found: Any) -> Any:
    """A source as it is called: an object with methods, or a class whose methods need no instance.

    A class with instance methods is made into an instance.

    Args:
        found: What the entry point names.

    Raises:
        PluginError: It cannot be called as ``models()`` and ``build(model, weights)``; the message is the rest of a
            sentence that begins with the plugin.
    """
    if missing := [name for name in ("models", "build") if not callable(getattr(found, name, None))]:
        raise PluginError(f"is {found!r}, not a source of encoders: it has no {' and no '.join(missing)}()")
    if inspect.isclass(found) and (
        bound := [name for name in ("models", "build", "check") if _takes_self(found, name)]
    ):
        try:
            found = found()
        except Exception as error:  # its constructor may raise anything
            raise PluginError(
                f"is a class whose {' and '.join(f'{name}()' for name in bound)} need an instance, and "
                f"{found.__name__}() makes none ({type(error).__name__}: {error}); {INSTEAD}"
            ) from error
    for name, given in (("models", ()), ("build", ("model", "weights"))):
        if problem := _misfit(getattr(found, name), given):
            raise PluginError(f"has a {name}() that cannot be called as {name}({', '.join(given)}): {problem}")
    return found


def _takes_self(found: type, name: str) -> bool:
    method = inspect.getattr_static(found, name, None)
    return inspect.isfunction(method) and next(iter(inspect.signature(method).parameters), "") == "self"


def _misfit(function: Callable[..., Any], given: Iterable[str]) -> str:
    """Why a function cannot be called with positional arguments, empty if it can or does not say."""
    try:
        inspect.signature(function).bind(*given)
    except TypeError as error:
        return str(error)
    except ValueError:  # a builtin without a signature
        return ""
    return ""


def models_of(source: Any, label: str) -> dict[str, str]:
    """A source's models with a line each.

    Raises:
        PluginError: ``models()`` raises, or gives no table of names and lines.
    """
    try:
        found = source.models()
    except MedgraftError:
        raise
    except Exception as error:
        raise PluginError(f"encoder source {label!r}: its models() fails ({type(error).__name__}: {error})") from error
    named = isinstance(found, Mapping) and all(isinstance(each, str) for pair in found.items() for each in pair)
    if not named:
        raise PluginError(f"encoder source {label!r}: its models() gives {found!r}, not a table of names and lines")
    return dict(found)


def check_name(label: str, model: str, *, hub_ids: bool = False) -> None:
    """Refuses what cannot be the name of a model.

    Args:
        label: Name of the source, for the error.
        model: What follows the source's colon.
        hub_ids: Whether the source says that its models may be hub ids or paths.

    Raises:
        ConfigError: It is empty, holds control characters, or separators or dots as paths do.
    """
    if not model.strip() or model != model.strip():
        said = "names no model" if not model.strip() else f"begins or ends its model {model!r} with blanks"
        raise ConfigError(f"encoder '{label}:{model}' {said}; encoders are named source:model")
    if any(unicodedata.category(letter).startswith("C") for letter in model):
        raise ConfigError(f"encoder source {label!r}: the model {model!r} holds control characters")
    if not hub_ids and (set(model) & set("/\\") or set(model) == {"."}):
        raise ConfigError(
            f"encoder source {label!r}: the model {model!r} looks like a path, and the models of this source are "
            "names; a local file of weights goes behind @"
        )


def check_hub_id(label: str, model: str, *, prefixed: bool) -> None:
    """Refuses what is neither a hub id nor a local folder, for sources that take both.

    Args:
        label: Name of the source, for the error.
        model: A name, ``owner/name``, or a path.
        prefixed: Whether it must be a hub id or a path, and not a plain name.

    Raises:
        ConfigError: It holds separators and is none of them.
    """
    if HUB_ID.fullmatch(model) or (prefixed and Path(model).expanduser().is_dir()):
        return
    if prefixed or set(model) & set("/\\"):
        raise ConfigError(
            f"encoder source {label!r}: the model {model!r} is neither a hub id (owner/name) nor a folder on this disk"
        )


def check_weights(name: str, weights: str, others: Iterable[str] = ()) -> None:
    """Refuses weights that are neither a keyword, nor one of the source's own names, nor on this disk.

    Args:
        name: Of the encoder, for the error.
        weights: What follows its ``@``.
        others: Names of weights that the source knows.

    Raises:
        ConfigError: It holds control characters.
        CheckpointError: It looks like a path, and nothing is there.
        UnknownNameError: It looks like a name.
    """
    known = [*KEYWORDS, *others]
    if weights in known:
        return
    if any(unicodedata.category(letter).startswith("C") for letter in weights):
        raise ConfigError(f"encoder {name}: its weights {weights!r} hold control characters")
    if Path(weights).expanduser().exists():
        return
    if set(weights) & set("/\\~.") or Path(weights).suffix:
        raise CheckpointError(
            f"encoder {name}: weights {weights!r} do not exist; give 'default', 'random', or the path of a local file "
            "or folder"
        )
    raise UnknownNameError(f"weights of {name}", weights, known, "The path of a local file or folder is accepted too.")


def check(source: Any, label: str, model: str, weights: str) -> None:
    """Checks a name against its source.

    Args:
        source: The loaded source.
        label: The name it is asked for by.
        model: Name of a model.
        weights: ``"default"`` or what follows the ``@``.

    Raises:
        ConfigError: The name is malformed.
        UnknownNameError: The source has no such model or weights.
        CheckpointError: The weights are a path, and nothing is there.
        PluginError: The source cannot say which models it has.
    """
    check_name(label, model, hub_ids=bool(getattr(source, "hub_ids", False)))
    own = getattr(source, "check", None)
    if callable(own):
        own(model, weights)
        return
    known = models_of(source, label)
    if model not in known:
        raise UnknownNameError(f"{label} encoder", model, known)
    check_weights(f"{label}:{model}", weights)
