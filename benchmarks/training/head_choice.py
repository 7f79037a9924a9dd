"""How strongly a linear head is held back: one choice of six strengths of L2 for every adapter, made by the harness.

Every adapter that ends in a linear head on its features competes with a linear probe, and a head that is regularised
well is worth as much as some adapters. So all heads get the same six candidates (``CANDIDATES``) and are
judged in the same way, by log-loss on subjects that had no part in what is judged:

- **Nothing but the head is trained** (the linear probe): the features owe nothing to the training subjects. Each
  candidate is fitted on four fifths of the *training* subjects and scored on the fifth, five times, stratified by class
  (``StratifiedGroupKFold``); the best one is fitted on all of them, in place of any gradient descent. No seed and no
  validation sample enters.
- **An adapter is trained too**: its features are over-fitted to every training subject, so a fold of them says nothing.
  The adapter trains with its head as ever; then a head is fitted for each candidate on the final features of the
  training split, and these six and the trained head itself are scored on the *validation* split. The best of the six
  takes the trained head's place if it is better by more than one standard error, over validation subjects, of the
  difference: 25 subjects tell a candidate from its neighbour no better than a coin (the one-standard-error rule of
  Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3).

The test split is never looked at. Log-loss and not AUC, because it is defined on every fold and split whatever classes
they hold, says which of two equally ranking heads is calibrated (thresholds and F1 depend on it), and differs smoothly
between candidates where AUC jumps. One strength serves all labels of a task: few subjects cannot choose five.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medgraft.adapter import Adapter
from medgraft.benchmarks.objectives.heads import Head, joined
from medgraft.benchmarks.training.linear_problems import (
    CANDIDATES,
    COARSE,
    Array,
    Linear,
    LinearProblem,
    fit_heads,
    mean_loss,
)
from medgraft.benchmarks.training.trainer import EVAL_BATCH, Runner, batches
from medgraft.benchmarks.training.training_state import TrainingLog
from medgraft.registry import TrainDefaults

FOLDS = 5
FALLBACK = 1.0
"""scikit-learn's own default, where there are too few subjects to compare candidates."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Samples:
    """Training samples as a head reads them.

    Attributes:
        features: ``float64 [n, D]``.
        problems: What is fitted.
        subjects: ``[n]``.
    """

    features: Array
    problems: list[LinearProblem]
    subjects: Array

    def part(self, rows: Array) -> Samples:
        """Some of them, ``rows`` as numbers ``[m]``."""
        problems = [problem.part(rows) for problem in self.problems]
        return Samples(self.features[rows], problems, self.subjects[rows])


def train(
    runner: Runner, train_index: Array, val_index: Array, how: TrainDefaults, seed: int, progress: Progress
) -> TrainingLog:
    """Trains a graft on the samples ``[n]`` of two indices and chooses its head, as the module says.

    Args:
        runner: The graft with its head.
        train_index: Training samples.
        val_index: Validation samples.
        how: Hyper-parameters; with 0 epochs nothing is trained or chosen.
        seed: Of the order of the samples.
        progress: Called with the share that is done.
    """
    objective, head = runner.objective, runner.grafted.head
    adapters = [adapter for _, adapter in runner.grafted.named_adapters()]
    if not isinstance(head, Head) or objective.linear_problems(runner.data, train_index) is None:
        return runner.fit(train_index, how, seed, progress)
    if how.epochs == 0 or not all(adapter.refit_head for adapter in adapters):
        return runner.fit(train_index, how, seed, progress)
    runner.require_trainable()
    if not any(_changes_in_training(adapter) for adapter in adapters):
        with _same_threads():
            return _probe(runner, head, train_index, progress)
    log = runner.fit(train_index, how, seed, progress)
    with _same_threads():
        log.head = _refit(runner, head, train_index, val_index)
    return log


def _same_threads() -> AbstractContextManager[Any]:
    """The BLAS behind scikit-learn with as many threads as torch has: sums depend on their order."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(torch.get_num_threads())


def _changes_in_training(adapter: Adapter) -> bool:
    """Whether training the adapter changes its features: by a gradient, or by hand behind each step."""
    by_hand = type(adapter).after_step is not Adapter.after_step
    return by_hand or any(parameter.requires_grad for parameter in adapter.parameters())


def _features(runner: Runner, index: Array, view: int | None = None) -> Array:
    """What the head reads, ``float64 [n, D]``, as a prediction computes it; each process runs a part, all get all."""
    runner.grafted.eval()
    rows = []
    with torch.no_grad():
        for part in batches(index[runner.world.rows(len(index))], EVAL_BATCH):
            outputs = runner.outputs(part, None if view is None else np.full(len(part), view))
            rows.append(joined(outputs, runner.objective.inputs).double().cpu().numpy())
    return runner.gathered(np.concatenate(rows), len(index))


def _samples(runner: Runner, index: Array, view: int | None = None) -> Samples:
    problems = runner.objective.linear_problems(runner.data, index)
    return Samples(_features(runner, index, view), list(problems or ()), np.asarray(runner.data.subjects[index]))


def _seen(runner: Runner, index: Array) -> list[Samples]:
    """What training saw: the samples, or each of their augmented views in their place."""
    views = range(len(next(iter(runner.views.values()), ())))
    return [_samples(runner, index, view) for view in views] or [_samples(runner, index)]


def _fitted(
    seen: Sequence[Samples], candidates: Sequence[float] = CANDIDATES, tolerance: float | None = None
) -> list[Linear]:
    """A head for each candidate on all views, each of ``K`` views counting one ``K``-th."""
    problems = [each[0].joined(each) for each in zip(*(samples.problems for samples in seen), strict=True)]
    features = np.concatenate([each.features for each in seen])
    weights = None if len(seen) == 1 else np.full(len(features), 1 / len(seen))
    more = {} if tolerance is None else {"tolerance": tolerance}
    return fit_heads(features, problems, candidates, weights, **more)


# --- nothing but the head ---------------------------------------------------------------------------------------------


def _probe(runner: Runner, head: Head, index: Array, progress: Progress) -> TrainingLog:
    seen = _seen(runner, index)
    held_out = _samples(runner, index) if runner.views else seen[0]
    choice = choose_by_folds(seen, held_out, progress)
    (best,) = _fitted(seen, [choice["C"]])
    head.take(best.weight, best.bias)
    progress(1.0)
    return TrainingLog([mean_loss(held_out.problems, best(held_out.features))], head=choice)


def choose_by_folds(
    seen: Sequence[Samples], held_out: Samples, progress: Progress = lambda share: None
) -> dict[str, Any]:
    """The candidate with the lowest log-loss over five folds of the training subjects.

    A fold is scored on the samples whose class its training part holds too. Of equal candidates the strongest
    regularisation is taken.

    Args:
        seen: The samples to fit on, or each of their views.
        held_out: The samples to score on, in the same order.
        progress: Called with the share that is done.

    Returns:
        What the result says of the choice: ``rule``, ``C``, ``candidates`` with the log-loss of each in nats,
        ``folds``, ``subjects``, and ``one_class``: labels without two classes in training, which got a constant.
    """
    losses: list[list[Array]] = [[] for _ in CANDIDATES]
    folds = 0
    for number, problem in enumerate(held_out.problems):
        parts = _folds(problem, held_out.subjects)
        folds = max(folds, len(parts))
        for done, (inside, outside) in enumerate(parts):
            heads = _fitted([_only(each, number, inside) for each in seen], tolerance=COARSE)
            judged = problem.judgeable(inside, outside)
            fold = _only(held_out, number, outside[judged])
            for i, linear in enumerate(heads):
                losses[i].append(fold.problems[0].losses(linear(fold.features)))
            progress((number + (done + 1) / len(parts)) / (len(held_out.problems) + 1))
    scores = [float(np.concatenate(each).mean()) if each and len(np.concatenate(each)) else None for each in losses]
    known_scores = [np.inf if score is None else score for score in scores]
    enough = bool(np.isfinite(known_scores).any())
    return {
        "rule": f"lowest {held_out.problems[0].loss_name}, {folds}-fold cross-validation over training subjects"
        if enough
        else "too few training subjects of two classes to cross-validate",
        "C": CANDIDATES[int(np.argmin(known_scores))] if enough else FALLBACK,
        **_summary(held_out.problems[0], CANDIDATES, scores),
        "folds": folds,
        "subjects": len(np.unique(held_out.subjects)),
        "one_class": [problem.name for problem in held_out.problems if not problem.trainable],
    }


def _summary(
    problem: LinearProblem, strengths: Sequence[float | None], scores: Sequence[float | None]
) -> dict[str, Any]:
    """What a result says of the candidates: the regression that they are of, and the mean loss of each."""
    loss = problem.loss_name.replace("-", "_").replace(" ", "_")
    return {
        "regression": problem.regression,
        "candidates": [{"C": C, loss: score} for C, score in zip(strengths, scores, strict=True)],
    }


def _only(samples: Samples, number: int, rows: Array) -> Samples:
    """One problem on some samples, its outputs numbered from 0."""
    part = replace(samples, problems=[samples.problems[number]]).part(rows)
    (problem,) = part.problems
    return replace(part, problems=[replace(problem, outputs=tuple(range(len(problem.outputs))))])


def _folds(problem: LinearProblem, subjects: Array) -> list[tuple[Array, Array]]:
    """Samples to fit on and to score on, five times at most; only folds whose first part holds two classes."""
    from sklearn.model_selection import StratifiedGroupKFold

    counting = np.flatnonzero(problem.rows)
    if not problem.trainable:
        return []
    strata, groups = problem.strata()[counting], subjects[counting]
    count = min(FOLDS, len(np.unique(groups)), int(np.bincount(strata).max()))
    if count < 2:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer members than folds
        parts = list(StratifiedGroupKFold(count).split(counting, strata, groups))
    folds = [(counting[inside], counting[outside]) for inside, outside in parts if len(outside)]
    return [(inside, outside) for inside, outside in folds if problem.part(inside).trainable]


# --- behind a trained adapter -----------------------------------------------------------------------------------------


def _refit(runner: Runner, head: Head, train_index: Array, val_index: Array) -> dict[str, Any]:
    if not len(val_index):
        return {"rule": "there is no validation split, so the trained head stays", "C": None}
    seen, val = _seen(runner, train_index), _samples(runner, val_index)
    choice = choose_by_validation(seen, val, Linear(*head.folded()))
    if choice["C"] is not None:
        (linear,) = _fitted(seen, [choice["C"]])
        head.take(linear.weight, linear.bias)
    return choice


def choose_by_validation(seen: Sequence[Samples], val: Samples, trained: Linear) -> dict[str, Any]:
    """The candidate with the lowest log-loss on validation samples, if it is clearly better than the trained head.

    Args:
        seen: The samples to fit on, or each of their views.
        val: Validation samples.
        trained: The head as training left it.

    Returns:
        What the result says of the choice: ``rule``, ``C`` (``None`` for the trained head), ``candidates`` with the
        log-loss of each in nats, ``gain`` of the best candidate over the trained head and its ``standard_error``,
        ``subjects``, and ``one_class``: labels without two classes in training.
    """
    heads = [trained, *_fitted(seen, tolerance=COARSE)]
    logits = [linear(val.features) for linear in heads]
    scores = [mean_loss(val.problems, each) for each in logits]
    choice: dict[str, Any] = {
        "rule": f"lowest {val.problems[0].loss_name} on the validation split, in place of the trained head if by over "
        "one standard error",
        "C": None,
        **_summary(val.problems[0], (None, *CANDIDATES), [None if np.isnan(score) else score for score in scores]),
        "subjects": len(np.unique(val.subjects)),
        "one_class": [problem.name for problem in seen[0].problems if not problem.trainable],
    }
    if not np.isfinite(scores).all():
        return choice | {"rule": "no validation sample has a label, so the trained head stays"}
    best = 1 + int(np.argmin(scores[1:]))
    gain, error = scores[0] - scores[best], _standard_error(val, logits[0], logits[best])
    return choice | {"gain": gain, "standard_error": error, "C": CANDIDATES[best - 1] if gain > error else None}


def _standard_error(samples: Samples, first: Array, second: Array) -> float:
    """Of the difference of two heads' mean losses over subjects, ``inf`` for one subject.

    A mean over samples of subjects that have different numbers of them is a ratio; its linearised variance is
    Cochran's, "Sampling Techniques", 1977, section 6.3.
    """
    subjects = np.unique(samples.subjects, return_inverse=True)[1]
    n = int(subjects.max()) + 1
    sums, counts = np.zeros(n), np.zeros(n)
    for problem in samples.problems:
        groups = subjects[problem.rows]
        np.add.at(sums, groups, problem.losses(first) - problem.losses(second))
        np.add.at(counts, groups, 1)
    if n < 2:
        return float("inf")
    rest = sums - counts * sums.sum() / counts.sum()
    return float(np.sqrt(np.square(rest).sum() * n / (n - 1)) / counts.sum())
