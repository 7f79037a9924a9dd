"""The CPU's matrix products agree with PyTorch's own, whichever library makes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.fast.linear import linear
from medgraft.ops.products import product


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans())
def test_products_of_any_shape_and_stride(dtype, M, K, N, turned, given_out):
    g = torch.Generator().manual_seed(M + K + N)
    a, b, bias = (torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in ((M, K), (K, N), (N,)))
    a = a.T.contiguous().T if turned else a
    out = torch.full((M, N), float("nan"), dtype=dtype) if given_out else None
    got, exact = product(a, b, out), a.double() @ b.double()
    assert out is None or got is out
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)
    mapped = linear(a, b.T, bias).double()
    torch.testing.assert_close(mapped, exact + bias.double(), rtol=tolerance, atol=tolerance)


def test_without_onednn_the_plain_product_runs(monkeypatch):
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    expected, mapped = product(a, b), linear(a, b.T, b.sum(0))
    monkeypatch.setattr("medgraft.fast.linear.has_onednn", lambda: False)
    torch.testing.assert_close(product(a, b), expected)
    torch.testing.assert_close(product(a, b), a @ b, rtol=0, atol=0)
    torch.testing.assert_close(linear(a, b.T, b.sum(0)), mapped)
