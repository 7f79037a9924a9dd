"""Batches of samples that are alike, so that telling them apart is hard."""

from __future__ import annotations

import numpy as np

QUEUE = 8
"""Batches that one queue of samples fills."""


def group_similar(index: np.ndarray, features: np.ndarray, size: int, queue: int = QUEUE) -> np.ndarray:
    """Samples in an order in which consecutive ones are alike, a queue at a time.

    The grouped mini-batch sampling of Byun et al., "GRIT-VLP", ECCV 2022 (arXiv 2208.04060): within a queue of randomly
    drawn samples each is followed by the most similar one that is left, and the queue is cut into batches. Theirs takes
    similarities of image and text; here they are those of one embedding. The order of the batches stays random, since
    queues and their first samples are.

    Args:
        index: Samples in random order, ``int64 [n]``.
        features: Embedding of every sample of the data, ``float [N, C]``; NaN where there is none yet, and such a
            sample goes to the end of its queue.
        size: Samples of a batch.
        queue: Batches that a queue fills.

    Returns:
        The same samples, ``int64 [n]``.

    Example:
        >>> points = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
        >>> group_similar(np.array([0, 1, 2, 3]), points, 2).tolist()
        [0, 2, 3, 1]
    """
    parts = [_chained(index[start : start + queue * size], features) for start in range(0, len(index), queue * size)]
    return np.concatenate(parts) if parts else index


def _chained(index: np.ndarray, features: np.ndarray) -> np.ndarray:
    rows = features[index]
    known = np.flatnonzero(np.isfinite(rows).all(axis=1))
    if len(known) < 2:
        return index
    unit = rows[known] / np.maximum(np.linalg.norm(rows[known], axis=1, keepdims=True), 1e-12)
    alike = unit @ unit.T
    left = np.ones(len(known), bool)
    chain = [0]
    left[0] = False
    while left.any():
        chain.append(int(np.argmax(np.where(left, alike[chain[-1]], -np.inf))))
        left[chain[-1]] = False
    others = np.setdiff1d(np.arange(len(index)), known)
    return index[np.concatenate([known[chain], others])]
