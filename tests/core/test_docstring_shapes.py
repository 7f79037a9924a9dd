"""Docstrings of functions that take or give arrays say the shapes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from test_architecture import CHECKOUT, MODULES

ARRAY = re.compile(r"\b(Tensor|ndarray|Array|NDArray|nn\.Parameter)\b")
CODE = re.compile(r"``([^`]+)``")
SHAPE = re.compile(r"(?<![\w\])])\[[^\[\]|]+\]")
WORDS = re.compile(r"\b(scalars?|any shape)\b", re.IGNORECASE)
LIKE = re.compile(r"\b(?:[Ss]ee|[Aa]s\s+in|[Ll]ike)\s+:(?:meth|func):`~?(?P<target>[\w.]+)`")
TEMPLATES = {f"medgraft.scaffold.{kind}" for kind in ("adapter", "encoder", "task")}

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Documented(NamedTuple):
    """A public function, method or property whose annotations name an array."""

    place: str
    name: str
    docstring: str

    @property
    def shown(self) -> str:
        return f"{self.place} {self.name}"


def public_functions(node: ast.AST, owner: str = "") -> Iterator[tuple[str, Function]]:
    """Of a module and its public classes; what a function defines inside itself is its own affair."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            if not child.name.startswith("_") or child.name == "__call__":
                yield owner + child.name, child
        elif isinstance(child, ast.ClassDef):
            if not child.name.startswith("_"):
                yield from public_functions(child, f"{owner}{child.name}.")
        else:
            yield from public_functions(child, owner)


def names_an_array(function: Function) -> bool:
    arguments = function.args
    each = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    annotations = [function.returns, *(argument.annotation for argument in each if argument)]
    return any(ARRAY.search(ast.unparse(annotation)) for annotation in annotations if annotation)


def documented(source: str, place: str) -> list[Documented]:
    return [
        Documented(f"{place}:{function.lineno}", name, ast.get_docstring(function) or "")
        for name, function in public_functions(ast.parse(source))
        if names_an_array(function)
    ]


def without_shapes(functions: list[Documented]) -> list[str]:
    """Those whose docstring says no shape, and does not send the reader to a docstring that does."""
    stated = {each for each in functions if says_a_shape(each.docstring.partition("Example:\n")[0])}
    names = {tail for each in stated for tail in tails(each.name)}
    return [
        each.shown
        for each in functions
        if each not in stated
        and not any(shorter in names for found in LIKE.finditer(each.docstring) for shorter in tails(found["target"]))
    ]


def says_a_shape(text: str) -> bool:
    return bool(WORDS.search(text)) or any(SHAPE.search(code) for code in CODE.findall(text))


def tails(name: str) -> list[str]:
    """``Encoder.forward`` of ``medgraft.encoder.Encoder.forward``, or the function alone where there is no class."""
    parts = name.split(".")
    return [".".join(parts[-2:]) if len(parts) > 1 and parts[-2][:1].isupper() else parts[-1]]


def test_docstrings_say_shapes():
    """One shape at least, wherever an annotation of a public function, method or property names an array.

    An array is a ``Tensor``, an ``nn.Parameter`` or an array of NumPy. Its docstring says, in words that this finds:

    - a shape in brackets, in code marks: ``[B, N, C]``, ``float32 [C, H, W]``, ``[B, N, C] -> [B, C]``; or
    - ``scalar``; or ``any shape``, which is ``[...]`` too; or
    - ``See :meth:`Base.method```, or ``as in`` or ``like`` a :func:`function`, whose docstring says one.

    Shapes in an example do not count: they are those of one case.
    """
    functions = [
        each
        for module, path in MODULES.items()
        if module not in TEMPLATES
        for each in documented(path.read_text(), str(Path(path).relative_to(CHECKOUT)))
    ]
    assert len(functions) > 500
    assert without_shapes(functions) == []


GOOD = {
    "a shape": '''
def halve(x: Tensor) -> Tensor:
    """Half of ``x``, ``[B, N]``."""
''',
    "a shape and a type": '''
class Cohort:
    @property
    def targets(self) -> np.ndarray:
        """Classes, ``int64 [n]``."""
''',
    "words": '''
def total(*tensors: torch.Tensor) -> float:
    """The sum of all numbers of tensors of any shape."""
''',
    "another docstring": '''
class Base:
    def forward(self, x: Tensor) -> Tensor:
        """``[B, C]`` and back."""

class Twice(Base):
    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`Base.forward`; twice."""
''',
    "no array": '''
def length(rows: list[str]) -> int:
    """How many."""
''',
    "private": '''
def _halve(x: Tensor) -> Tensor:
    """Half."""

class _Half:
    def forward(self, x: Tensor) -> Tensor:
        """Half."""
''',
}
BAD = {
    "no shape": '''
def halve(x: Tensor) -> Tensor:
    """Half of ``x``."""
''',
    "no docstring": "def halve(x: nn.Parameter): ...",
    "brackets of something else": '''
def halve(x: Array) -> list[Array]:
    """Half of a list[Array], of ``[q | k | v]``, of ``x[0]``."""
''',
    "a shape in the example alone": '''
def halve(x: "Tensor | None" = None):
    """Half.

    Example:
        >>> halve(torch.ones(2)).shape  # ``[2]``
    """
''',
    "a reference to no shape": '''
class Base:
    def __call__(self, x: Tensor):
        """Does."""

class Twice(Base):
    def __call__(self, x: Tensor):
        """See :meth:`Base.__call__`."""
''',
    "inside a condition": '''
if TYPE_CHECKING:
    class Half:
        async def forward(self, *, x: dict[str, np.ndarray]):
            """Half."""
''',
}


@pytest.mark.parametrize("source", GOOD.values(), ids=GOOD)
def test_a_good_docstring_is_taken(source):
    assert without_shapes(documented(source, "sample.py")) == []


@pytest.mark.parametrize("source", BAD.values(), ids=BAD)
def test_a_bad_docstring_is_found(source):
    found = without_shapes(documented(source, "sample.py"))
    assert found and all(re.match(r"sample\.py:\d+ [\w.]+$", each) for each in found)
