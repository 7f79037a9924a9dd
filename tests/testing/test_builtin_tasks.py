"""Every built-in task keeps every rule on a small phantom of its cohort, found through the entry points."""

from __future__ import annotations

import functools

import pytest

from medgraft import plugins
from medgraft.task.names import variants_of
from medgraft.testing import Check, check_task

NAMES = [
    name for task, plugin in plugins.discover("task").items() if plugin.builtin for name in (task, *variants_of(task))
]


@functools.cache
def checks(name: str) -> dict[str, Check]:
    return {str(check): check for check in check_task(name)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "check"), [(name, check) for name in NAMES for check in checks(name)])
def test_a_built_in_task_conforms(name, check):
    checks(name)[check]()
