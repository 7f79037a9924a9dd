"""Functions made inside other functions, in a form that can be copied and pickled.

A copy of a graft must obey its own adapter. ``copy.deepcopy`` takes any function for a constant, though, and ``pickle``
refuses those that another function made: a lambda over a bottleneck would go on calling the original's. Here such a
function is copied as what it is, code with values beside it: the values are copied along with everything else, so what
the original reached through them, its copy reaches in the copy. A pickle holds no code, only where it stands.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import inspect
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from medgraft.typed.values import is_a

LOCALS = ".<locals>"
DEEPEST = 8
"""Containers inside containers that are looked through; one that holds itself has no end."""


class Portable:
    """Base of objects that hold functions: a copy holds copies of those that are no constants."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: portable(value) for name, value in self.__dict__.items()}


def settle_functions(root: nn.Module) -> None:
    """Puts stand-ins in the place of local functions that modules have as hooks or attributes, whoever set them."""
    for module in root.modules():
        for name, value in module.__dict__.items():
            if isinstance(value, FunctionType):
                module.__dict__[name] = portable(value)
            elif name.endswith("_hooks") and is_a(value, dict):
                value.update({key: portable(hook) for key, hook in value.items() if isinstance(hook, FunctionType)})


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """What ``copy.deepcopy`` makes of an object that does not say how to copy it."""
    make, arguments, state = value.__reduce_ex__(4)[:3]
    twin = memo[id(value)] = make(*arguments)
    state = copy.deepcopy(state, memo)
    if hasattr(twin, "__setstate__"):
        twin.__setstate__(state)
    else:
        twin.__dict__.update(state)
    return twin


def portable(value: Any, depth: int = 0) -> Any:
    """The same value for a copy or a pickle: local functions stand-ins, tensors of a graph without their graph.

    Args:
        value: Anything; containers, named tuples and dataclasses are looked through.
        depth: Containers around it.

    Returns:
        The value itself where there is nothing to change.
    """
    if isinstance(value, FunctionType):
        return value if _is_constant(value) else LocalFunction.of(value)
    if isinstance(value, Tensor):
        return value if value.is_leaf else value.detach()
    if depth > DEEPEST:
        return value
    kind = _type_of(value)
    if kind is functools.partial:
        parts = portable((value.func, value.args, value.keywords), depth + 1)
        return functools.partial(parts[0], *parts[1], **parts[2])
    if hasattr(kind, "__dataclass_fields__"):
        return _with_portable_fields(value, depth + 1)
    if kind is dict:
        entries = {key: portable(each, depth + 1) for key, each in value.items()}
        return entries if _changed(value, entries) else value
    if isinstance(value, tuple) or kind is list:
        return _with_portable_parts(value, depth + 1)
    return value


def _type_of(value: object) -> type[object]:
    return type(value)


def _with_portable_fields(value: Any, depth: int) -> Any:
    values = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.init}
    changed = _changed(values, {name: portable(each, depth) for name, each in values.items()})
    return dataclasses.replace(value, **changed) if changed else value


def _with_portable_parts(value: Any, depth: int) -> Any:
    parts = [portable(each, depth) for each in value]
    if all(a is b for a, b in zip(parts, value, strict=True)):
        return value
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _changed(before: dict[Any, Any], after: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in after.items() if value is not before[key]}


def _is_constant(function: FunctionType) -> bool:
    """Whether a function is found by its name in its module, so that a copy may share it."""
    obj: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        obj = getattr(obj, part, None)
    return obj is function


_cells: weakref.WeakValueDictionary[int, Cell] = weakref.WeakValueDictionary()
_functions: weakref.WeakValueDictionary[int, LocalFunction] = weakref.WeakValueDictionary()


class Cell:
    """A variable that a function shares with the one that made it, and with its siblings."""

    def __init__(self, cell: CellType) -> None:
        self.cell = cell

    @staticmethod
    def of(cell: CellType) -> Cell:
        """The one stand-in of a variable, so that functions that share it share its copy."""
        stand_in = _cells.get(id(cell))
        if stand_in is None or stand_in.cell is not cell:
            stand_in = _cells[id(cell)] = Cell(cell)
        return stand_in

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            value = self.cell.cell_contents
        except ValueError:  # a variable without a value
            return _empty_cell, ()
        if isinstance(value, ModuleType):
            return _cell_of_module, (value.__name__,)
        return _empty_cell, (), (portable(value),)

    def __setstate__(self, state: tuple[Any]) -> None:
        self.cell.cell_contents = state[0]


def _empty_cell() -> Cell:
    return Cell(CellType())


def _cell_of_module(name: str) -> Cell:
    return Cell(CellType(importlib.import_module(name)))


class LocalFunction:
    """Calls a function that another one made; a copy calls one with copies of the values that it reads."""

    function: Callable[..., Any]

    @staticmethod
    def of(function: FunctionType) -> LocalFunction:
        """The one stand-in of a function."""
        stand_in = _functions.get(id(function))
        if stand_in is None or stand_in.function is not function:
            stand_in = LocalFunction()
            stand_in.function = function
            _functions[id(function)] = stand_in
        return stand_in

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **kwargs)

    def _values(self) -> tuple[Any, ...]:
        """What it reads: shared variables, defaults, attributes."""
        function: Any = self.function
        cells = tuple(Cell.of(cell) for cell in function.__closure__ or ())
        return cells, portable(function.__defaults__), portable(function.__kwdefaults__), dict(function.__dict__)

    def _build(self, code: CodeType, names: dict[str, Any], values: tuple[Any, ...]) -> None:
        cells, defaults, keyword_defaults, attributes = values
        function = FunctionType(code, names, code.co_name, defaults, tuple(cell.cell for cell in cells))
        function.__qualname__, function.__module__ = code.co_qualname, names.get("__name__", "")
        function.__kwdefaults__ = keyword_defaults
        function.__dict__.update(attributes)
        self.function = function

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalFunction:
        twin = memo[id(self)] = LocalFunction()
        function: Any = self.function
        twin._build(function.__code__, function.__globals__, copy.deepcopy(self._values(), memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFunction, (), (_address(self.function), self._values())

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        index: int
        (module, qualname, index, variables), values = state
        codes = list(_codes(importlib.import_module(module), qualname))
        if len(codes) <= index or codes[index].co_freevars != variables:
            raise pickle.UnpicklingError(
                f"{module}.{qualname} is another function here than where this was pickled; use the same version of "
                "that package"
            )
        self._build(codes[index], vars(sys.modules[module]), values)


def _address(function: Any) -> tuple[str, str, int, tuple[str, ...]]:
    """Module, name, which of those of that name, and variables of a function's code."""
    code, module = function.__code__, sys.modules.get(function.__module__)
    codes = list(_codes(module, code.co_qualname)) if module is not None else []
    if code not in codes:
        raise pickle.PicklingError(
            f"{function.__module__}.{function.__qualname__} is found under that name in no module, so a pickle cannot "
            "say which function it is; define what makes it at the top of a module"
        )
    return function.__module__, code.co_qualname, codes.index(code), code.co_freevars


def _codes(module: ModuleType, qualname: str) -> Iterator[CodeType]:
    """Codes of that name inside the function of a module that makes them, in the order of the source."""
    obj: Any = module
    for part in qualname.partition(LOCALS)[0].split("."):
        obj = inspect.getattr_static(obj, part, None)
    if isinstance(obj, property):
        obj = obj.fget
    elif isinstance(obj, functools.cached_property):
        obj = obj.func
    obj = inspect.unwrap(getattr(obj, "__func__", obj)) if callable(obj) or obj is not None else None
    waiting = [obj.__code__] if isinstance(obj, FunctionType) else []
    while waiting:
        code = waiting.pop(0)
        if code.co_qualname == qualname:
            yield code
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
