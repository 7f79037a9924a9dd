"""``--suite``: a sweep as a suite defines it, and which of its cells may cite it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.errors import ConfigError
from medgraft.registry import CohortEntry, PresetEntry, VariantEntry
from medgraft.suites import Suite, SuiteTask
from medgraft.task.names import build_task

FROZEN = (
    "tasks", "encoders", "seeds", "preset", "precision", "limit", "tune", "budget", "augment_views", "calibrate",
    "baselines",
)  # fmt: skip
"""Options of ``run`` that a suite has decided."""

REFERENCE = "reference"
"""Label of the rows that a suite brings along."""


def with_suite(values: Mapping[str, Any], suite: Suite) -> dict[str, Any]:
    """Values of a request with those of a suite.

    Args:
        values: Of the request.
        suite: That it is to run.

    Raises:
        ConfigError: The request decides something that the suite has decided.
    """
    if taken := [name for name in FROZEN if values.get(name) is not None]:
        option = f"--{taken[0].replace('_', '-')}"
        raise ConfigError(f"{option}: suite {suite.id} says which; leave the option out, or run without --suite")
    tasks = {each.task for each in suite.tasks}
    if named := [name for name in (values.get("options") or {}) if name in tasks]:
        raise ConfigError(f"--set {named[0]}: suite {suite.id} has decided the options of its tasks")
    limits = {each.limit for each in suite.tasks}
    return {
        **values,
        "tune": suite.budget.tune,
        "budget": suite.budget.parameters,
        "baselines": False,
        "limit": limits.pop() if len(limits) == 1 else None,
        "tasks": [each.task for each in suite.tasks],
    }


def as_preset(suite: Suite) -> PresetEntry:
    """A suite as the size of a sweep."""
    generated = {each.cohort: each.generated for each in suite.tasks if each.generated is not None}
    return PresetEntry(
        title=suite.title,
        seeds=suite.seeds,
        cohorts={name: CohortEntry(writer=each.writer, options=each.options) for name, each in generated.items()},
        options={each.task: each.options for each in suite.tasks if each.options},
        precision=suite.precision,
        tasks=tuple(each.task for each in suite.tasks),
        variants=tuple(VariantEntry(adapter=name, label=f"{REFERENCE} {name}") for name in suite.references),
        encoders={each.task: each.encoders for each in suite.tasks},
    )


def task_of(suite: Suite, spec: CellSpec) -> SuiteTask | None:
    """The task of a suite that a cell is of, by name."""
    return next((each for each in suite.tasks if each.task == spec.task), None)


def misfit_of_spec(suite: Suite, spec: CellSpec) -> str:
    """Why a cell is not one of a suite's, in words; empty where it is, as far as its specification tells.

    Args:
        suite: The suite.
        spec: Of the cell.
    """
    task = task_of(suite, spec)
    if task is None:
        return f"the suite has no task {spec.task}"
    facts = {
        "the task's version is": (task.version, spec.task_version),
        "the task's options are": (_recorded(task), spec.task_options),
        "the limit of samples per split is": (task.limit, spec.limit),
        "the number of trials is": (suite.budget.tune, spec.tune),
        "the budget of parameters is": (suite.budget.parameters, spec.budget),
        "the precision is": (suite.precision, spec.precision),
        "the number of augmented views is": (0, spec.augment_views),
        "the version of the harness's numbers is": (suite.numbers_version, spec.numbers_version),
        "calibration is": ("none", spec.calibrate),
    }
    for what, (wanted, found) in facts.items():
        if wanted != found:
            return f"{what} {found or 'none'}, not {wanted or 'none'}"
    if spec.encoder not in task.encoders:
        return f"encoder {spec.encoder} is not one of the suite's ({', '.join(task.encoders)})"
    if spec.seed not in suite.seeds:
        return f"seed {spec.seed} is not one of the suite's ({', '.join(map(str, suite.seeds))})"
    if spec.cohort.phantom and task.generated is None:
        return "the suite knows no generated cohort of the task"
    if not spec.cohort.phantom and task.collected is None:
        return "the suite is of generated cohorts alone"
    return ""


def misfit(suite: Suite, cell: CellResult) -> str:
    """Why a result is not one of a suite's, in words; empty where it is, whoever asked for it.

    One that cites another version of the suite and not this one is not, whatever it holds.

    Args:
        suite: The suite.
        cell: The result.
    """
    others = [cited for cited in cell.suites if cited.rpartition(" v")[0] == suite.name]
    if others and suite.id not in others:
        return f"it cites {' and '.join(others)}"
    if reason := misfit_of_spec(suite, cell.spec):
        return reason
    task = task_of(suite, cell.spec)
    assert task is not None
    if cell.status != "success":
        return ""
    if cell.phantom != cell.spec.cohort.phantom:
        return "the data say otherwise than the specification whether they are generated"
    split = str(cell.data.get("split_hash") or "")
    if cell.phantom and task.generated is not None and split != task.generated.split_hash:
        return f"its split is {split[:12] or 'unknown'}, not {task.generated.split_hash[:12]}"
    if cell.primary != task.primary and task.primary not in cell.metrics:
        return f"it has no {task.primary}"
    if cell.metric_versions.get(task.primary, 1) != task.metric_version:
        return f"{task.primary} is of version {cell.metric_versions[task.primary]}, not {task.metric_version}"
    from medgraft.benchmarks.fairness.marks import recipe_epochs

    usual = cell.training.get("recipe_epochs") or recipe_epochs(cell.spec.adapter)
    if usual and cell.training.get("steps") and cell.spec.train.epochs > suite.budget.epochs * usual:
        return f"it was trained for {cell.spec.train.epochs} epochs; the suite allows {suite.budget.epochs * usual:g}"
    return ""


def _recorded(task: SuiteTask) -> dict[str, Any]:
    return build_task(task.task, task.options).config.recorded()
