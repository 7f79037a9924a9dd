"""The 3D bottleneck on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import check_compiles, check_registration, fake_cuda, reason_on_a_gpu, relative
from torch.func import vmap

from medgraft.adapters.kernels.bottleneck import op as bottleneck
from medgraft.adapters.kernels.bottleneck.op import bottleneck_3d, bottleneck_backward, bottleneck_forward, reference
from medgraft.errors import ConfigError
from medgraft.ops import backends


def layer(B=2, C=6, c=4, size=(3, 4, 5), k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((B, C, *size), (c, C), (c,), (c, c, k, k, k), (c,), (C, c), (C,))
    return [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 6), st.integers(1, 5), st.tuples(*[st.integers(1, 5)] * 3),
    st.sampled_from([1, 3]), st.integers(0, 5),
)  # fmt: skip
def test_equal_to_three_convolutions(memory_format, B, C, c, size, k, seed):
    inputs = layer(B, C, c, size, k, seed)
    inputs[0] = inputs[0].detach().contiguous(memory_format=memory_format).requires_grad_()
    got, exact = (bottleneck_3d(*inputs, backend=backend) for backend in ("fused", "eager"))
    torch.testing.assert_close(got, exact)
    pull = torch.randn_like(exact)
    for mine, each in zip(*(torch.autograd.grad(y, inputs, pull) for y in (got, exact)), strict=True):
        torch.testing.assert_close(mine, each)


def test_channels_stay_last_in_memory():
    inputs = layer()
    assert bottleneck_3d(*inputs, backend="fused").is_contiguous(memory_format=torch.channels_last_3d)


def test_registration():
    inputs = layer()
    check_registration(bottleneck_forward, inputs, layer(B=1, C=1, c=1, size=(1, 2, 3), k=1))
    plain = [x.detach() for x in inputs]
    x, down, _, mix, _, up, _ = plain
    y, inner, hidden = bottleneck_forward(*plain)
    for of_x in (True, False):
        check_registration(bottleneck_backward, (torch.ones_like(y), x, down, mix, up, inner, hidden, of_x))
    small = layer(B=1, C=3, c=2, size=(2, 2, 1))
    assert torch.autograd.gradcheck(lambda *t: bottleneck_forward(*t)[0], small)


@pytest.mark.parametrize("size", [(3, 4, 5), (1, 2, 1), (2, 2, 2), (2, 4, 3)])
@pytest.mark.parametrize("of_x", [True, False])
def test_bfloat16_convolves_and_agrees_with_float64(size, of_x):
    inputs = [x.detach().bfloat16() for x in layer(size=size)]
    torch.manual_seed(0)
    half, wide = ([x.clone().to(kind).requires_grad_() for x in inputs] for kind in (torch.bfloat16, torch.float64))
    results = [bottleneck_3d(*half, backend="fused"), reference(*wide)]
    pull = torch.randn_like(results[0])
    assert relative(*results) < 1e-2
    start = 0 if of_x else 1
    if not of_x:
        half[0].requires_grad_(False)
        results[0] = bottleneck_3d(*half, backend="fused")
    got = torch.autograd.grad(results[0], half[start:], pull)
    for mine, exact in zip(got, torch.autograd.grad(results[1], wide[start:], pull.double()), strict=True):
        assert mine.dtype == torch.bfloat16 and relative(mine, exact) < 4e-2


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("c", "memory_format"), [(4, torch.channels_last_3d), (16, torch.contiguous_format)])
def test_eager_bfloat16_is_right_where_the_kernel_is_longer_than_the_volume_is_deep(c, memory_format, autocast):
    inputs = [x.detach().bfloat16() for x in layer(c=c, size=(2, 4, 4))]
    inputs[0] = inputs[0].contiguous(memory_format=memory_format)
    given = [(x.float() if autocast else x).clone().requires_grad_() for x in inputs]
    wide = [x.double().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = bottleneck_3d(*given, backend="eager")
    exact_y = reference(*wide)
    pull = torch.randn(exact_y.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = torch.autograd.grad(exact_y, wide, pull.double())
    for mine, expected in zip(torch.autograd.grad(y, given, pull.to(y.dtype)), exact, strict=True):
        assert relative(mine, expected) < 4e-2


def test_registration_in_bfloat16():
    inputs = [x.detach().bfloat16().requires_grad_() for x in layer()]
    x, down, _, mix, _, up, _ = plain = [x.detach() for x in inputs]
    y, inner, hidden = bottleneck_forward(*plain)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(bottleneck_forward, tuple(inputs), test_utils=checks)
    for of_x in (True, False):
        arguments = (torch.ones_like(y), x, down, mix, up, inner, hidden, of_x)
        torch.library.opcheck(bottleneck_backward, arguments, test_utils=checks)


def test_more_voxels_than_one_block(monkeypatch):
    monkeypatch.setattr(bottleneck, "VOXELS", 7)
    inputs = layer()
    results = [bottleneck_3d(*inputs, backend=backend) for backend in ("fused", "eager")]
    pull = torch.randn_like(results[1])
    torch.testing.assert_close(*results)
    for mine, each in zip(*(torch.autograd.grad(y, inputs, pull) for y in results), strict=True):
        torch.testing.assert_close(mine, each)


def test_frozen_input_gets_no_gradient():
    x, *weights = layer()
    pull = torch.randn_like(x)
    exact = torch.autograd.grad(bottleneck_3d(x, *weights, backend="fused"), weights, pull)
    got = torch.autograd.grad(bottleneck_3d(x.detach(), *weights, backend="fused"), weights, pull)
    for mine, each in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, each)


def test_compiles_into_one_graph():
    check_compiles(lambda *t: bottleneck_3d(*t, backend="fused").square().sum(), *layer())


def test_vmap_over_adapters():
    inputs = [x.detach() for x in layer()]
    many = torch.stack([inputs[5], -inputs[5]])
    got = vmap(lambda up: bottleneck_forward(*inputs[:5], up, inputs[6])[0])(many)
    torch.testing.assert_close(got, torch.stack([reference(*inputs[:5], up, inputs[6]) for up in many]))


def test_fake_cuda_tensors():
    y = fake_cuda(bottleneck_3d, *[t.detach().bfloat16() for t in layer(C=16)])
    assert y.device.type == "cuda" and y.shape == (2, 16, 3, 4, 5)


@pytest.mark.parametrize(("C", "told"), [(16, ""), (8, "width 8 is not a multiple of 16")])
def test_a_width_that_spills_falls_back_on_a_gpu(C, told):
    reason = reason_on_a_gpu("bottleneck", bottleneck_3d, *[t.detach().bfloat16() for t in layer(C=C)])
    assert reason.startswith(told) and bool(reason) is bool(told)


def test_an_empty_batch_falls_back():
    inputs = layer()
    with pytest.warns(backends.FusedFallbackWarning, match="is empty"):
        assert bottleneck_3d(inputs[0][:0], *inputs[1:], backend="fused").shape == (0, 6, 3, 4, 5)


def test_shapes_that_disagree_are_named():
    inputs = layer()
    with pytest.raises(ConfigError, match=r"\(4, 4, 2, 2, 2\)"):
        bottleneck_3d(*inputs[:3], inputs[3][..., :2, :2, :2], *inputs[4:])
    torch.testing.assert_close(bottleneck_3d(*inputs, backend="eager"), reference(*inputs))
