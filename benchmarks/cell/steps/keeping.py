"""An optional step: the trained graft is kept, with what a prediction needs to know."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgraft.benchmarks.cell.kept import KeptFacts, Range, raw_facts, write_facts
from medgraft.benchmarks.cell.steps.evaluation import Evaluated
from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.cell.steps.validating import validation_score
from medgraft.errors import DataError
from medgraft.objective import objective_name, pair_of

LOOKED_AT = 64
"""Training samples from which the ranges are taken."""


def keep(ready: Ready, evaluated: Evaluated, folder: Path) -> None:
    """Writes the adapters, the head and the facts of a graft; of several ranks the first does.

    Args:
        ready: Trained.
        evaluated: What it reached.
        folder: A new one.
    """
    loaded, task, spec = ready.loaded, ready.loaded.task, ready.spec
    score = validation_score(ready, evaluated.validation)  # to which all ranks may predict a part
    if ready.runner.world.rank > 0:
        return
    ready.grafted.save(folder)
    ready.runner.objective.save(folder)
    metric, calibration = evaluated.metrics.get(task.primary), evaluated.calibration
    scaling = None if calibration is None else calibration.scaling
    facts = KeptFacts(
        key=spec.key(),
        task=spec.task,
        cohort=spec.cohort.name,
        phantom=loaded.data.phantom or spec.cohort.phantom,
        encoder=spec.encoder,
        precision=spec.precision,
        inputs=task.inputs,
        objective=objective_name(task.objective),
        pair=pair_of(task),
        classes=loaded.data.classes,
        prompts=loaded.data.prompts,
        uncertain_class=loaded.data.uncertain_class,
        state=ready.runner.objective.state(),
        thresholds=None if evaluated.thresholds is None else tuple(map(float, evaluated.thresholds)),
        temperatures=None if scaling is None else scaling.temperatures,
        sets=None if calibration is None or calibration.sets is None else calibration.sets.rule,
        primary=task.primary,
        validation=score,
        test=(None, None, None) if metric is None else (metric.value, metric.ci_low, metric.ci_high),
        split_hash=loaded.data.split_hash(),
        colour=any(raw.colour for raw in loaded.data.inputs.values()),
        ranges=_ranges(loaded),
    )
    write_facts(facts, folder)


def _ranges(loaded: Loaded) -> dict[str, dict[str, Range]]:
    train = loaded.splits["train"]
    chosen = np.random.default_rng(0).permutation(train)[:LOOKED_AT]
    ranges: dict[str, dict[str, Range]] = {}
    for name in loaded.task.inputs:
        seen: dict[str, list[float]] = {}
        for index in chosen:
            try:
                facts = raw_facts(loaded.data.inputs[name].read(int(index)))
            except DataError:
                continue
            for fact, value in facts.items():
                seen.setdefault(fact, []).append(value)
        if seen:
            ranges[name] = {fact: Range(low=min(each), high=max(each)) for fact, each in seen.items()}
    return ranges
