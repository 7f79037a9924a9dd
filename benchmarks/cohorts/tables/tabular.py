"""What the tables alone predict: logistic regressions that every image model has to beat.

They are fitted on the training subjects and scored on the test samples of the very split that the task's rows use, so
their numbers stand beside each row's own. Their strength of L2 is chosen as a linear probe's is, from the same values
by folds of the training subjects (:mod:`medgraft.benchmarks.training.head_choice`): a baseline is tuned like its
rivals.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.training.linear_problems import CANDIDATES
from medgraft.commands.plain_text import markdown_text
from medgraft.metric import Predictions
from medgraft.metric.judging import metric

PREDICTORS: dict[str, tuple[str, ...]] = {
    "age, sex": ("age", "female"),
    "age, sex, APOE": ("age", "female", "apoe4"),
    "cognition": ("age", "female", "education", "MMSE", "ADAS13", "RAVLT_immediate", "FAQ", "CDRSB"),
    "hippocampal volume": ("age", "female", "Hippocampus", "hippocampus_icv"),
    "all of them": (
        "age", "female", "education", "apoe4", "MMSE", "ADAS13", "RAVLT_immediate", "FAQ", "CDRSB", "Hippocampus",
        "hippocampus_icv",
    ),
}  # fmt: skip
"""Name of a baseline -> its columns. ``hippocampus_icv`` is the volume over the intracranial volume."""

FOLDS = 5
REPORTED = ("auc_macro", "f1_macro", "balanced_accuracy")
NOT_NUMBERS = ("fields", "n_train", "unavailable", "windows_left_out")
"""What a baseline says beside its metrics."""
MOST_KEPT = 8
"""Splits whose baselines a process remembers."""

_fitted_before: dict[str, dict[str, Any]] = {}


def predictors(frame: pd.DataFrame, baselines: Mapping[str, tuple[str, ...]] = PREDICTORS) -> pd.DataFrame:
    """The columns of some baselines from an ADNI table, NaN where missing."""
    table = frame.assign(
        female=[{"F": 1.0, "M": 0.0}.get(sex, np.nan) for sex in frame["sex"]],
        hippocampus_icv=frame["Hippocampus"] / frame["ICV"] if "ICV" in frame else np.nan,
    )
    names = list(dict.fromkeys(name for columns in baselines.values() for name in columns))
    numbers: Any = table[names].apply(pd.to_numeric, errors="coerce")
    return numbers.astype(float)


def table_baselines(
    frame: pd.DataFrame,
    targets: np.ndarray,
    splits: Mapping[str, np.ndarray],
    classes: Sequence[str],
    baselines: Mapping[str, tuple[str, ...]] = PREDICTORS,
    variants: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Fits every baseline whose columns the cohort has.

    Missing values take the training median, with a column that says so; values are standardised on the training rows.

    Args:
        frame: ADNI table, ``n`` rows.
        targets: ``int64 [n]`` class indices.
        splits: ``train`` and ``test`` row numbers.
        classes: Names of the classes.
        baselines: Name -> columns of the table.
        variants: Metrics beside those of classes, as the task asks for.

    Returns:
        Name -> ``fields``, ``n_train``, and the metrics of :data:`REPORTED` and ``variants``, each ``[value, low,
        high]`` with a 95% interval over subjects; or ``unavailable`` with the columns that hold nothing in the
        training rows.
    """
    table, subjects = predictors(frame, baselines), frame["subject"].to_numpy(str)
    digest = hashlib.sha256(repr((baselines, list(classes), len(splits["train"]), variants)).encode())
    for part in (table.to_numpy(), np.asarray(targets), subjects, splits["train"], splits["test"]):
        digest.update(np.ascontiguousarray(part).tobytes())
    key = digest.hexdigest()
    if key not in _fitted_before:  # a task is loaded several times in a process, and the fits take seconds
        if len(_fitted_before) >= MOST_KEPT:
            _fitted_before.pop(next(iter(_fitted_before)))
        _fitted_before[key] = _all_baselines(table, targets, subjects, splits, classes, baselines, variants)
    return copy.deepcopy(_fitted_before[key])


def _all_baselines(
    table: pd.DataFrame,
    targets: np.ndarray,
    subjects: np.ndarray,
    splits: Mapping[str, np.ndarray],
    classes: Sequence[str],
    baselines: Mapping[str, tuple[str, ...]],
    variants: tuple[str, ...],
) -> dict[str, Any]:
    train, test = splits["train"], splits["test"]
    out: dict[str, Any] = {}
    for name, columns in baselines.items():
        values = table[list(columns)].to_numpy()
        if empty := [column for k, column in enumerate(columns) if np.isnan(values[train, k]).all()]:
            out[name] = {"unavailable": empty}
            continue
        scores = regression_scores(values[train], values[test], targets, subjects, splits, classes, variants)
        out[name] = {"fields": list(columns), **scores}
    return out


def regression_scores(
    train: np.ndarray,
    test: np.ndarray,
    targets: np.ndarray,
    subjects: np.ndarray,
    splits: Mapping[str, np.ndarray],
    classes: Sequence[str],
    variants: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What a logistic regression on some features reaches; see :func:`table_baselines`.

    Args:
        train: Features of the training rows, ``[n_train, D]``; ``nan`` where missing.
        test: Features of the test rows, ``[n_test, D]``.
        targets: ``int64 [n]`` class indices of all rows.
        subjects: Subject of each row, ``[n]``.
        splits: ``train`` and ``test`` row numbers.
        classes: Names of the classes.
        variants: Metrics beside those of classes; their numbers are reported, too.

    Returns:
        ``n_train``, and each metric of :data:`REPORTED` and of ``variants`` as ``[value, low, high]``.
    """
    fit, judge = splits["train"], splits["test"]
    model = _fitted(train, targets[fit], subjects[fit])
    _, groups = np.unique(subjects[judge], return_inverse=True)
    p = Predictions(model.predict_proba(test), targets[judge], groups, tuple(classes), variants=variants)
    found = evaluate(p)
    names = [*REPORTED, *(number for each in variants for number in metric(each).numbers)]
    return {"n_train": len(fit)} | {
        name: [found[name].value, found[name].ci_low, found[name].ci_high] for name in names
    }


def _fitted(values: np.ndarray, targets: np.ndarray, subjects: np.ndarray) -> Any:
    """The regression on training rows ``[n, D]`` with the C of lowest log-loss over five folds of their subjects.

    Where a class has too few subjects for two folds, C is 1, scikit-learn's own default.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True),
        StandardScaler(),
        LogisticRegression(max_iter=10_000, class_weight="balanced"),
    )
    folds = min(FOLDS, *(len(np.unique(subjects[targets == label])) for label in np.unique(targets)))
    if folds < 2:
        return model.fit(values, targets)
    search = GridSearchCV(
        model,
        {"logisticregression__C": CANDIDATES},
        scoring="neg_log_loss",
        cv=StratifiedGroupKFold(folds),
    )
    with threadpool_limits(1):  # threads of so small a regression wait for each other, and for those of other cells
        return search.fit(values, targets, groups=subjects)


def baseline_table(baselines: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table of what :func:`table_baselines` and its like found; no row where there is nothing."""
    facts = [each for each in baselines.values() if "unavailable" not in each]
    numbers = list(dict.fromkeys(name for each in facts for name in each if name not in NOT_NUMBERS))
    rows = []
    for name, each in baselines.items():
        if "unavailable" in each:
            rows.append([name, f"not in this cohort: {', '.join(each['unavailable'])}", *("-" for _ in numbers)])
        else:
            shown = (_with_interval(each[number]) if number in each else "-" for number in numbers)
            rows.append([name, ", ".join(each["fields"]), *shown])
    return ["without an encoder", "fields", *numbers], rows


def baseline_lines(baselines: Mapping[str, Any]) -> list[str]:
    """The same as a Markdown table; nothing where there are none."""
    if not baselines:
        return []
    heads, rows = baseline_table(baselines)
    lines = [f"| {' | '.join(map(markdown_text, row))} |" for row in (heads, *rows)]
    said = "Regressions without an encoder, same training subjects and test samples:"
    return [said, "", lines[0], "|---" * len(heads) + "|", *lines[1:], ""]


def _with_interval(metric: Sequence[float | None]) -> str:
    value, low, high = metric
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
