"""The packed LoRA operation on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import check_compiles, check_registration, fake_cuda
from torch.func import vmap

from medgraft.adapters.kernels.packed_lora.op import lora_backward, lora_forward, packed_lora, reference
from medgraft.errors import ConfigError
from medgraft.ops import backends


def layer(shape=(2, 5), D=6, W=4, R=3, starts=(0, 8), O=12, dtype=torch.float64):  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    shapes = ((*shape, D), (O, D), (O,), (len(starts), R, D), (len(starts), W, R))
    x, weight, bias, A, B = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
    return x.requires_grad_(), weight, bias, A.requires_grad_(), B.requires_grad_()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 7),
    st.permutations([0, 7, 20]), st.booleans(),
)  # fmt: skip
def test_equal_to_the_reference(shape, D, W, R, starts, with_bias):
    x, weight, bias, A, B = layer(tuple(shape), D, W, R, starts, 26)
    bias = bias if with_bias else None
    got, exact = (packed_lora(x, weight, bias, A, B, starts, 0.7, backend=backend) for backend in ("fused", "eager"))
    torch.testing.assert_close(got, exact)
    pull = torch.randn_like(exact)
    for mine, each in zip(*(torch.autograd.grad(y, (x, A, B), pull) for y in (got, exact)), strict=True):
        torch.testing.assert_close(mine, each)


def test_the_reference_is_the_sum_of_base_and_updates():
    x, weight, bias, A, B = layer()
    full = weight.clone()
    for p, start in enumerate((0, 8)):
        full[start : start + 4] += 0.5 * (B[p] @ A[p]).detach()
    torch.testing.assert_close(reference(x, weight, bias, A, B, (0, 8), 0.5), x @ full.T + bias)


def test_below_the_first_adapted_layer_no_gradient_of_x_is_made():
    x, weight, bias, A, B = layer()
    hidden = lora_forward(x, weight, bias, A, B, [0, 8], 1.0)[1]
    d_x = lora_backward(torch.ones(2, 5, 12).double(), x, weight, A, B, hidden, [0, 8], 1.0, False)[0]
    assert d_x.numel() == 0
    got = torch.autograd.grad(packed_lora(x.detach(), weight, bias, A, B, (0, 8), 1.0).sum(), (A, B))
    exact = torch.autograd.grad(reference(x, weight, bias, A, B, (0, 8), 1.0).sum(), (A, B))
    for mine, each in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, each)


def test_registration():
    x, weight, bias, A, B = layer()
    check_registration(
        lora_forward, (x, weight, bias, A, B, [0, 8], 0.5), (x.detach(), weight, None, A, B, [0, 8], 0.5)
    )
    plain = [t.detach() for t in (x, weight, A, B)]
    hidden = lora_forward(x, weight, bias, A, B, [0, 8], 0.5)[1].detach()
    d_y = torch.ones(2, 5, 12, dtype=torch.float64)
    check_registration(lora_backward, *((d_y, *plain, hidden, [0, 8], 0.5, need_x) for need_x in (True, False)))
    assert torch.autograd.gradcheck(lambda x, A, B: lora_forward(x, weight, bias, A, B, [0, 8], 0.5)[0], (x, A, B))


def test_compiles_into_one_graph():
    x, weight, bias, A, B = layer()
    check_compiles(
        lambda x, A, B: packed_lora(x, weight, bias, A, B, (0, 8), 0.5, backend="fused").square().sum(), x, A, B
    )


@pytest.mark.parametrize("shared", [True, False])
def test_vmap_over_adapters(shared):
    x, weight, bias, A, B = (t.detach() for t in layer())
    many_a, many_b = (torch.stack([t, 2 * t, -t]).requires_grad_() for t in (A, B))
    xs = x if shared else torch.stack([x, x + 1, x - 1])

    def run(x, a, b):
        return packed_lora(x, weight, bias, a, b, (0, 8), 0.5, backend="fused")

    got = vmap(run, in_dims=(None if shared else 0, 0, 0))(xs, many_a, many_b)
    exact = torch.stack(
        [reference(x if shared else xs[k], weight, bias, many_a[k], many_b[k], (0, 8), 0.5) for k in range(3)]
    )
    torch.testing.assert_close(got, exact)
    for mine, each in zip(
        *(torch.autograd.grad(y.square().sum(), (many_a, many_b)) for y in (got, exact)), strict=True
    ):
        torch.testing.assert_close(mine, each)


def test_a_trainable_base_weight_falls_back_and_says_so():
    x, weight, bias, A, B = layer()
    weight.requires_grad_()
    with backends.recording() as record, pytest.warns(backends.FusedFallbackWarning, match="trainable"):
        y = packed_lora(x, weight, bias, A, B, (0, 8), 0.5, backend="fused")
    assert torch.autograd.grad(y.sum(), weight)[0].abs().sum() > 0
    assert record.summary()["packed_lora"][0]["reason"].startswith("the base weight")


def test_fake_cuda_tensors():
    x, weight, bias, A, B = layer(dtype=torch.bfloat16)
    y, hidden = fake_cuda(lora_forward, x, weight, bias, A, B, [0, 8], 0.5)
    assert y.device.type == "cuda" and y.shape == (2, 5, 12) and hidden.shape == (10, 6)


@pytest.mark.parametrize(("starts", "told"), [((0, 3), "overlap"), ((0, 9), "leave"), ((0,), "1 starts")])
def test_bad_ranges_are_named(starts, told):
    x, weight, bias, A, B = layer()
    with pytest.raises(ConfigError, match=told):
        packed_lora(x, weight, bias, A, B, starts, 1.0)


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_no_rows_fall_back_and_train_nothing(shape):
    x, weight, bias, A, B = layer(shape)
    with pytest.warns(backends.FusedFallbackWarning, match="is empty"):
        y = packed_lora(x, weight, bias, A, B, (0, 8), 0.5, backend="fused")
    assert y.shape == (*shape, 12)
    assert all((part == 0).all() for part in torch.autograd.grad(y.sum(), (A, B)))
