"""The arrays of a cache entry: half precision where it holds the values, and never an infinity that was not there."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medgraft.benchmarks.prefix_cache.arrays import Column, RowWriter, stored
from medgraft.features import Features

HALF = 2**-11
"""Relative rounding error of half precision."""
TINY = 2**-25
"""Absolute rounding error where half precision runs out of exponents."""

REALS = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32))


@given(REALS)
def test_what_is_stored_is_what_was_there_up_to_rounding(values):
    kept = stored(torch.from_numpy(values)).astype(np.float32)
    for special in (np.isnan, np.isposinf, np.isneginf):
        assert np.array_equal(special(kept), special(values))
    finite = np.isfinite(values)
    np.testing.assert_allclose(kept[finite], values[finite], rtol=HALF, atol=TINY)


@given(REALS)
def test_single_precision_is_taken_only_where_half_would_be_infinite(values):
    # 65520 lies halfway between the largest half, 65504, and what would follow; it rounds to infinity.
    beyond = np.isfinite(values) & (np.abs(values) >= 65520)
    assert stored(torch.from_numpy(values)).dtype == (np.float32 if beyond.any() else np.float16)


def test_bf16_ids_and_masks():
    assert stored(torch.tensor([3e38], dtype=torch.bfloat16)).item() == pytest.approx(3e38, rel=1e-2)
    assert stored(torch.tensor([100_000])).dtype == np.int32 and stored(torch.tensor([True])).dtype == bool
    assert stored(torch.tensor([1.0]), wide=True).dtype == np.float32


@pytest.mark.parametrize("loud", [0, 17, 69])
@pytest.mark.parametrize("order", [1, -1])
def test_a_column_with_one_loud_row_is_single_precision_throughout(tmp_path: Path, loud, order, caplog):
    values = torch.randn(70, 2, 3, generator=torch.Generator().manual_seed(0))
    values[loud, 1, 2] = -7e4
    values[5, 0, 0], values[6, 0, 0] = float("-inf"), float("nan")
    (tmp_path / "abc.building").mkdir()
    column = Column(tmp_path / "abc.building" / "tokens.npy", 75)
    for start in range(0, 70, 10)[::order]:
        column.write(np.arange(start, start + 10), values[start : start + 10])
    column.close()
    kept = np.load(column.path)
    assert kept.dtype == np.float32 and kept.shape == (75, 2, 3) and not kept[70:].any()
    np.testing.assert_allclose(kept[:70], values.numpy(), rtol=HALF, atol=TINY)
    assert kept[loud, 1, 2] == -7e4 and [path.name for path in column.path.parent.iterdir()] == ["tokens.npy"]
    assert caplog.text.count("tokens of cache entry abc holds 70000, beyond half precision") == 1


def test_a_quiet_column_stays_in_half_precision(tmp_path: Path, caplog):
    column = Column(tmp_path / "x.npy", 3)
    with caplog.at_level(logging.WARNING):
        column.write(np.array([1]), torch.tensor([[65504.0, float("inf")]]))
        column.close()
    assert np.load(column.path).tolist() == [[0, 0], [65504, np.inf], [0, 0]] and not caplog.text
    assert np.load(column.path).dtype == np.float16 and not column.wide


def test_a_writer_notes_which_arrays_are_single_precision(tmp_path: Path):
    writer = RowWriter(tmp_path, 2)
    writer.write(np.arange(2), Features(torch.full((2, 3, 4), 1e5), torch.ones(2, 4), 1, (2,)))
    writer.close()
    assert json.loads((tmp_path / "meta.json").read_text())["float32"] == ["tokens"]
    assert [np.load(tmp_path / f"{name}.npy").dtype for name in ("tokens", "pooled")] == [np.float32, np.float16]


@pytest.mark.parametrize("loud", [False, True])
def test_rows_come_in_any_order(tmp_path: Path, loud):
    values = torch.arange(21.0).view(7, 3)
    if loud:
        values[2, 1] = 1e5
    column = Column(tmp_path / "x.npy", 7)
    for index in (np.array([5, 6, 0]), np.array([3, 1]), np.array([4, 2])):
        column.write(index, values[torch.from_numpy(index)])
    column.close()
    assert np.load(column.path).tolist() == values.tolist()
