"""Sources of encoders: what they declare, and names checked against it before anything is built or planned.

A source has ``models()`` and ``build(model, weights)``; :class:`Source` is a base of such, and an object or an encoder
class with the two serves as well. Its names are those of ``models()``, and its weights a keyword or a local file or
folder, unless it says otherwise:

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
from typing import TYPE_CHECKING, Any, ClassVar, final

from medgraft.errors import CheckpointError, ConfigError, MedgraftError, PluginError, UnknownNameError
from medgraft.typed.values import is_a

if TYPE_CHECKING:  # names are checked before torch is imported
    from medgraft.encoder import Encoder

KEYWORDS = ("default", "pretrained", "random", "none")
"""Weights that are no file: the source's own, the same by another name, fresh ones, and those of what has none."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?")
"""``owner/name`` on a hub, perhaps with a revision."""

INSTEAD = "make them static or class methods, or let the entry point name an instance"


class Source:
    """Base class of sources: a name that is none of its models never gets to :meth:`make`.

    Attributes:
        api_version: Version of this contract that the plugin was written for.
        name: Name of its entry point.
        hub_ids: Its models may be hub ids or local paths, so that :meth:`models` does not list all of them, and
            :meth:`make` refuses others itself.

    Example:
        >>> class Tiny(Source):
        ...     name = "tiny"
        ...     @classmethod
        ...     def models(cls):
        ...         return {"one": "the only one"}
        >>> Tiny.build("two")
        Traceback (most recent call last):
        medgraft.errors.UnknownNameError: unknown tiny encoder 'two'; known: one.
    """

    api_version: ClassVar[int] = 1
    name: ClassVar[str]
    hub_ids: ClassVar[bool] = False

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that :meth:`build` takes, with a line each."""
        raise TypeError(f"{cls.__name__} must implement models()")

    @final
    @classmethod
    def build(cls, model: str, weights: str = "default", sha256: str | None = None, **options: Any) -> Encoder:
        """Builds an encoder.

        Args:
            model: A key of :meth:`models`, or what else the source takes.
            weights: ``"default"`` (the source's own), ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of a local file.
            **options: Of :meth:`make`.

        Raises:
            UnknownNameError: No such model.
            ConfigError: An option does not fit.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        if not cls.hub_ids and model not in (models := cls.models()):
            raise UnknownNameError(f"{cls.name} encoder", model, models)
        return cls.make(model, weights, sha256, **options)

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None, **options: Any) -> Encoder:
        """Builds a model that there is, see :meth:`build`; a source names its options here."""
        raise TypeError(f"{cls.__name__} must implement make()")


def usable(source: Any) -> Any:
    """A source as it is called: an object with methods, or a class whose methods need no instance.

    A class with instance methods is made into an instance.

    Args:
        source: What the entry point names.

    Raises:
        PluginError: It cannot be called as ``models()`` and ``build(model, weights)``; the message is the rest of a
            sentence that begins with the plugin.
    """
    if missing := [name for name in ("models", "build") if not callable(getattr(source, name, None))]:
        raise PluginError(f"is {source!r}, not a source of encoders: it has no {' and no '.join(missing)}()")
    if inspect.isclass(source) and (
        bound := [name for name in ("models", "build", "check") if _takes_self(source, name)]
    ):
        try:
            source = source()
        except Exception as error:  # its constructor may raise anything
            raise PluginError(
                f"is a class whose {' and '.join(f'{name}()' for name in bound)} need an instance, and "
                f"{source.__name__}() makes none ({type(error).__name__}: {error}); {INSTEAD}"
            ) from error
    for name, arguments in (("models", ()), ("build", ("model", "weights"))):
        if problem := _misfit(getattr(source, name), arguments):
            raise PluginError(f"has a {name}() that cannot be called as {name}({', '.join(arguments)}): {problem}")
    return source


def _takes_self(cls: type, name: str) -> bool:
    method = inspect.getattr_static(cls, name, None)
    return inspect.isfunction(method) and next(iter(inspect.signature(method).parameters), "") == "self"


def _misfit(function: Callable[..., Any], arguments: Iterable[str]) -> str:
    """Why a function cannot be called with positional arguments, empty if it can or does not say."""
    try:
        inspect.signature(function).bind(*arguments)
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
        models = source.models()
    except MedgraftError:
        raise
    except Exception as error:
        raise PluginError(f"encoder source {label!r}: its models() fails ({type(error).__name__}: {error})") from error
    named = is_a(models, Mapping) and all(isinstance(each, str) for pair in models.items() for each in pair)
    if not named:
        raise PluginError(f"encoder source {label!r}: its models() gives {models!r}, not a table of names and lines")
    return dict(models)


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
    names = [*KEYWORDS, *others]
    if weights in names:
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
    raise UnknownNameError(f"weights of {name}", weights, names, "The path of a local file or folder is accepted too.")


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
    method = getattr(source, "check", None)
    if callable(method):
        method(model, weights)
        return
    models = models_of(source, label)
    if model not in models:
        raise UnknownNameError(f"{label} encoder", model, models)
    check_weights(f"{label}:{model}", weights)
