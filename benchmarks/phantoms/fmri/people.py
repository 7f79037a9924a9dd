"""People of the fMRI phantom, and the signals of their networks: where the labels lie, and how well they can be told.

Six networks have a signal each, white in time with variance 1. The first two go together with correlation
``tanh(c)``, where ``c`` is a person's own: normal about ``+GAP / 2`` in controls and ``-GAP / 2`` in autism, with
deviation ``SPREAD``. The next two go together likewise by sex. The last two by age, ``c`` rising along the range of
ages. Nothing else depends on any of the three.

A site has one diagnosis as often as the other. What is its own is the image: a field of brightness over the brain, the
noise, and the time between volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NETWORKS = 6
GAP, SPREAD = 1.2, 0.35
"""Of the couplings of two classes: the difference of their means, and the deviation within each."""

YOUNGEST, OLDEST = 7.0, 40.0
AGE_GAP = 1.6
"""Difference of the mean coupling between the youngest and the oldest."""

STEPS = (2.0, 1.5, 2.5, 3.0)
"""Seconds between volumes at each site in turn."""


@dataclass(frozen=True)
class Person:
    """One made-up person.

    Attributes:
        number: From 0.
        site: From 0.
        autism: The diagnosis.
        female: The sex.
        age: In years.
        couplings: ``c`` of the three pairs of networks, ``[3]``.
    """

    number: int
    site: int
    autism: bool
    female: bool
    age: float
    couplings: tuple[float, float, float]


def people_of(count: int, sites: int, seed: int) -> list[Person]:
    """Made-up people: sites in turn, diagnoses in turn at each site, sexes in turn of each diagnosis there.

    Args:
        count: People.
        sites: Sites.
        seed: Defines their ages and couplings.
    """
    people = []
    for number in range(count):
        rng = np.random.default_rng([seed, 11, number])
        within = number // sites
        autism, female = bool(within % 2), bool(within // 2 % 2)
        age = round(float(rng.uniform(YOUNGEST, OLDEST)), 2)
        along = (age - YOUNGEST) / (OLDEST - YOUNGEST) - 0.5
        means = (GAP * (0.5 - autism), GAP * (0.5 - female), AGE_GAP * along)
        a, b, c = (float(rng.normal(mean, SPREAD)) for mean in means)
        people.append(Person(number, number % sites, autism, female, age, (a, b, c)))
    return people


def network_signals(person: Person, volumes: int, seed: int, run: int) -> Array:
    """Signals of the networks in one run, ``float64 [volumes, 6]``, pairs correlated by ``tanh`` of the couplings."""
    noise = np.random.default_rng([seed, 12, person.number, run]).standard_normal((volumes, 3, 2))
    correlation = np.tanh(person.couplings)
    second = correlation[:, None] * noise[..., :1] + np.sqrt(1 - correlation**2)[:, None] * noise[..., 1:]
    return np.concatenate([noise[..., :1], second], axis=2).reshape(volumes, NETWORKS)


def best_scores(volumes: int, draws: int = 20_000) -> dict[str, float]:
    """What the best rule reaches that sees the networks' own signals in one run: F1 macro and AUC of two classes.

    The rule is the likelihood ratio of the two classes. Of ``T`` pairs of values with variance 1 and correlation ``r``
    all that counts is the sum of their squares and that of their products; the likelihood is averaged over couplings by
    a grid of 201 points. Classes are equally frequent, so by symmetry F1 macro is the accuracy of large samples. It is
    drawn, not solved: 20,000 draws leave a standard error of 0.003. A reader of images sees noise, too.

    Args:
        volumes: Of a run.
        draws: People that are drawn.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    rng = np.random.default_rng(0)
    second = rng.random(draws) < 0.5
    rho = np.tanh(rng.normal(GAP * (0.5 - second), SPREAD))
    # Sums over T volumes: of (a + b)^2 / 2 and (a - b)^2 / 2, which are independent, scaled chi-squared numbers.
    plus, minus = (1 + rho) * rng.chisquare(volumes, draws), (1 - rho) * rng.chisquare(volumes, draws)
    evidence = []
    for sign in (1, -1):
        grid = sign * GAP / 2 + SPREAD * np.linspace(-5, 5, 201)
        weight = np.exp(-0.5 * np.linspace(-5, 5, 201) ** 2)
        r = np.tanh(grid)
        log = -0.5 * (volumes * np.log1p(-(r**2)) + plus[:, None] / (1 + r) + minus[:, None] / (1 - r))
        top = log.max(axis=1, keepdims=True)
        evidence.append(top[:, 0] + np.log(np.exp(log - top) @ (weight / weight.sum())))
    ratio = evidence[1] - evidence[0]
    return {"f1_macro": float(f1_score(second, ratio > 0, average="macro")), "auc": float(roc_auc_score(second, ratio))}
