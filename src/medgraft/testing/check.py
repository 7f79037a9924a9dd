"""A named check, the rule behind it, and the error that says what to change."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, Protocol, TypeVar

import torch

from medgraft.declared import looked_at_once
from medgraft.typed_torch import fork_random, seed_random


class ConformanceError(AssertionError):
    """A plugin breaks a rule of its contract; the message says what is wrong, where, and what to change."""


class Violation(Exception):
    """What a rule raises; the check adds the subject, the place and, where this has none, the rule's own remedy.

    Args:
        problem: What is wrong, without a full stop at the end.
        remedy: What to change, as a sentence; ``None`` takes the rule's.
    """

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def require(condition: object, problem: str, remedy: str | None = None) -> None:
    """Raises a :class:`Violation` unless ``condition`` is true."""
    if not condition:
        raise Violation(problem, remedy)


class Subject(Protocol):
    """What is checked.

    Attributes:
        label: How messages call it.
    """

    label: str

    def cases(self) -> Sequence[str]:
        """Names of the places at which a rule marked ``each`` is checked, one after another."""
        ...

    def without_cases(self) -> str:
        """Why there are none, for the reason of a skipped check."""
        ...


AnySubject = TypeVar("AnySubject", bound=Subject)


@dataclass(frozen=True)
class Rule(Generic[AnySubject]):
    """One rule of a contract, not yet bound to a plugin.

    Attributes:
        name: Name of the function that states it.
        description: First sentence of that function's docstring.
        remedy: What an author changes, as a sentence.
        function: Takes the subject (and, if ``each``, the name of a case) and raises a :class:`Violation`.
        each: Checked at every case of the subject.
    """

    name: str
    description: str
    remedy: str
    function: Callable[..., None] = field(repr=False)
    each: bool = False


def rule(
    remedy: str, *, each: bool = False
) -> Callable[[Callable[Concatenate[AnySubject, ...], None]], Rule[AnySubject]]:
    """Declares a function as a rule; its name and the first line of its docstring become the check's.

    Args:
        remedy: What an author changes, as a sentence.
        each: The function takes ``(subject, case)`` and is called for every case.
    """

    def declare(function: Callable[Concatenate[AnySubject, ...], None]) -> Rule[AnySubject]:
        description = (function.__doc__ or "").strip().splitlines()[0]
        return Rule(function.__name__, description, remedy, function, each)

    return declare


@dataclass(frozen=True)
class Check:
    """A rule bound to a plugin; calling it runs it.

    Attributes:
        name: Unique in its list.
        subject: The plugin, as messages call it.
        description: The rule, in one sentence.
    """

    name: str
    subject: str
    description: str
    _run: Callable[[], None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Runs the check; the global random state and gradient mode are as before afterwards.

        Raises:
            ConformanceError: The plugin breaks the rule.
            unittest.SkipTest: The rule does not apply; the reason says why.
        """
        with fork_random([]), torch.enable_grad(), looked_at_once():
            seed_random(0)
            self._run()


def bind(rules: Iterable[Rule[AnySubject]], subject: AnySubject) -> list[Check]:
    """The checks of a subject, in the order of the rules."""
    return [Check(each.name, subject.label, each.description, _runner(each, subject)) for each in rules]


def _runner(each: Rule[AnySubject], subject: AnySubject) -> Callable[[], None]:
    def run() -> None:
        if not each.each:
            _guarded(each, subject.label, lambda: each.function(subject))
            return
        cases = subject.cases()
        if not cases:
            raise unittest.SkipTest(subject.without_cases())
        skipped: list[str] = []
        for case in cases:
            try:
                _guarded(each, f"{subject.label} on {case}", lambda case=case: each.function(subject, case))
            except unittest.SkipTest as reason:
                skipped.append(str(reason))
        if len(skipped) == len(cases):
            raise unittest.SkipTest("; ".join(dict.fromkeys(skipped)))

    return run


def _guarded(each: Rule[Any], where: str, run: Callable[[], None]) -> None:
    try:
        run()
    except Violation as error:
        raise ConformanceError(f"{where}: {error.problem}. {error.remedy or each.remedy}") from None
    except (unittest.SkipTest, ConformanceError):
        raise
    except Exception as error:  # whatever an author's code raises is the finding
        text = " ".join(str(error).split())[:400]
        raise ConformanceError(f"{where}: {type(error).__name__}: {text.rstrip('.')}. {each.remedy}") from error
