"""What a column of labels asks for: classes, several labels, a number, or a time that may be censored.

Nothing is guessed silently: what was understood is shown by ``medgraft inspect`` and stands in every result, and what
cannot be understood is refused with the remedy. The rules:

- several columns, each of 0, 1 and blanks: a label for each column (``multilabel``); a blank does not count;
- a column in which some value has a ``|``: the labels of a sample, joined (``multilabel``);
- whole numbers of at most :data:`MOST_NUMBERED` different values, and words: classes (``multiclass``);
- other numbers: ``regression``;
- a time and whether the event was seen: ``survival``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from medgraft.errors import DataError

Kind = Literal["multiclass", "multilabel", "regression", "survival"]
SEPARATOR = "|"
MOST_CLASSES, MOST_NUMBERED = 200, 20
"""More different words than the first are no classes, and more different whole numbers than the second are numbers."""

FEWEST_SUBJECTS = 3
"""Subjects that a class needs, one for each split."""

PRIMARY: dict[Kind, str] = {
    "multiclass": "auc_macro", "multilabel": "auc_macro", "regression": "mae", "survival": "c_index",
}  # fmt: skip
"""Metric that ranks rows of each kind."""

NO_LABEL = "no label"
TRUE, FALSE = {"1", "true", "yes", "1.0"}, {"0", "false", "no", "0.0"}


@dataclass
class Targets:
    """Labels as an objective takes them.

    Attributes:
        kind: The objective.
        values: ``int64 [n]`` classes, ``float32 [n, L]`` labels, or ``float64 [n]`` numbers or times.
        used: ``bool [n]``, false where a sample has no label.
        classes: Names; empty for numbers and times.
        mask: ``bool [n, L]``, true where a label counts; ``None`` for all.
        event: ``float64 [n]``, 1 where the event was seen; of times only.
        left_out: Reason -> samples that are not used for it.
    """

    kind: Kind
    values: np.ndarray
    used: np.ndarray
    classes: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    event: np.ndarray | None = None
    left_out: Counter[str] = field(default_factory=Counter[str])

    def at(self, rows: np.ndarray) -> Targets:
        """Those of some samples ``int64 [m]``."""
        return Targets(
            self.kind,
            self.values[rows],
            self.used[rows],
            self.classes,
            None if self.mask is None else self.mask[rows],
            None if self.event is None else self.event[rows],
        )

    def strata(self) -> np.ndarray:
        """A word for each sample ``[n]``, by which splits are balanced."""
        if self.kind == "multiclass":
            return self.values
        if self.kind == "multilabel":
            rare = np.argsort((self.values == 1).sum(axis=0), kind="stable")
            has = (self.values[:, rare] == 1).astype(int)
            return np.where(has.any(axis=1), rare[has.argmax(axis=1)], -1)
        if self.event is not None:
            return self.event
        ends = np.quantile(self.values[self.used], [0.25, 0.5, 0.75])
        return np.searchsorted(ends, np.where(self.used, self.values, 0.0))


def kind_of(table: pd.DataFrame, columns: Sequence[str], time: str, event: str, task: str) -> Kind:
    """What columns of labels ask for, by the rules above.

    Args:
        table: The data.
        columns: Names of the columns of labels; several for a label in each, none for a time.
        time: Column of times; empty for none.
        event: Column that says whether the event was seen.
        task: Whose options the remedy names.

    Raises:
        DataError: There is nothing to learn, or the words are too many to be classes.
    """
    if not columns:
        if time and event:
            return "survival"
        binary = [str(name) for name in table.columns if _is_binary(table[name])]
        remedy = f"--set {task}.label=COLUMN"
        if binary:
            remedy += f", or several of 0 and 1, such as {', '.join(binary[:12])}: --set {task}.label=A,B"
        names = ", ".join(map(str, table.columns[:30]))
        raise DataError(f"no column is called label, diagnosis or target; say which it is: {remedy}; it has: {names}")
    if len(columns) > 1:
        return "multilabel"
    values: Any = table[columns[0]].dropna()
    if values.empty:
        raise DataError(f"column {columns[0]!r} is empty in every row; name another: --set {task}.label=COLUMN")
    if pd.api.types.is_bool_dtype(values):
        return "multiclass"
    if pd.api.types.is_numeric_dtype(values):
        whole = bool((values == values.round()).all())
        return "multiclass" if whole and values.nunique() <= MOST_NUMBERED else "regression"
    return "multilabel" if values.astype(str).str.contains(SEPARATOR, regex=False).any() else "multiclass"


def _is_binary(values: Any) -> bool:
    words = {str(value).strip().lower() for value in values.dropna().unique()[:5]}
    return len(words) == 2 and words <= TRUE | FALSE


def read_targets(
    table: pd.DataFrame, columns: Sequence[str], kind: Kind, time: str = "", event: str = "", task: str = "table"
) -> Targets:
    """The labels of a table.

    Args:
        table: Of ``n`` rows.
        columns: Names of the columns of labels.
        kind: What they ask for.
        time: Column of times, for ``survival``.
        event: Column that says whether the event was seen.
        task: Whose options a remedy names.

    Raises:
        DataError: The values are not of the kind.
    """
    if kind == "survival":
        return _times(table, time, event)
    if kind == "regression":
        return _numbers(table, columns[0])
    if kind == "multilabel":
        return _labels(table, columns) if len(columns) > 1 else _joined_labels(table[columns[0]])
    return _classes(table[columns[0]], task)


def _classes(column: Any, task: str) -> Targets:
    words = [_word(value) for value in column]
    used = np.array([word is not None for word in words])
    counts = Counter(word for word in words if word is not None)
    if len(counts) > MOST_CLASSES or (len(counts) > 10 and len(counts) > 0.5 * used.sum()):
        raise DataError(
            f"column {column.name!r} holds {len(counts):,} different values in {used.sum():,} rows, which are no "
            f"classes; name another: --set {task}.label=COLUMN, or a text to read: --set {task}.text={column.name}"
        )
    if len(counts) < 2:
        raise DataError(f"every row has the label {next(iter(counts), None)!r}; there is nothing to tell apart")
    classes = tuple(sorted(counts, key=_in_order))
    index = {name: k for k, name in enumerate(classes)}
    values = np.array([-1 if word is None else index[word] for word in words], np.int64)
    return Targets("multiclass", values, used, classes, left_out=Counter({NO_LABEL: int((~used).sum())}))


def _lower_words(column: Any) -> list[str]:
    """Words of a column in lower case; empty for a blank."""
    return [(_word(value) or "").lower() for value in column]


def _word(value: Any) -> str | None:
    """A value as the name of a class; ``1.0`` of a column with blanks is ``1``."""
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value).strip() or None


def _in_order(word: str) -> tuple[bool, float, str]:
    """Numbers by size, before words by the alphabet."""
    try:
        return False, float(word), word
    except ValueError:
        return True, 0.0, word


def _joined_labels(column: Any) -> Targets:
    sets = [
        None if pd.isna(value) else {part.strip() for part in str(value).split(SEPARATOR) if part.strip()}
        for value in column
    ]
    used = np.array([bool(each) for each in sets], bool)
    counts = Counter(name for each in sets if each for name in each)
    if len(counts) > MOST_CLASSES:
        raise DataError(
            f"column {column.name!r} holds {len(counts):,} different labels; at most {MOST_CLASSES} are read"
        )
    classes = tuple(sorted(counts, key=_in_order))
    values = np.array([[name in (each or ()) for name in classes] for each in sets], np.float32)
    return Targets("multilabel", values, used, classes, left_out=Counter({NO_LABEL: int((~used).sum())}))


def _labels(table: pd.DataFrame, columns: Sequence[str]) -> Targets:
    values = np.zeros((len(table), len(columns)), np.float32)
    mask = np.zeros(values.shape, bool)
    for k, name in enumerate(columns):
        lower = _lower_words(table[name])
        if strange := sorted(set(lower) - TRUE - FALSE - {""}):
            raise DataError(
                f"column {name!r} holds {', '.join(map(repr, strange[:5]))}; a label in a column of its own is 0, 1 or "
                "blank where it does not count"
            )
        values[:, k], mask[:, k] = [word in TRUE for word in lower], [bool(word) for word in lower]
    used: np.ndarray = np.asarray(mask.any(axis=1))
    return Targets(
        "multilabel",
        values,
        used,
        tuple(columns),
        None if mask.all() else mask,
        left_out=Counter({NO_LABEL: int((~used).sum())}),
    )


def _numbers(table: pd.DataFrame, column: str) -> Targets:
    values = np.asarray(pd.to_numeric(table[column], errors="coerce"), np.float64)
    words = table[column].notna().to_numpy(bool) & np.isnan(values)
    used = np.isfinite(values)
    if used.sum() < 2 or len(np.unique(values[used])) < 2:
        raise DataError(f"column {column!r} has fewer than two different numbers; there is nothing to predict")
    left_out = Counter({NO_LABEL: int((~used & ~words).sum()), "a word in place of a number": int(words.sum())})
    return Targets("regression", np.where(used, values, 0.0), used, left_out=+left_out)


def _times(table: pd.DataFrame, time: str, event: str) -> Targets:
    times = np.asarray(pd.to_numeric(table[time], errors="coerce"), np.float64)
    lower = _lower_words(table[event])
    if strange := sorted(set(lower) - TRUE - FALSE - {""}):
        raise DataError(f"column {event!r} holds {', '.join(map(repr, strange[:5]))}; 1 means seen, 0 means censored")
    positive, known = np.isfinite(times) & (times > 0), np.array([bool(word) for word in lower])
    used = positive & known
    if not used.any():
        raise DataError(f"no row has a time above 0 in {time!r} and 0 or 1 in {event!r}")
    left_out = Counter({"no time above 0": int((~positive).sum()), "event unknown": int((positive & ~known).sum())})
    seen = np.array([word in TRUE for word in lower], np.float64)
    return Targets("survival", np.where(used, times, 1.0), used, event=seen, left_out=+left_out)


def without_rare(targets: Targets, subjects: np.ndarray) -> Targets:
    """Classes that fewer than three subjects have are left out, with their samples, by name and count.

    Args:
        targets: Of ``n`` samples.
        subjects: ``[n]`` keys.

    Raises:
        DataError: Fewer than two classes are left, or no label.
    """
    if not targets.classes:
        return targets
    many: list[int] = []
    used, values, left_out = targets.used.copy(), targets.values, Counter(targets.left_out)
    single = targets.kind == "multiclass"
    for k, name in enumerate(targets.classes):
        has = targets.used & ((values == k) if single else (values[:, k] == 1))
        count = len(np.unique(subjects[has]))
        if count >= FEWEST_SUBJECTS:
            many.append(k)
            continue
        left_out[f"class {name!r}, which {count} of the subjects {'has' if count == 1 else 'have'}"] = int(has.sum())
        if single:
            used &= ~has
    if len(many) < 1 + single:
        raise DataError(
            f"fewer than {1 + single} of the classes {', '.join(targets.classes)} have {FEWEST_SUBJECTS} subjects, "
            "one for each of training, validation and test"
        )
    classes = tuple(targets.classes[k] for k in many)
    if single:
        place = {k: i for i, k in enumerate(many)}
        kept = np.array([place.get(int(k), -1) for k in values], np.int64)
    else:
        kept = values[:, many]
    mask = targets.mask[:, many] if targets.mask is not None else None
    return Targets(targets.kind, kept, used, classes, mask, targets.event, +left_out)
