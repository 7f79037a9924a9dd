"""Texts as columns of numbers, since predictions hold nothing else: UTF-8, a row for each sample, zeros behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.metric import Array, Predictions

GENERATED, REFERENCE = "generated", "reference"


def as_column(texts: Sequence[str]) -> Array:
    """Texts as ``uint8 [n, longest]``; a zero character inside one would end it, and is left out.

    Example:
        >>> as_column(["ab", ""]).tolist()
        [[97, 98], [0, 0]]
    """
    rows = [text.replace("\0", "").encode() for text in texts]
    column = np.zeros((len(rows), max([1, *map(len, rows)])), np.uint8)
    for row, content in zip(column, rows, strict=True):
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return column


def texts_of(column: Array) -> list[str]:
    """The texts of a column ``[n, longest]``; bytes that are no UTF-8 become the sign for that."""
    return [bytes(row[: int((row != 0).sum())]).decode(errors="replace") for row in column.astype(np.uint8)]


def pairs_of(p: Predictions) -> list[tuple[str, str]]:
    """Generated text and reference of each sample."""
    return list(zip(texts_of(p.columns[GENERATED]), texts_of(p.columns[REFERENCE]), strict=True))
