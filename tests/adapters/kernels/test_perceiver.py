"""The absorbed resampler attention on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import check_compiles, check_registration, fake_cuda, reason_on_a_gpu, relative
from torch.func import vmap

from medgraft.adapters.kernels.perceiver.op import (
    FLOOR,
    absorbed_attention,
    absorbed_attention_backward,
    normalised,
    reference,
    resampler_attention,
)
from medgraft.adapters.perceiver_resampler import PerceiverAttention
from medgraft.errors import ConfigError
from medgraft.ops import backends


def inputs(B=2, N=9, L=3, C=6, heads=2, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, N, C), (B, L, C), (C,), (C,), (heads * d, C), (2 * heads * d, C))
    x, *trained = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return normalised(x), [t.requires_grad_() for t in trained]


@pytest.mark.parametrize("masked", [False, True])
@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.integers(2, 8), st.integers(1, 3), st.integers(1, 4),
    st.integers(0, 9),
)  # fmt: skip
def test_equal_to_the_reference(masked, B, N, L, C, heads, d, seed):
    x_hat, trained = inputs(B, N, L, C, heads, d, seed)
    mask = (torch.rand(B, N, generator=torch.Generator().manual_seed(seed)) > 0.5) if masked else None
    got, exact = (resampler_attention(x_hat, *trained, heads, mask, backend=backend) for backend in ("fused", "eager"))
    torch.testing.assert_close(got, exact)
    pull = torch.randn_like(exact)
    for mine, each in zip(*(torch.autograd.grad(y, trained, pull) for y in (got, exact)), strict=True):
        torch.testing.assert_close(mine, each, rtol=1e-8, atol=1e-9)


def test_equal_to_the_module_it_replaces():
    torch.manual_seed(0)
    module = PerceiverAttention(12, head_dim=4, heads=2).double()
    torch.nn.init.normal_(module.norm_media.weight)
    torch.nn.init.normal_(module.norm_media.bias)
    x, latents = torch.randn(2, 7, 12).double(), torch.randn(2, 3, 12).double()
    got = resampler_attention(
        normalised(x, module.norm_media.eps), module.norm_latents(latents), module.norm_media.weight,
        module.norm_media.bias, module.to_q.weight, module.to_kv.weight, 2, backend="fused",
    )  # fmt: skip
    torch.testing.assert_close(module.to_out(got), module(x, latents))


def test_registration():
    x_hat, _ = inputs()
    queries = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 9, dtype=torch.bool)
    check_registration(absorbed_attention, (x_hat, queries, mask))
    context, lse, weights = (t.detach() for t in absorbed_attention(x_hat, queries, mask))
    check_registration(
        absorbed_attention_backward, (context, lse, x_hat, queries.detach(), mask, context, lse, weights)
    )
    assert torch.autograd.gradcheck(lambda q: absorbed_attention(x_hat, q, mask)[:2], (queries,))


def test_compiles_into_one_graph():
    x_hat, trained = inputs()
    check_compiles(lambda *t: resampler_attention(x_hat, *t, 2, backend="fused").square().sum(), *trained)


def test_vmap_is_one_call():
    x_hat, _ = inputs()
    many, mask = torch.randn(3, 2, 5, 6, dtype=torch.float64), torch.ones(2, 9, dtype=torch.bool)
    got = vmap(lambda q: absorbed_attention(x_hat, q, mask)[0])(many)
    torch.testing.assert_close(got, torch.stack([absorbed_attention(x_hat, q, mask)[0] for q in many]))


def test_fake_cuda_tensors_keep_no_weights():
    context, lse, kept = fake_cuda(
        absorbed_attention, torch.ones(2, 9, 6).half(), torch.ones(2, 5, 6).half(), torch.ones(2, 9, dtype=torch.bool)
    )
    assert context.device.type == "cuda" and lse.dtype == torch.float32 and kept.numel() == 0


def test_tokens_that_train_fall_back_and_say_so():
    x_hat, trained = inputs()
    x_hat.requires_grad_()
    with backends.recording() as record, pytest.warns(backends.FusedFallbackWarning, match="need a gradient"):
        got = resampler_attention(x_hat, *trained, 2, backend="fused")
    torch.testing.assert_close(got, reference(x_hat, *trained, 2))
    assert torch.autograd.grad(got.sum(), x_hat)[0].abs().sum() > 0
    assert "the media tokens need a gradient" in record.summary()["perceiver"][0]["reason"]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2), (torch.float16, 5e-3)], ids=str
)
def test_a_mask_in_every_type_also_one_that_leaves_nothing(dtype, tolerance):
    x_hat, trained = inputs(B=3, N=20, L=4, C=32)
    trained = [t.detach().div(max(t.shape[-1], 8) ** 0.5) for t in trained]
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[1] = False
    narrow = [t.to(dtype).requires_grad_() for t in trained]
    wide = [t.detach().double().requires_grad_() for t in narrow]
    got = resampler_attention(x_hat.to(dtype), *narrow, 2, mask, backend="fused")
    exact = reference(x_hat.to(dtype).double(), *wide, 2, mask)
    assert relative(got, exact) < tolerance
    pull = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    pairs = (torch.autograd.grad(got, narrow, pull), torch.autograd.grad(exact, wide, pull.double()))
    for mine, each in zip(*pairs, strict=True):
        assert relative(mine, each) < tolerance
    context, lse, weights = absorbed_attention(x_hat.to(dtype), torch.ones(3, 5, 32, dtype=dtype), mask)
    assert (context[1] == 0).all() and (weights[1] == 0).all() and (lse[1] == FLOOR).all()
    assert (weights[0].sum(-1) - 1).abs().max() < tolerance and (weights[0][:, ~mask[0]] == 0).all()


@pytest.mark.parametrize(("B", "N", "L"), [(0, 9, 3), (2, 0, 3), (2, 9, 0)])
def test_empty_batches_and_tokens_fall_back_and_say_so(B, N, L):
    x_hat, trained = inputs(B, N, L)
    with backends.recording() as record, pytest.warns(backends.FusedFallbackWarning, match="is empty"):
        got = resampler_attention(x_hat, *trained, 2, torch.ones(B, N, dtype=torch.bool), backend="fused")
    torch.testing.assert_close(got, reference(x_hat, *trained, 2))
    assert record.summary()["perceiver"][0]["form"] == "eager"


@pytest.mark.parametrize(("C", "told"), [(32, ""), (40, "width 40 is not a multiple of 16")])
def test_a_width_that_spills_falls_back_on_a_gpu(C, told):
    x_hat, trained = inputs(C=C)
    arguments = [t.detach().bfloat16() for t in (x_hat, *trained)]
    assert reason_on_a_gpu("perceiver", resampler_attention, *arguments, 2).startswith(told)
    assert bool(reason_on_a_gpu("perceiver", resampler_attention, *arguments, 2)) is bool(told)


def test_widths_that_disagree_are_named():
    x_hat, trained = inputs()
    with pytest.raises(ConfigError, match=r"\(2, 9, 5\)"):
        resampler_attention(x_hat[..., :5], *trained, 2)
