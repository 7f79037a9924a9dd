"""Reads the tensors of a PyTorch file that holds more than tensors, without running anything that it names.

Training frameworks save hyper-parameters, callbacks and optimisers beside the weights, as objects of classes that need
not be installed here. ``torch.load(weights_only=True)`` refuses such a file whole. Here every class or function that
the pickle names is replaced by a blank before the pickle can use it; only what rebuilds tensors is kept. What is blank
is called, filled and forgotten, and none of its code is imported, let alone run.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REFUSED = frozenset(
    ("os", "posix", "nt", "sys", "subprocess", "commands", "runpy", "importlib", "shutil", "socket", "ctypes", "pty")
)
"""Modules that no settings of a training come from. Their functions would be blank as well, but a file that names one
is an attack, and is called so."""

BUILTINS = frozenset(("builtins", "__builtin__", "io", "_io"))
REFUSED_BUILTINS = frozenset(("eval", "exec", "compile", "open", "__import__", "breakpoint", "input"))


class Blank:
    """Stands in for an object of any class: takes whatever a pickle gives it and keeps none of it."""

    def __new__(cls, *_: Any, **__: Any) -> Blank:
        """Takes any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Keeps none of them."""

    def __call__(self, *_: Any, **__: Any) -> Blank:
        """A blank, for objects that the pickle calls."""
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drops the item, for subclasses of ``dict``."""

    def __setstate__(self, state: Any) -> None:
        """Drops the state."""

    def append(self, item: Any) -> None:
        """Drops the item, for subclasses of ``list``."""

    def extend(self, items: Any) -> None:
        """Drops the items."""

    def add(self, item: Any) -> None:
        """Drops the item, for subclasses of ``set``."""


def _rebuilders() -> dict[tuple[str, str], Any]:
    """What rebuilds tensors, by the names in a pickle; made anew for each file, which then cannot alter torch's own."""
    import torch
    from torch import _utils

    def fresh(rebuild: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: rebuild(*arguments)

    names = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    return {
        **{("torch._utils", name): fresh(getattr(_utils, name)) for name in names},
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): torch.Size,
    }


def load_tensors(path: Path) -> Any:
    """Loads a ``torch.save`` file with :class:`Blank` in place of all that is no tensor and no plain container.

    Args:
        path: The file, in the format of today or of before torch 1.6.

    Raises:
        pickle.UnpicklingError: It names a function that would do harm.
        Exception: Whatever torch raises for a damaged file.
    """
    import torch

    rebuilders = _rebuilders()

    class Inert(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            """The rebuilder of that name, else a blank class of its own."""
            if (module, name) in rebuilders:
                return rebuilders[module, name]
            harmful = module.partition(".")[0] in REFUSED or (module in BUILTINS and name in REFUSED_BUILTINS)
            if harmful:
                raise pickle.UnpicklingError(f"it asks to run {module}.{name}, which no weights need")
            return type(name.rpartition(".")[2], (Blank,), {})

    def load(file: Any, **how: Any) -> Any:
        return Inert(file, **how).load()

    inert = SimpleNamespace(__name__="inert", Unpickler=Inert, load=load)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of sources of classes, which a blank does not have
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)
