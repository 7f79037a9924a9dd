"""The examples in the docstrings of every package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import medgraft
import medgraft.adapters
import medgraft.benchmarks
import medgraft.encoders

CHECKOUT = Path(__file__).parents[2]
MODULES = sorted(
    {
        module.name
        for package in (medgraft, medgraft.adapters, medgraft.encoders, medgraft.benchmarks)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith(".__main__")  # a program, which runs when it is imported
    }
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


def test_every_file_with_an_example_is_among_them():
    folders = {
        "medgraft": "src/medgraft",
        "medgraft.adapters": "adapters",
        "medgraft.encoders": "encoders",
        "medgraft.benchmarks": "benchmarks",
    }
    for package, folder in folders.items():
        for path in (CHECKOUT / folder).rglob("*.py"):
            name = ".".join([package, *path.relative_to(CHECKOUT / folder).with_suffix("").parts])
            if ">>> " in path.read_text():
                assert name.removesuffix(".__init__") in {*MODULES, package}, path


def test_there_are_examples():
    named = {test.name for name in MODULES for test in examples(name)}
    assert {
        "medgraft.grafting.encoders.graft",
        "medgraft.adapters.parts.placement.depth_range",
        "medgraft.task.base.subject_split",
        "medgraft.encoders.inflate3d.inflate",
        "medgraft.benchmarks.metrics.regression.weighted_ranks",
    } <= named
