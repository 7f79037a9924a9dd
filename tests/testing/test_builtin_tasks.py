"""Every built-in task keeps every rule on a small phantom of its cohort, found through the entry points."""

from __future__ import annotations

import functools
import json

import pytest

from medgraft import plugins
from medgraft.benchmarks.results.values import json_safe
from medgraft.benchmarks.results.verification import DataFacts
from medgraft.task.names import build_task, variants_of
from medgraft.testing import Check, check_task
from medgraft.testing.phantoms import small_phantom

pytestmark = pytest.mark.slow(seconds=182)

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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if ":" not in name])
def test_a_board_reads_what_a_built_in_task_says_of_its_data(name):
    """A fact of another type than a board expects would leave every result of the task out of it."""
    task = build_task(name)
    facts = json_safe(task.load(small_phantom(task.cohort)).provenance)
    read = DataFacts.model_validate_json(json.dumps(facts))
    assert read.model_dump(exclude_unset=True).keys() == facts.keys()
