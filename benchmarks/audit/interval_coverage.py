"""Do 95% intervals hold what they should? ``python -m benchmarks.audit.interval_coverage``: a simulation, as Markdown.

Test sets are drawn again and again from one population whose metrics are known from a very large sample: subjects of
three classes, several samples of each, whose logits are the class, the subject and chance. The share of test sets whose
interval holds the population's metric is the coverage. With seeds, the strength of the class differs from seed to seed,
by as much that the metric's deviation over seeds is a multiple of its deviation over test sets; the population's metric
is then the mean over all seeds. Differences of two rows on the same test sets, and gaps between groups, likewise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import estimates, left_out_of
from medgraft.benchmarks.metrics.calibration import Brier
from medgraft.benchmarks.metrics.classification import F1, Accuracy, Auc
from medgraft.benchmarks.metrics.dense import Dice
from medgraft.benchmarks.metrics.groups import metrics_by_groups
from medgraft.benchmarks.metrics.intervals import paired_interval, pooled_intervals
from medgraft.benchmarks.metrics.regression import Errors
from medgraft.metric import Array, Metric, Predictions, value_of
from medgraft.metric.judging import judged, objective_of, values

NAMES = ("auc_macro", "f1_macro", "balanced_accuracy", "precision_macro")
STRENGTHS = np.linspace(-1.0, 3.0, 21)
LARGE = 60_000
"""Subjects that stand for the population."""
PER_SUBJECT = 3
JUDGED: tuple[tuple[Metric, ...], ...] = ((Auc(), F1(), Accuracy(), Brier()), (Errors(),), (Dice(),))
"""Metrics of the classes, the numbers and the masks of a simulated test set."""
RESAMPLES = 200
CLUSTERED = ("auc_macro", "f1_b", "f1_macro", "balanced_accuracy", "accuracy", "brier", "mae", "dice")
"""Numbers whose coverage is simulated; ``f1_b`` is that of the rarer class alone."""
PAIRED = ("f1_macro", "auc_macro", "accuracy")
"""Numbers of which differences of two rows, and gaps between groups, are simulated."""


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


def _numbers(p: Predictions, names: Sequence[str]) -> dict[str, float]:
    statistics = judged(p).statistics
    return {name: value_of(statistics[name], len(p.targets)) for name in names}


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
    subjects: int,
    prevalence: float,
    repetitions: int,
    names: Sequence[str] = CLUSTERED,
    seed: int = 0,
    large: int = LARGE,
) -> dict[str, Coverage]:
    """Coverage of a single cell's intervals, three samples per subject.

    Args:
        subjects: Of a test set; how many of them are of the rarer class is chance.
        prevalence: Share of the rarer of two classes.
        repetitions: Test sets.
        names: Numbers wanted, of :data:`CLUSTERED`.
        seed: Of the drawing.
        large: Subjects that stand for the population.
    """
    rng = np.random.default_rng([seed, subjects, round(100 * prevalence)])
    truth = {
        name: value_of(part, len(p.targets))
        for p, metrics in zip(_clustered(rng, large, prevalence), JUDGED, strict=True)
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


def of_seeds(
    subjects: int, seeds: int, ratio: float, repetitions: int, seed: int = 0, large: int = LARGE
) -> dict[str, float]:
    """Coverage of a board row's intervals.

    Args:
        subjects: Of a test set.
        seeds: Of the row.
        ratio: Deviation of the AUC over seeds, in deviations over test sets.
        repetitions: Rows.
        seed: Of the drawing.
        large: Subjects that stand for the population.
    """
    rng, shares = np.random.default_rng(seed), (1 / 3, 1 / 3, 1 / 3)
    curve = np.array([_values(draw(rng, large, [strength], shares)[0]) for strength in STRENGTHS])
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


def of_differences(
    subjects: int,
    seeds: int,
    spread: float,
    repetitions: int,
    names: Sequence[str] = PAIRED,
    seed: int = 0,
    large: int = LARGE,
) -> dict[str, Coverage]:
    """Coverage of paired differences of two rows on the same subjects, three of ten of the rarer class.

    Args:
        subjects: Of a test set, three samples of each.
        seeds: Of either row.
        spread: Deviation of a row's strength over its seeds; the rows' mean strengths are 1 and 1.6.
        repetitions: Pairs of rows.
        names: Numbers wanted.
        seed: Of the drawing.
        large: Subjects that stand for the population.
    """
    rng, shares = np.random.default_rng([seed, subjects, seeds]), (0.7, 0.3)
    at = STRENGTHS if spread else np.array([1.0, 1.6])
    curves = [_numbers(draw(rng, large, [strength], shares)[0], names) for strength in at]
    many = rng.normal(0.0, spread, 20_000)
    held, without = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    truth = {
        name: np.subtract(*(np.interp(mean + many, at, curve).mean() for mean in (1.6, 1.0)))
        for name, curve in ((name, [each[name] for each in curves]) for name in names)
    }
    for _ in range(repetitions):
        strengths = np.concatenate([mean + rng.normal(0.0, spread, seeds) for mean in (1.6, 1.0)])
        rows = draw(rng, subjects, strengths.tolist(), shares, PER_SUBJECT)
        seen, left_out = [judged(p) for p in rows], left_out_of(rows[0])
        for name in names:
            parts = [each.statistics[name] for each in seen]
            ends = paired_interval(parts[:seeds], parts[seeds:], left_out, seen[0].metrics[name], RESAMPLES)
            without[name] += ends[0] is None
            held[name] += _holds(ends, truth[name])
    return {
        name: Coverage(held[name] / max(repetitions - without[name], 1), without[name] / repetitions) for name in names
    }


def of_gaps(
    strengths: Sequence[float], subjects: int, repetitions: int, seed: int = 0, large: int = LARGE
) -> dict[str, Coverage]:
    """Coverage of the gap between groups of people, of whom three in ten are of the rarer class.

    Args:
        strengths: Of each group.
        subjects: Of each group, one sample of each.
        repetitions: Test sets.
        seed: Of the drawing.
        large: Subjects that stand for the population.
    """
    rng, shares = np.random.default_rng([seed, subjects, len(strengths)]), (0.7, 0.3)
    words = np.repeat([f"group {g}" for g in range(len(strengths))], subjects)
    whole = [_numbers(draw(rng, large, [strength], shares)[0], PAIRED) for strength in strengths]
    truth = {name: float(np.ptp([each[name] for each in whole])) if len(set(strengths)) > 1 else 0.0 for name in PAIRED}
    held, without = dict.fromkeys(PAIRED, 0), dict.fromkeys(PAIRED, 0)
    for _ in range(repetitions):
        parts = [draw(rng, subjects, [strength], shares)[0] for strength in strengths]
        scores, targets = (np.concatenate([getattr(p, name) for p in parts]) for name in ("scores", "targets"))
        p = Predictions(scores, targets, np.arange(len(words)), parts[0].classes)
        metrics = {name: judged(p).metrics[name] for name in PAIRED}
        found = metrics_by_groups(
            lambda rows, p=p: judged(p.of(rows)).statistics,
            metrics,
            p.groups,
            words,
            strata=lambda rows, p=p: objective_of(p).strata(p.of(rows)),
            resamples=RESAMPLES,
        )
        for name in PAIRED:
            of_metric = found.of(name) if found is not None else None
            gap = (None, None) if of_metric is None else (of_metric.gap.ci_low, of_metric.gap.ci_high)
            without[name] += gap[0] is None
            held[name] += _holds(gap, truth[name])
    return {
        name: Coverage(held[name] / max(repetitions - without[name], 1), without[name] / repetitions) for name in PAIRED
    }


def _holds(ends: tuple[float | None, float | None], value: float) -> bool:
    low, high = ends
    return low is not None and high is not None and low <= value <= high


def main(arguments: list[str] | None = None) -> int:
    """Writes tables of coverage to the output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit.interval_coverage", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000, help="test sets of a row; a quarter for seeds")
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES), help="default: all")
    parser.add_argument("--population", type=int, default=LARGE, help="subjects that stand for the population")
    options = parser.parse_args(arguments)
    parts = ["\n".join(TABLES[name](options.repetitions, options.population)) for name in options.tables]
    sys.stdout.write("\n\n".join(parts) + "\n")
    return 0


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(each)} |" for each in (heads, ["---"] * len(heads), *rows)]


def _cells(coverage: dict[str, Coverage]) -> list[str]:
    return [f"{each.share:.3f}" + (f" ({each.without:.0%} none)" if each.without else "") for each in coverage.values()]


def _subjects_table(repetitions: int, large: int) -> list[str]:
    rows = [
        [str(subjects), f"{prevalence:g}", *_cells(of_subjects(subjects, prevalence, repetitions, large=large))]
        for subjects in (30, 100, 300)
        for prevalence in (0.1, 0.5)
    ]
    return _table(["subjects", "prevalence", *CLUSTERED], rows)


def _seeds_table(repetitions: int, large: int) -> list[str]:
    rows = []
    for seeds in (2, 3, 5):
        for ratio in (0.0, 1.0, 2.0):
            coverage = of_seeds(100, seeds, ratio, max(repetitions // 4, 1), large=large)
            rows.append([str(seeds), f"{ratio:g}", *(f"{coverage[name]:.3f}" for name in NAMES)])
    return _table(["seeds", "deviation over seeds / over test sets", *NAMES], rows)


def _differences_table(repetitions: int, large: int) -> list[str]:
    rows = [
        [
            str(subjects),
            str(seeds),
            f"{spread:g}",
            *_cells(of_differences(subjects, seeds, spread, repetitions, large=large)),
        ]
        for subjects in (30, 100)
        for seeds, spread in ((1, 0.0), (3, 0.3))
    ]
    return _table(["subjects", "seeds", "deviation of strength over seeds", *PAIRED], rows)


def _gaps_table(repetitions: int, large: int) -> list[str]:
    rows = [
        [", ".join(f"{each:g}" for each in strengths), *_cells(of_gaps(strengths, 40, repetitions, large=large))]
        for strengths in ((1.0, 1.0), (0.8, 1.2), (1.0,) * 4, (0.5, 1.0, 1.0, 1.5))
    ]
    return _table(["strength in each group of 40 subjects", *PAIRED], rows)


TABLES: dict[str, Callable[[int, int], list[str]]] = {
    "subjects": _subjects_table,
    "seeds": _seeds_table,
    "differences": _differences_table,
    "gaps": _gaps_table,
}
"""Table -> its lines, of so many repetitions and so large a population."""


if __name__ == "__main__":
    sys.exit(main())
