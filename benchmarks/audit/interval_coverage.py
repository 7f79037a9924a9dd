"""Do 95% intervals hold what they should? ``python -m benchmarks.audit.interval_coverage``: a simulation, as Markdown.

Test sets are drawn again and again from one population whose metrics are known from a very large sample: subjects of
three classes, several samples of each, whose logits are the class, the subject and chance. The share of test sets whose
interval holds the population's metric is the coverage. With seeds, the strength of the class differs from seed to seed,
by as much that the metric's deviation over seeds is a multiple of its deviation over test sets; the population's metric
is then the mean over all seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from medgraft.benchmarks.metrics.intervals import pooled_intervals
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.judging import judged, values
from medgraft.metric import Array, Predictions

NAMES = ("auc_macro", "f1_macro", "balanced_accuracy", "precision_macro")
STRENGTHS = np.linspace(-1.0, 3.0, 21)
LARGE = 20_000


def draw(
    rng: np.random.Generator, subjects: int, strengths: Sequence[float], shares: Sequence[float], per_subject: int = 1
) -> list[Predictions]:
    """Predictions of several seeds on one test set: half of a logit's chance is the subject's."""
    groups, K = np.repeat(np.arange(subjects), per_subject), len(shares)
    y = rng.choice(K, p=shares, size=subjects)[groups]
    shared = np.sqrt(0.5) * rng.normal(size=(subjects, K))[groups]
    predictions = []
    for strength in strengths:
        logits = shared + np.sqrt(0.5) * rng.normal(size=(len(groups), K)) + strength * np.eye(K)[y]
        odds = np.exp(logits)
        predictions.append(Predictions(odds / odds.sum(axis=1, keepdims=True), y, groups, tuple("abcdefgh"[:K])))
    return predictions


def _values(p: Predictions) -> Array:
    numbers = values(p)
    return np.array([numbers[name] for name in NAMES])


def of_subjects(
    subjects: int, repetitions: int, shares: Sequence[float] = (0.45, 0.45, 0.1), seed: int = 0
) -> dict[str, float]:
    """Coverage of a single cell's intervals, three samples per subject.

    Args:
        subjects: Of a test set.
        repetitions: Test sets.
        shares: Of the classes.
        seed: Of the drawing.
    """
    rng = np.random.default_rng(seed)
    truth = _values(draw(rng, LARGE, [1.0], shares, 3)[0])
    held = np.zeros(len(NAMES))
    for _ in range(repetitions):
        estimates = evaluate(draw(rng, subjects, [1.0], shares, 3)[0])
        held += [_holds((estimates[name].ci_low, estimates[name].ci_high), truth[i]) for i, name in enumerate(NAMES)]
    return dict(zip(NAMES, (held / repetitions).tolist(), strict=True))


def of_seeds(subjects: int, seeds: int, ratio: float, repetitions: int, seed: int = 0) -> dict[str, float]:
    """Coverage of a board row's intervals.

    Args:
        subjects: Of a test set.
        seeds: Of the row.
        ratio: Deviation of the AUC over seeds, in deviations over test sets.
        repetitions: Rows.
        seed: Of the drawing.
    """
    rng, shares = np.random.default_rng(seed), (1 / 3, 1 / 3, 1 / 3)
    curve = np.array([_values(draw(rng, LARGE, [strength], shares)[0]) for strength in STRENGTHS])
    at = [int(np.argmin(np.abs(STRENGTHS - each))) for each in (0.8, 1.2)]
    slope = (curve[at[1], 0] - curve[at[0], 0]) / (STRENGTHS[at[1]] - STRENGTHS[at[0]])
    spread = np.std([_values(draw(rng, subjects, [1.0], shares)[0])[0] for _ in range(200)])
    strengths = rng.normal(1.0, ratio * spread / slope, (repetitions, seeds))
    many = rng.normal(1.0, ratio * spread / slope, 100_000)
    truth = [np.interp(many, STRENGTHS, curve[:, i]).mean() for i in range(len(NAMES))]
    held = np.zeros(len(NAMES))
    for row_strengths in strengths:
        each = draw(rng, subjects, row_strengths.tolist(), shares)
        statistics = [judged(p).statistics for p in each]
        intervals = pooled_intervals(statistics, each[0].groups, dict.fromkeys(NAMES, (0.0, 1.0)))
        held += [_holds(intervals[name], truth[i]) for i, name in enumerate(NAMES)]
    return dict(zip(NAMES, (held / repetitions).tolist(), strict=True))


def _holds(ends: tuple[float | None, float | None], value: float) -> bool:
    low, high = ends
    return low is not None and high is not None and low <= value <= high


def main(arguments: list[str] | None = None) -> int:
    """Writes two tables of coverage to the output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit.interval_coverage", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000, help="test sets of each row")
    options = parser.parse_args(arguments)
    heads = " | ".join(NAMES)
    lines = [f"| subjects, rarest class 10% | {heads} |", "|---" * (1 + len(NAMES)) + "|"]
    for subjects in (30, 100, 300):
        coverage = of_subjects(subjects, options.repetitions)
        lines.append(f"| {subjects} | {' | '.join(f'{coverage[name]:.3f}' for name in NAMES)} |")
    lines += ["", f"| seeds | deviation over seeds / over test sets | {heads} |", "|---" * (2 + len(NAMES)) + "|"]
    for seeds in (2, 3, 5):
        for ratio in (0.0, 1.0, 2.0):
            coverage = of_seeds(100, seeds, ratio, options.repetitions)
            lines.append(f"| {seeds} | {ratio:g} | {' | '.join(f'{coverage[name]:.3f}' for name in NAMES)} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
