"""What ``medgraft ls suites`` and ``medgraft describe suite`` show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medgraft.suites import Suite, SuiteTask, find_suite, suites

if TYPE_CHECKING:
    from rich.console import Console


def suite_table() -> Any:
    """All installed suites as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "version", "tasks", "data", "title")
    for suite in suites().values():
        texts = (suite.name, suite.version, str(len(suite.tasks)), _kinds(suite), suite.title)
        table.add_row(*map(Text, texts))
    return table


def _kinds(suite: Suite) -> str:
    generated = any(each.generated for each in suite.tasks)
    collected = any(each.collected for each in suite.tasks)
    return " or ".join(word for word, there in (("collected", collected), ("generated", generated)) if there)


def describe_suite(console: Console, name: str) -> None:
    """Prints all that a suite says.

    Raises:
        UnknownNameError: There is none of the name.
    """
    suite = find_suite(name)
    budget = suite.budget
    lines = [
        f"{suite.id}  {suite.title}",
        f"digest: {suite.sha256()}",
        f"seeds: {', '.join(map(str, suite.seeds))}; precision {suite.precision}; numbers version "
        f"{suite.numbers_version}",
        f"budget of a row: at most {budget.epochs:g} times the epochs of the adapter's recipe; "
        f"{f'{budget.tune} trials of tuning' if budget.tune else 'not tuned'}; "
        f"{f'{budget.parameters:,} trainable parameters' if budget.parameters else 'any number of parameters'}",
        f"references: {', '.join(suite.references) or 'none'}",
    ]
    for task in suite.tasks:
        lines += _task(task)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _task(task: SuiteTask) -> list[str]:
    options = ", ".join(f"{name}={value}" for name, value in task.options.items())
    limit = f", at most {task.limit} samples per split" if task.limit else ""
    lines = [
        f"task {task.task} (version {task.version}{f', {options}' if options else ''}{limit}) by {task.primary} on "
        f"{', '.join(task.encoders)}"
    ]
    if task.collected is not None:
        lines.append(f"  collected, --data {task.cohort}=PATH: {task.collected.release}; {task.collected.split}")
    if task.generated is not None:
        given = ", ".join(f"{name}={value}" for name, value in task.generated.options.items())
        writer, split = task.generated.writer, task.generated.split_hash
        lines.append(f"  generated without --data: {writer} ({given}), split {split}")
    return lines
