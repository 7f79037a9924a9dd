"""What features say of the site: the probe, what ComBat leaves, and who takes part."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medgraft.benchmarks.statistics.combat import combat
from medgraft.benchmarks.statistics.sites import LEAST_SUBJECTS, MOST_SITES, report_sites, site_words
from medgraft.errors import DataError
from medgraft.objective import make_objective
from medgraft.task import RawInputs, TaskData, subject_split

FRACTIONS = {"train": 0.6, "val": 0.1, "test": 0.3}
N = 240


@pytest.fixture(scope="module")
def combatlearn(tmp_path_factory) -> Iterator[None]:
    """The library, without what its pictures need, where the environment lacks the extra."""
    if importlib.util.find_spec("combatlearn") is not None:
        yield
        return
    folder = str(tmp_path_factory.mktemp("combatlearn"))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, "combatlearn>=2.3,<3"]
    subprocess.run(install, check=True, capture_output=True, timeout=200)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    yield
    sys.path.remove(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "combatlearn"]:
        del sys.modules[name]


def people(shift: float = 1.5, targets: str = "classes") -> tuple[TaskData, np.ndarray]:
    """Three sites that shift and scale four of twelve features; a label in one other; two samples a person."""
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(N // 2), 2)
    site, label = persons % 3, np.random.default_rng(1).integers(0, 2, N // 2)[persons]
    features = rng.standard_normal((N, 12))
    features[:, 1:5] = features[:, 1:5] * (1 + 0.3 * site)[:, None] + shift * (site - 1)[:, None]
    features[:, 0] += 1.5 * label
    subjects = np.array([f"s{k}" for k in persons])
    values = label.astype(np.int64) if targets == "classes" else 50 + 10 * features[:, 0] + rng.standard_normal(N)
    data = TaskData(
        inputs={"volume": RawInputs(lambda i: None, N, "")},
        targets=values,
        subjects=subjects,
        splits=subject_split(subjects, label, FRACTIONS, 0),
        classes=("no", "yes") if targets == "classes" else (),
        attributes={"site": np.array([("A", "B", 3.0)[k] for k in site], object)},
    )
    return data, features


def report(data: TaskData, features: np.ndarray, objective: str = "multiclass", primary: str = "auc_macro") -> Any:
    made = make_objective(objective, data, ("volume",))
    return report_sites(data, made, objective, primary, features, data.splits)


def test_a_probe_finds_the_site_and_nothing_where_there_is_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "combatlearn", None)
    found, blind = (report(*people(shift)) for shift in (1.5, 0.0))
    assert found.sites == 3 and found.left_out == {} and found.features == 12
    assert found.train_samples == 144 and found.test_samples == found.frozen.site_auc.n == 72
    assert found.frozen.site_auc.ci_low > 0.8 and found.frozen.site_auc.n_subjects == 36
    assert blind.frozen.site_auc.ci_low < 0.62  # the features' scales differ, of which a linear probe sees nothing
    assert found.frozen.task.ci_low > 0.65
    assert found.harmonised is None and found.note == "not harmonised: pip install 'medgraft[sites]'"


def test_the_auc_is_scikit_learns_mean_over_sites_of_a_regression_on_training_people(monkeypatch):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setitem(sys.modules, "combatlearn", None)
    data, features = people(0.5)
    said = report(data, features).frozen.site_auc.value
    words, train, test = np.array(site_words(data.attributes["site"])), data.splits["train"], data.splits["test"]
    scaler = StandardScaler().fit(features[train])
    reached = []
    for C in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        model = LogisticRegression(C=C, max_iter=10_000, tol=1e-8).fit(scaler.transform(features[train]), words[train])
        scores = model.predict_proba(scaler.transform(features[test]))
        aucs = [roc_auc_score(words[test] == name, scores[:, k]) for k, name in enumerate(model.classes_)]
        reached.append(np.mean(aucs))
    assert min(abs(each - said) for each in reached) < 1e-4  # one of the six strengths, solved to another tolerance


@pytest.mark.slow
def test_combat_takes_the_site_out_and_leaves_the_task(combatlearn):
    found = report(*people(1.5))
    assert found.harmonised.site_auc.value < 0.65 < 0.9 < found.frozen.site_auc.value
    assert abs(found.harmonised.task.value - found.frozen.task.value) < 0.05
    assert found.harmonisation.startswith("combatlearn 2.") and found.note == ""


@pytest.mark.slow
def test_combat_learns_from_training_samples_alone(combatlearn):
    data, features = people()
    words, train = np.array(site_words(data.attributes["site"])), data.splits["train"]
    first, _ = combat(features, words, train)
    other = features.copy()
    others = np.setdiff1d(np.arange(N), train)
    other[others] += 7.0
    second, _ = combat(other, words, train)
    np.testing.assert_allclose(first[train], second[train], atol=1e-12)
    for site in np.unique(words):  # within a site the map is a scale and a shift for each feature, the same for all
        rows = np.flatnonzero(words == site)
        for k in range(features.shape[1]):
            scale, shift = np.polyfit(
                features[train][words[train] == site][:, k], first[train][words[train] == site][:, k], 1
            )
            np.testing.assert_allclose(first[rows, k], scale * features[rows, k] + shift, atol=1e-6)


@pytest.mark.slow
def test_features_that_do_not_vary_stay(combatlearn):
    data, features = people()
    features[:, 7] = 1e5
    words = np.array(site_words(data.attributes["site"]))
    found, _ = combat(features, words, data.splits["train"])
    np.testing.assert_array_equal(found[:, 7], features[:, 7])
    assert not np.allclose(found[:, 1], features[:, 1])
    features[0, 0] = np.nan
    with pytest.raises(DataError, match="not harmonised: "):
        combat(features, words, data.splits["train"])


def test_numbers_have_a_report_too_and_other_tasks_that_of_the_site(monkeypatch):
    monkeypatch.setitem(sys.modules, "combatlearn", None)
    numbers = report(*people(targets="numbers"), objective="regression", primary="mae")
    assert numbers.metric == "mae" and 0.5 < numbers.frozen.task.value < 2.5  # the noise's own mean deviation is 0.8
    data, features = people()
    made = make_objective("multiclass", data, ("volume",))
    monkeypatch.setattr(made, "linear_problems", lambda data, index: None)
    found: Any = report_sites(data, made, "multiclass", "auc_macro", features, data.splits)
    assert found.frozen.task is None and found.frozen.site_auc.value > 0.9


def test_who_takes_no_part_is_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "combatlearn", None)
    data, features = people()
    sites = data.attributes["site"].copy()
    train = [data.subjects[i] for i in data.splits["train"]]
    sites[np.isin(data.subjects, [train[0]])] = None
    few = list(dict.fromkeys(train[2:]))[: LEAST_SUBJECTS - 1]
    sites[np.isin(data.subjects, few)] = "D"
    lone = data.subjects[data.splits["test"][0]]
    sites[data.subjects == lone] = "E"
    only = list(dict.fromkeys(train[2:]))[LEAST_SUBJECTS - 1 : 2 * LEAST_SUBJECTS - 1]
    sites[np.isin(data.subjects, only)] = "F"
    data.attributes = {"site": sites}
    found = report(data, features)
    assert found.sites == 3
    assert found.left_out == {
        "site unknown": 2,
        "a site with fewer than 3 training subjects": 2 * (LEAST_SUBJECTS - 1),
        "a site without test subjects": 2 * LEAST_SUBJECTS,
        "a site without training subjects": 2,
    }
    assert found.train_samples + found.test_samples + sum(found.left_out.values()) == 144 + 72


def test_where_sites_are_held_out_there_is_nothing_to_score(monkeypatch):
    data, features = people()
    words = np.array(site_words(data.attributes["site"]))
    data.splits = {
        "train": np.flatnonzero(words != "B"),
        "val": np.array([], int),
        "test": np.flatnonzero(words == "B"),
    }
    found = report(data, features)
    assert found.sites == 0 and found.frozen is None and "two are needed" in found.note


def test_data_of_one_site_or_none_have_no_report():
    data, features = people()
    for sites in (["A"] * N, [None] * N, ["A"] * (N - 1) + [None]):
        data.attributes = {"site": np.array(sites, object)}
        assert report(data, features) is None
    data.attributes = {"sex": np.array(["F"] * N)}
    assert report(data, features) is None


def test_of_many_sites_the_largest_take_part(monkeypatch):
    monkeypatch.setitem(sys.modules, "combatlearn", None)
    sites = MOST_SITES + 2
    persons = np.arange(sites * 5 + 30)
    site = np.where(persons < sites * 5, persons % sites, persons % 10)
    data = TaskData(
        inputs={"volume": RawInputs(lambda i: None, len(persons), "")},
        targets=(persons % 2).astype(np.int64),
        subjects=persons.astype(str),
        splits={"train": persons[: sites * 4], "val": persons[:0], "test": persons[sites * 4 :]},
        classes=("a", "b"),
        attributes={"site": np.array([f"s{k:02d}" for k in site], object)},
    )
    features = np.random.default_rng(0).standard_normal((len(persons), 2))
    found = report(data, features)
    assert found.sites == MOST_SITES and set(found.left_out) == {"beyond the 30 largest sites"}
