"""fp32 products by oneDNN: the values and gradients of ``F.linear``, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.fast import linear as module
from medgraft.fast.forms import fast_forms
from medgraft.fast.fp32_product import Choice
from medgraft.fast.linear import has_onednn, linear

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this PyTorch has no oneDNN product for this processor")


@pytest.fixture(autouse=True)
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of any size, by oneDNN: which one is faster was measured, and may differ on a busy machine."""
    monkeypatch.setattr(module, "SMALLEST", 0)
    monkeypatch.setattr(module, "fast_choice", lambda: Choice("onednn"))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    lead=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    trained=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    with_bias=st.booleans(),
    strided=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_library(seed, lead, sizes, trained, with_bias, strided):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x = draw(*lead, 2 * sizes[0])[..., ::2] if strided else draw(*lead, sizes[0])
    bias = draw(2 * sizes[1])[::2] if strided else draw(sizes[1])
    leaves = [x, draw(sizes[1], sizes[0]), bias if with_bias else None]
    mine = [t if t is None else t.detach().requires_grad_(on) for t, on in zip(leaves, trained, strict=True)]
    theirs = [t if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in mine]
    got, want = linear(*mine), F.linear(*theirs)  # pyright: ignore[reportArgumentType]
    # fp32 holds 24 bits; sums of at most 17 products.
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    asked = [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None and a.requires_grad]
    if asked:
        seen = draw(*got.shape)
        found = torch.autograd.grad((got * seen).sum(), [a for a, _ in asked])
        expected = torch.autograd.grad((want * seen.double()).sum(), [b for _, b in asked])
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def products_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    original = module.onednn_linear

    def counted(*arguments: Any) -> torch.Tensor:
        asked.append(arguments[0].shape)
        return original(*arguments)

    monkeypatch.setattr(module, "onednn_linear", counted)
    return asked


@needs_onednn
def test_a_librarys_layer_takes_it_inside_the_mode_only(monkeypatch):
    asked, layer, x = products_asked_for(monkeypatch), torch.nn.Linear(5, 3), torch.randn(4, 5)
    layer(x)
    assert not asked
    with fast_forms("cpu", bf16=False):
        layer(x).sum().backward()
    assert asked and layer.weight.grad is not None


@pytest.mark.parametrize("bias", ["contiguous", "strided", "expanded"])
def test_bf16_takes_it_for_the_sake_of_a_bias(bias, monkeypatch):
    asked, generator = products_asked_for(monkeypatch), torch.Generator().manual_seed(0)
    x, weight, given = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((2, 4, 6), (5, 6), (10,)))
    given = {"contiguous": given[:5], "strided": given[::2], "expanded": given[:1].expand(5)}[bias]
    leaves = [t.clone().requires_grad_() if bias == "contiguous" else t.requires_grad_() for t in (x, weight, given)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    got, want = linear(*leaves), F.linear(*wide)
    assert bool(asked) == module.has_onednn_bf16()
    # bf16 holds 8 bits.
    torch.testing.assert_close(got.double(), want, rtol=0.02, atol=0.02)
    for a, b in zip(torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), wide), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_autocast_are_the_librarys_own(dtype, monkeypatch):
    asked = products_asked_for(monkeypatch)
    x, weight = torch.randn(4, 5, dtype=dtype), torch.randn(3, 5, dtype=dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    with torch.autocast("cpu", torch.bfloat16), fast_forms("cpu", bf16=False):
        assert torch.nn.Linear(5, 3)(torch.randn(4, 5)).dtype == torch.bfloat16
    assert not asked


def test_small_products_and_other_processors_stay_with_the_library(monkeypatch):
    asked, x, weight = products_asked_for(monkeypatch), torch.randn(4, 5), torch.randn(3, 5)
    monkeypatch.setattr(module, "SMALLEST", 61)
    linear(x, weight)
    monkeypatch.setattr(module, "SMALLEST", 0)
    monkeypatch.setattr(module, "has_onednn", lambda: False)
    linear(x, weight)
    assert not asked
