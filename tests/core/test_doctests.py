"""The examples in the docstrings of the core and of the adapters."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import medgraft
import medgraft.adapters

MODULES = sorted(
    module.name
    for package in (medgraft, medgraft.adapters)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.startswith(("medgraft.encoders", "medgraft.benchmarks"))
)


def examples(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name):
    runner = doctest.DocTestRunner(verbose=False)
    for test in examples(name):
        output: list[str] = []
        runner.run(test, out=output.append)
        assert not runner.failures, "".join(output)


def test_there_are_examples():
    named = {test.name for name in MODULES for test in examples(name)}
    assert {
        "medgraft.grafting.graft",
        "medgraft.adapters.placement.depth_range",
        "medgraft.task.subject_split",
    } <= named
