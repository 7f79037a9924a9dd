"""A linear probe of any numbers: the regression that a head is, fitted exactly, and judged as a row is.

What stands beside a row (handcrafted features, features of the frozen encoder) is tuned as the row's own head is: its
strength of L2 is the best of six by folds of the training subjects, see
:mod:`medgraft.benchmarks.training.head_choice`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from medgraft.benchmarks.training.head_choice import Samples, choose_by_folds
from medgraft.benchmarks.training.linear_problems import Array, Linear, LinearProblem, fit_heads
from medgraft.metric import Predictions
from medgraft.objective import Objective
from medgraft.task import TaskData


def fit_probe(features: Array, problems: Sequence[LinearProblem], subjects: Array) -> Linear:
    """The best of the candidates, fitted to all samples.

    Args:
        features: ``float64 [n, D]``, finite.
        problems: Regressions on these samples; together they have every output.
        subjects: ``[n]``, by which folds are made.
    """
    from threadpoolctl import threadpool_limits

    samples = Samples(features, list(problems), subjects)
    with threadpool_limits(torch.get_num_threads()):  # sums depend on their order
        choice = choose_by_folds([samples], samples)
        (best,) = fit_heads(features, problems, [choice["C"]])
    return best


def probe_predictions(
    objective: Objective, name: str, data: TaskData, features: Array, splits: Mapping[str, Array]
) -> Predictions | None:
    """Test predictions of a probe of the task.

    Args:
        objective: Of the task.
        name: Its name.
        data: The task's data.
        features: ``float64 [n, D]`` of all samples; those of the splits are finite.
        splits: ``train``, ``val`` and ``test`` -> sample numbers.

    Returns:
        What the metrics of the task judge; ``None`` where its head is no regression.
    """
    train, test = splits["train"], splits["test"]
    problems = objective.linear_problems(data, train)
    if problems is None:
        return None
    linear = fit_probe(features[train], problems, data.subjects[train])

    def predict(index: Array) -> Array:
        return objective.of_outputs(torch.from_numpy(linear(features[index]))).double().numpy()

    _, groups = np.unique(data.subjects[test], return_inverse=True)
    return replace(objective.predictions(predict, splits, groups), objective=name)
