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
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import estimates, left_out_of
from medgraft.benchmarks.metrics.calibration import Brier
from medgraft.benchmarks.metrics.classification import F1, Accuracy, Auc
from medgraft.benchmarks.metrics.dense import Dice
from medgraft.benchmarks.metrics.intervals import pooled_intervals
from medgraft.benchmarks.metrics.regression import Errors
from medgraft.metric import Array, Metric, Predictions, value_of
from medgraft.metric.judging import judged, values

NAMES = ("auc_macro", "f1_macro", "balanced_accuracy", "precision_macro")
STRENGTHS = np.linspace(-1.0, 3.0, 21)
LARGE = 60_000
PER_SUBJECT = 3
JUDGED: tuple[tuple[Metric, ...], ...] = ((Auc(), F1(), Accuracy(), Brier()), (Errors(),), (Dice(),))
"""Metrics of the classes, the numbers and the masks of a simulated test set."""
RESAMPLES = 200
CLUSTERED = ("auc_macro", "f1_b", "f1_macro", "balanced_accuracy", "accuracy", "brier", "mae", "dice")
"""Numbers whose coverage is simulated; ``f1_b`` is that of the rarer class alone."""


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


@dataclass(frozen=True)
class Coverage:
    """Of the intervals of one number.

    Attributes:
        share: Of the test sets with an interval, those whose interval holds the population's value.
        without: Share of the test sets that give no interval: too few subjects of a class.
    """

    share: float
    without: float


def of_subjects(
    subjects: int, prevalence: float, repetitions: int, names: Sequence[str] = CLUSTERED, seed: int = 0
) -> dict[str, Coverage]:
    """Coverage of a single cell's intervals, three samples per subject.

    Args:
        subjects: Of a test set; how many of them are of the rarer class is chance.
        prevalence: Share of the rarer of two classes.
        repetitions: Test sets.
        names: Numbers wanted, of :data:`CLUSTERED`.
        seed: Of the drawing.
    """
    rng = np.random.default_rng([seed, subjects, round(100 * prevalence)])
    truth = {
        name: value_of(part, len(p.targets))
        for p, metrics in zip(_clustered(rng, LARGE, prevalence), JUDGED, strict=True)
        for metric in metrics
        for name, part in metric.statistics(p).items()
    }
    held, without = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _ in range(repetitions):
        for p, metrics in zip(_clustered(rng, subjects, prevalence), JUDGED, strict=True):
            of_metric = {name: (part, each) for each in metrics for name, part in each.statistics(p).items()}
            wanted = {name: part for name, (part, _) in of_metric.items() if name in names}
            found = estimates(wanted, p, RESAMPLES, metrics={name: each for name, (_, each) in of_metric.items()})
            for name, each in found.items():
                without[name] += each.ci_low is None
                held[name] += _holds((each.ci_low, each.ci_high), truth[name])
    return {
        name: Coverage(held[name] / max(repetitions - without[name], 1), without[name] / repetitions) for name in names
    }


def _clustered(rng: np.random.Generator, subjects: int, prevalence: float) -> list[Predictions]:
    """Predictions of classes, of a number, and of masks of one test set."""
    [classes] = draw(rng, subjects, [1.0], (1 - prevalence, prevalence), PER_SUBJECT)
    groups, n = classes.groups, len(classes.groups)

    def noise() -> Array:
        return np.sqrt(0.5) * (rng.normal(size=subjects)[groups] + rng.normal(size=n))

    target = rng.normal(size=n)
    numbers = Predictions((target + noise())[:, None], target, groups, (), objective="regression")
    dice = 1 / (1 + np.exp(-1.7 - 1.1 * noise()))
    drawn = rng.integers(400, 2000, n).astype(float)
    masks = Predictions(
        np.stack([dice * drawn, drawn, drawn], axis=1), np.ones(n, int), groups, ("mask",), objective="segmentation"
    )
    return [classes, numbers, masks]


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
        seen = [judged(p) for p in each]
        metrics = {name: seen[0].metrics[name] for name in NAMES}
        intervals = pooled_intervals([one.statistics for one in seen], left_out_of(each[0]), metrics)
        held += [_holds(intervals[name], truth[i]) for i, name in enumerate(NAMES)]
    return dict(zip(NAMES, (held / repetitions).tolist(), strict=True))


def _holds(ends: tuple[float | None, float | None], value: float) -> bool:
    low, high = ends
    return low is not None and high is not None and low <= value <= high


def main(arguments: list[str] | None = None) -> int:
    """Writes two tables of coverage to the output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit.interval_coverage", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000, help="test sets of a row; a quarter for seeds")
    options = parser.parse_args(arguments)
    lines = [f"| subjects | prevalence | {' | '.join(CLUSTERED)} |", "|---" * (2 + len(CLUSTERED)) + "|"]
    for subjects in (30, 100, 300):
        for prevalence in (0.1, 0.5):
            coverage = of_subjects(subjects, prevalence, options.repetitions)
            cells = (
                f"{each.share:.3f}" + (f" ({each.without:.0%} none)" if each.without else "")
                for each in coverage.values()
            )
            lines.append(f"| {subjects} | {prevalence:g} | {' | '.join(cells)} |")
    heads = " | ".join(NAMES)
    lines += ["", f"| seeds | deviation over seeds / over test sets | {heads} |", "|---" * (2 + len(NAMES)) + "|"]
    for seeds in (2, 3, 5):
        for ratio in (0.0, 1.0, 2.0):
            coverage = of_seeds(100, seeds, ratio, max(options.repetitions // 4, 1))
            lines.append(f"| {seeds} | {ratio:g} | {' | '.join(f'{coverage[name]:.3f}' for name in NAMES)} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
