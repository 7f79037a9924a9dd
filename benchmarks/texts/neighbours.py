"""Training reports of similar samples, by the cosine of frozen features.

Retrieval for report generation as in Ramesh et al., "Improving Radiology Report Generation Systems by Removing
Hallucinated References to Non-existent Priors", ML4H 2022 (arXiv 2210.06340), and Yu et al., 2023: the nearest reports
by image features. The search is exact: FAISS's flat index of inner products (Johnson et al., 2019, arXiv 1702.08734)
where it is installed, else scikit-learn's brute force; both give the same neighbours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.metrics.texts.columns import as_column, texts_of
from medgraft.errors import CheckpointError, DataError

Array = NDArray[np.float32]
ARRAYS = ("features", "texts", "subjects")


class ReportIndex:
    """Training reports by the features of their samples.

    Args:
        features: ``[n, D]``, of frozen towers; their lengths do not count.
        texts: Report of each.
        subjects: Whom each is of, as any values that can be told apart; those of a query's own subject are never
            neighbours.

    Raises:
        DataError: The lengths differ, or a feature is not finite.
    """

    def __init__(self, features: np.ndarray, texts: Sequence[str], subjects: Sequence[str]) -> None:
        if features.ndim != 2 or not len(features) == len(texts) == len(subjects):
            shape = list(features.shape)
            raise DataError(f"features {shape}, {len(texts)} reports and {len(subjects)} subjects are no index")
        if not np.isfinite(features).all():
            raise DataError("the features of the training reports are not finite; look at the encoder")
        self.features = unit(features)
        self.texts = list(texts)
        self.subjects = np.asarray([str(each) for each in subjects], dtype=object)

    def nearest(self, queries: np.ndarray, count: int, subjects: Sequence[str | None]) -> list[list[int]]:
        """Numbers of the nearest reports of each query, nearest first.

        Args:
            queries: Features ``[B, D]``.
            count: Reports for each; fewer where there are fewer of other subjects.
            subjects: Whom each query is of, ``None`` where nobody knows.
        """
        if not len(queries) or not len(self.texts) or count < 1:
            return [[] for _ in queries]
        own = [0 if who is None else int((self.subjects == str(who)).sum()) for who in subjects]
        asked = min(len(self.texts), count + max(own, default=0))
        found = _search(self.features, unit(queries), asked)
        return [
            [int(i) for i in row if who is None or self.subjects[i] != str(who)][:count]
            for row, who in zip(found, subjects, strict=True)
        ]

    def save(self, path: Path) -> None:
        """Writes it as a file of arrays; subjects become numbers."""
        from safetensors.numpy import save_file

        _, numbers = np.unique(self.subjects.astype(str), return_inverse=True)
        save_file({"features": self.features, "texts": as_column(self.texts), "subjects": numbers}, path)

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> ReportIndex:
        """The index in the arrays of a file: features ``[n, D]``, texts ``[n, bytes]``, subjects ``[n]``.

        Raises:
            CheckpointError: They are no index.
        """
        if missing := [name for name in ARRAYS if name not in arrays]:
            raise CheckpointError(f"the index of training reports has no {missing[0]}; keep the graft again")
        try:
            return cls(arrays["features"], texts_of(arrays["texts"]), [str(each) for each in arrays["subjects"]])
        except DataError as error:
            raise CheckpointError(f"the index of training reports is damaged: {error}") from error


def unit(features: np.ndarray) -> Array:
    """Rows ``[n, D]`` of length 1 in single precision; zero where they are zero."""
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(features / np.maximum(lengths, 1e-12), np.float32)


def _search(keys: Array, queries: Array, count: int) -> np.ndarray:
    """Numbers of the ``count`` keys with the largest inner product, ``int64 [B, count]``, equal ones by number."""
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        index = faiss.IndexFlatIP(keys.shape[1])
        index.add(keys)  # pyright: ignore
        found = index.search(queries, count)[1]  # pyright: ignore
    else:
        found = by_scikit_learn(keys, queries, count)
    return _in_order(keys, queries, found)


def by_scikit_learn(keys: Array, queries: Array, count: int) -> np.ndarray:
    """The same by scikit-learn, of keys ``[n, D]``: of unit vectors cosines are in the order of inner products."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count, algorithm="brute", metric="cosine").fit(keys).kneighbors(queries)[1]


def _in_order(keys: Array, queries: Array, found: np.ndarray) -> np.ndarray:
    """Neighbours by inner products to six digits, then by number: libraries round their last bits differently."""
    products = np.einsum("bd,bkd->bk", queries.astype(np.float64), keys[found].astype(np.float64)).round(6)
    order = np.lexsort((found, -products), axis=1)
    return np.take_along_axis(found, order, axis=1)


INTRODUCTION = "Similar reports: "
BETWEEN = " | "


def with_reports(prompt: str, reports: Sequence[str], room: int, tokens: Sequence[int], own: int) -> str:
    r"""A prompt behind as many reports as fit, the nearest first.

    Args:
        prompt: The question.
        reports: Nearest first.
        room: Tokens that prompt and reports may take together.
        tokens: Of each report with what stands before it.
        own: Tokens of the prompt with the introduction.

    Example:
        >>> with_reports("What is seen?", ["Clear lungs.", "A mass."], 20, [6, 9], 8)
        'Similar reports: Clear lungs.\nWhat is seen?'
    """
    used, kept = own, []
    for report, length in zip(reports, tokens, strict=True):
        used += length
        if used > room:
            break
        kept.append(" ".join(report.split()))
    return f"{INTRODUCTION}{BETWEEN.join(kept)}\n{prompt}" if kept else prompt
