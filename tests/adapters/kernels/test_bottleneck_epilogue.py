"""The 3D bottleneck on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import check_compiles, check_registration, fake_cuda
from torch.func import vmap

from medgraft.adapters.kernels.bottleneck import (
    bottleneck_3d,
    bottleneck_epilogue,
    bottleneck_epilogue_backward,
    reference,
)
from medgraft.errors import ConfigError


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
    x, hidden, up, bias = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((7, 6), (7, 4), (6, 4), (6,))
    )
    check_registration(bottleneck_epilogue, (x, hidden, up, bias))
    check_registration(bottleneck_epilogue_backward, (x.detach(), hidden.detach(), up.detach()))
    assert torch.autograd.gradcheck(bottleneck_epilogue, (x, hidden, up, bias))


def test_compiles_into_one_graph():
    check_compiles(lambda *t: bottleneck_3d(*t, backend="fused").square().sum(), *layer())


def test_vmap_over_adapters():
    x, hidden, up, bias = (torch.randn(s) for s in ((7, 6), (7, 4), (3, 6, 4), (6,)))
    got = vmap(lambda u: bottleneck_epilogue(x, hidden, u, bias))(up)
    torch.testing.assert_close(got, torch.stack([bottleneck_epilogue(x, hidden, u, bias) for u in up]))


def test_fake_cuda_tensors():
    y = fake_cuda(bottleneck_3d, *[t.detach().bfloat16() for t in layer()])
    assert y.device.type == "cuda" and y.shape == (2, 6, 3, 4, 5)


def test_shapes_that_disagree_are_named():
    inputs = layer()
    with pytest.raises(ConfigError, match=r"\(4, 4, 2, 2, 2\)"):
        bottleneck_3d(*inputs[:3], inputs[3][..., :2, :2, :2], *inputs[4:])
    torch.testing.assert_close(bottleneck_3d(*inputs, backend="eager"), reference(*inputs))
