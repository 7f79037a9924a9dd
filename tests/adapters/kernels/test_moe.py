"""The mixture of experts on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import check_compiles, check_registration, fake_cuda
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

from medgraft.adapters.kernels.moe.op import (
    _grouped,
    moe,
    moe_backward,
    moe_forward,
    obstacle,
    reference,
    text_routing,
    wide_reference,
)
from medgraft.errors import ConfigError
from medgraft.ops import backends


def experts(T=7, D=5, h=4, E=3, k=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((T, D), (T, k), (E, h, D), (E, h), (E, D, h), (E, D))
    tokens, gates, *weights = (torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes)
    index = torch.rand(T, E, generator=g).argsort(1)[:, :k]
    return [tokens, gates, index, *weights]


def trained(inputs):
    return [x for x in inputs if x.is_floating_point()]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 9)
)
def test_equal_to_the_loop(T, D, h, E, k, seed):
    inputs = experts(T, D, h, E, min(k, E), seed)
    results = [moe(*inputs, backend="fused"), wide_reference(*inputs), reference(*inputs)]
    pull = torch.randn_like(results[0])
    gradients = [torch.autograd.grad(y, trained(inputs), pull, materialize_grads=True) for y in results]
    for y, made in zip(results[:2], gradients[:2], strict=True):
        torch.testing.assert_close(y, results[2])
        for mine, each in zip(made, gradients[2], strict=True):
            torch.testing.assert_close(mine, each)


def test_an_expert_without_tokens_gets_zero_gradients():
    inputs = experts()
    inputs[2] = torch.tensor([[0, 1]]).expand(7, 2)
    y = moe(*inputs, backend="fused")
    for gradient in torch.autograd.grad(y.sum(), inputs[3:]):
        assert (gradient[2] == 0).all() and gradient[:2].abs().sum() > 0


def test_text_moves_the_routing_and_zeros_keep_it_blind():
    torch.manual_seed(0)
    tokens, texts, to_token = torch.randn(1, 30, 6).expand(2, -1, -1), torch.randn(2, 4), torch.randn(5, 6)
    gates, index = text_routing(tokens, texts, to_token, torch.zeros(5, 4), 2)
    torch.testing.assert_close(gates.sum(1), torch.ones(60))
    assert (index[:30] == index[30:]).all()
    _, guided = text_routing(tokens, texts, to_token, 3 * torch.randn(5, 4), 2)
    assert (guided[:30] != guided[30:]).any()
    with pytest.raises(ConfigError, match="1 to 5"):
        text_routing(tokens, texts, to_token, torch.zeros(5, 4), 6)


def test_registration():
    inputs = experts()
    check_registration(moe_forward, inputs)
    plain = [x.detach() for x in inputs]
    y, before = moe_forward(*plain)
    check_registration(moe_backward, (torch.ones_like(y), *plain, before))
    assert torch.autograd.gradcheck(lambda t, g, *w: moe_forward(t, g, inputs[2], *w)[0], trained(inputs))


def test_compiles_into_one_graph():
    inputs = experts()
    index = inputs.pop(2)
    check_compiles(lambda t, g, *w: moe(t, g, index, *w, backend="fused").square().sum(), *inputs)


def test_vmap_over_adapters():
    inputs = [x.detach() for x in experts()]
    many = torch.stack([inputs[3], -inputs[3]])
    got = vmap(lambda w1: moe(*inputs[:3], w1, *inputs[4:], backend="fused"))(many)
    torch.testing.assert_close(got, torch.stack([reference(*inputs[:3], w1, *inputs[4:]) for w1 in many]))


@pytest.mark.parametrize(("h", "kept"), [(16, (7, 48)), (256, (14, 256))])
def test_fake_cuda_tensors_take_the_wide_or_the_grouped_form(h, kept):
    inputs = [x.bfloat16() if x.is_floating_point() else x for x in experts(h=h)]
    y, before = fake_cuda(moe_forward, *inputs)
    assert y.device.type == "cuda" and y.shape == (7, 5) and before.shape == kept


def test_grouped_products_in_float32_fall_back_on_a_gpu_and_say_so():
    inputs = [x.float() if x.is_floating_point() else x for x in experts(h=256)]
    with backends.recording() as record:
        try:
            fake_cuda(moe, *inputs)
        except Exception as error:  # the loop's shapes depend on values, which fake tensors do not have
            assert "dynamic" in str(error).lower() or "nonzero" in str(error).lower()
    assert "bfloat16 only" in record.summary()["moe"][0]["reason"]


def grouped_obstacle(D, h, dtype=torch.bfloat16):
    with FakeTensorMode():
        return str(obstacle(torch.empty(7, D, dtype=dtype, device="cuda"), h))


@pytest.mark.parametrize(("D", "h"), [(36, 160), (64, 132), (20, 140)])
def test_grouped_rows_of_odd_bytes_fall_back_on_a_gpu_and_say_how_to_mend_it(D, h):
    assert f"a multiple of 16 bytes, not {D} and {h} numbers" in grouped_obstacle(D, h)
    assert "pad tokens and experts to multiples of 8, or use experts of up to 128" in grouped_obstacle(D, h)
    assert grouped_obstacle(D, 128) == "None", "narrow experts are not multiplied in groups"
    assert grouped_obstacle(64, 160) == "None"


@pytest.mark.parametrize(("major", "hip", "told"), [(8, None, "9.0 or 10.0"), (9, None, "None"), (9, "6.4", "AMD")])
def test_grouped_products_fall_back_where_a_gpu_has_none(monkeypatch, major, hip, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (major, 0))
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(backends, "triton_obstacle", lambda: None)
    assert told in grouped_obstacle(64, 160)
    assert grouped_obstacle(64, 128) == "None"


def test_the_grouped_product_refuses_what_the_obstacle_names():
    ends = torch.tensor([3, 7], dtype=torch.int32)
    tokens, weights = torch.ones(7, 36, dtype=torch.bfloat16), torch.ones(2, 48, 36, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="16 bytes"):
        _grouped(tokens, weights.transpose(1, 2), ends)
    assert _grouped(tokens[:, :32].contiguous(), weights[..., :32].contiguous().transpose(1, 2), ends).shape == (7, 48)


def test_no_tokens_fall_back():
    inputs = experts()
    inputs[:3] = [x[:0] for x in inputs[:3]]
    with backends.recording() as record, pytest.warns(backends.FusedFallbackWarning, match="is empty"):
        y = moe(*inputs, backend="fused")
    assert y.shape == (0, 5) and record.summary()["moe"][0]["form"] == "eager"


def test_shapes_that_disagree_are_named():
    inputs = experts()
    with pytest.raises(ConfigError, match=r"\(7, 2\)"):
        moe(inputs[0][:, :3], *inputs[1:])
