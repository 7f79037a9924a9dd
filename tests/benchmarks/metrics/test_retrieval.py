"""Retrieval between modalities against plain loops, and probes against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medgraft.benchmarks.metrics.space.probes import SpaceProbes
from medgraft.benchmarks.metrics.space.retrieval import Retrieval, hit_shares
from medgraft.benchmarks.objectives.space.probes import subsets_of
from medgraft.metric import Predictions, value_of

N, K, COMMON = 17, 5, 3
NAMES = ("volume", "pet", "dmri")


def predictions(seed: int = 0, *, groups: np.ndarray | None = None, alike: float = 1.0) -> Predictions:
    rng = np.random.default_rng(seed)
    person = rng.normal(size=(N, K))
    scores = np.concatenate([person * alike + rng.normal(size=(N, K)) for _ in NAMES], axis=1)
    targets = rng.integers(0, 2, N)
    columns = {f"present_{name}": rng.random(N) < 0.8 for name in NAMES} | {"common": np.full(N, COMMON)}
    columns |= {f"matched_{name}": rng.normal(size=(N, 2)) for name in NAMES}
    chances = rng.random(N)
    for name in ("probe_common_pet", "probe_common_dmri", "probe_specific_pet", "subset_volume+pet"):
        chances = np.where(rng.random(N) < 0.9, rng.random(N), np.nan)
        columns[name] = np.stack([1 - chances, chances], axis=1)
    return Predictions(scores, targets, np.arange(N) if groups is None else groups, ("CN", "AD"), columns=columns)


def by_hand(p: Predictions, a: int, b: int, k: int, *, confounds: bool = False) -> tuple[float, float]:
    """Share of queries, both ways, whose partner is among the first ``k``, and what guessing reaches."""
    both = [i for i in range(N) if all(p.columns[f"present_{NAMES[m]}"][i] for m in (a, b))]
    hits, chance = [], []
    for one, two in ((a, b), (b, a)):
        for i in both:
            gallery = [j for j in both if j == i or p.groups[j] != p.groups[i]]

            def near(j: int, i: int = i, one: int = one, two: int = two) -> float:
                if confounds:
                    told = [p.columns[f"matched_{NAMES[m]}"] for m in (one, two)]
                    return -float(np.linalg.norm(told[0][i] - told[1][j]))
                x, y = (p.scores[row, m * K : m * K + COMMON] for row, m in ((i, one), (j, two)))
                return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

            order = sorted(gallery, key=near, reverse=True)
            hits.append(order.index(i) < k)
            chance.append(min(1, k / len(gallery)))
    return float(np.mean(hits)), float(np.mean(chance))


@pytest.mark.parametrize("groups", [None, np.arange(N) // 2])
def test_retrieval_is_the_share_of_partners_among_the_first(groups):
    p = predictions(groups=groups)
    numbers = {name: value_of(each, N) for name, each in Retrieval().statistics(p).items()}
    assert set(Retrieval.numbers) <= set(numbers)
    for k in (1, 5):
        pairs = {(a, b): by_hand(p, a, b, k) for a, b in ((0, 1), (0, 2), (1, 2))}
        for (a, b), (hit, _) in pairs.items():
            assert numbers[f"r{k}_{NAMES[a]}_{NAMES[b]}"] == pytest.approx(hit, abs=1e-12)
            told = by_hand(p, a, b, k, confounds=True)[0]
            assert numbers[f"r{k}_{NAMES[a]}_{NAMES[b]}_confounds"] == pytest.approx(told, abs=1e-12)
        anchored = [pairs[0, 1], pairs[0, 2]]
        assert numbers[f"r{k}_anchor"] == pytest.approx(np.mean([hit for hit, _ in anchored]), abs=1e-12)
        assert numbers[f"r{k}_anchor_chance"] == pytest.approx(np.mean([guess for _, guess in anchored]), abs=1e-12)
        assert numbers[f"r{k}_emergent"] == numbers[f"r{k}_pet_dmri"]


def test_the_specific_part_does_not_count():
    p = predictions()
    moved = p.scores.copy().reshape(N, 3, K)
    moved[:, :, COMMON:] = 99.0
    other = Predictions(moved.reshape(N, -1), p.targets, p.groups, p.classes, columns=p.columns)
    assert value_of(Retrieval().statistics(other)["r1_anchor"], N) == value_of(
        Retrieval().statistics(p)["r1_anchor"], N
    )


def test_a_space_that_has_collapsed_retrieves_by_chance():
    p = predictions()
    flat = Predictions(np.ones_like(p.scores), p.targets, p.groups, p.classes, columns=p.columns)
    numbers = {name: value_of(each, N) for name, each in Retrieval().statistics(flat).items()}
    for name in ("r1_anchor", "r5_anchor", "r1_emergent", "r5_emergent"):
        assert numbers[name] == pytest.approx(numbers[f"{name}_chance"], rel=1e-12)


def test_weights_weigh_the_queries_and_leave_the_gallery():
    p = predictions(alike=0.7)
    statistic = Retrieval().statistics(p)["r1_volume_pet"]
    both = p.columns["present_volume"] & p.columns["present_pet"]
    single = statistic(np.eye(N))
    assert np.isnan(single[~both]).all() and np.isin(single[both], (0, 0.5, 1)).all()
    assert value_of(statistic, N) == pytest.approx(single[both].mean())
    weights = np.random.default_rng(1).integers(0, 4, (3, N)).astype(float)
    expected = [np.average(single[both], weights=row[both]) for row in weights]
    assert statistic(weights) == pytest.approx(expected)


def test_nobody_with_both_is_undefined():
    p = predictions()
    columns = {**p.columns, "present_pet": np.zeros(N, bool)}
    none = Predictions(p.scores, p.targets, p.groups, p.classes, columns=columns)
    numbers = {name: value_of(each, N) for name, each in Retrieval().statistics(none).items()}
    assert np.isnan(numbers["r1_volume_pet"]) and np.isnan(numbers["r1_emergent"])
    assert numbers["r1_anchor"] == numbers["r1_volume_dmri"]


def test_without_confounds_none_are_matched():
    p = predictions()
    columns = {name: column for name, column in p.columns.items() if not name.startswith("matched")}
    without = Predictions(p.scores, p.targets, p.groups, p.classes, columns=columns)
    assert not any("confounds" in name for name in Retrieval().statistics(without))


def test_one_sample_alone_finds_itself():
    found = hit_shares(np.array([[0.3]]), np.ones(1, bool), np.zeros(1, int))
    assert {k: rows.tolist() for k, rows in found.items()} == {0: [1], 1: [1.0], 5: [1.0]}


def test_probes_are_the_areas_of_scikit_learn():
    p = predictions(3)
    numbers = {name: value_of(each, N) for name, each in SpaceProbes().statistics(p).items()}

    def area(column: str) -> float:
        rows = p.columns[column]
        asked = np.isfinite(rows[:, 1])
        return float(roc_auc_score(p.targets[asked], rows[asked, 1]))

    parts = [area("probe_common_pet"), area("probe_common_dmri")]
    assert numbers["probe_common"] == pytest.approx(np.mean(parts))
    assert numbers["probe_common_pet"] == pytest.approx(parts[0])
    assert numbers["probe_specific"] == pytest.approx(area("probe_specific_pet"))
    assert numbers["subset_volume_pet"] == pytest.approx(area("subset_volume+pet"))


@pytest.mark.parametrize(("count", "subsets"), [(2, 3), (3, 7), (4, 15), (5, 11), (6, 13)])
def test_every_subset_is_asked_as_long_as_they_are_few(count, subsets):
    found = subsets_of([str(k) for k in range(count)])
    assert len(found) == len(set(found)) == subsets
