"""Frozen linear maps in eight bits: refused with a reason, near to bf16, and gradients pass through them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medgraft.errors import ConfigError
from medgraft.fast import float8
from medgraft.fast.float8 import Float8Linear, float8_obstacle, hold_frozen, hold_in_float8, takes_float8
from medgraft.grafting import graft
from medgraft.testing.tiny import example_inputs, tiny_encoder

quantization = pytest.importorskip("torchao.quantization")


def weights_only():
    """What torchao computes on any device: weights in eight bits, products in bf16."""
    return quantization.Float8WeightOnlyConfig(set_inductor_config=False)


@pytest.fixture
def card(monkeypatch):
    def of(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    return of


@pytest.mark.parametrize(("capability", "refused"), [((8, 0), True), ((8, 6), True), ((8, 9), False), ((9, 0), False)])
def test_a_gpu_is_refused_by_its_capability(card, capability, refused):
    card(capability)
    told = float8_obstacle("cuda")
    assert (told is not None) is refused
    if told:
        assert f"{capability[0]}.{capability[1]}" in told and "--precision bf16_frozen" in told


def test_without_torchao_or_a_gpu_there_is_a_remedy(card, monkeypatch):
    assert "this is cpu; use --precision bf16_frozen" in (float8_obstacle("cpu") or "")
    card((9, 0))
    monkeypatch.setattr(float8, "find_spec", lambda name: None)
    assert "pip install 'medgraft[quantised]'" in (float8_obstacle("cuda") or "")


def test_asking_for_it_here_is_one_sentence():
    with pytest.raises(ConfigError, match="fp8 needs a GPU of compute capability 8.9") as caught:
        hold_frozen(tiny_encoder("split-2d"), "fp8", "cpu")
    assert "\n" not in str(caught.value)


def test_the_features_are_near_and_the_gradient_is_that_of_the_rounded_weights():
    grafted, plain = (graft(tiny_encoder("split-2d"), "lora", targets=("blocks.*.attn.q",)) for _ in range(2))
    inputs = example_inputs(plain.encoder)
    count = hold_in_float8(grafted.encoder, weights_only())
    assert count == 2 * 6  # q, k, v, out and two of the MLP in each block
    assert not any(isinstance(module, Float8Linear) for module in grafted.adapters.modules())
    with torch.no_grad():
        for mine, other in zip(grafted.trainable_parameters(), plain.trainable_parameters(), strict=True):
            other.copy_(torch.randn_like(other) * 0.1)
            mine.copy_(other)
    made = {}
    for name, each in (("float8", grafted), ("plain", plain)):
        with torch.autocast("cpu", torch.bfloat16):
            pooled = next(iter(each.encode(inputs).values())).pooled.float()
        pooled.square().sum().backward()
        made[name] = (pooled.detach(), torch.cat([p.grad.flatten().float() for p in each.trainable_parameters()]))
    for got, wanted in zip(made["float8"], made["plain"], strict=True):
        # e4m3 keeps three bits behind the first: 3% per weight, and a dozen products in a row, partly averaged out.
        assert 0 < (got - wanted).norm() / wanted.norm() < 0.15


def test_a_linear_map_passes_the_gradient_of_its_rounded_weight():
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(32, 16)).bfloat16().requires_grad_(False)
    quantization.quantize_(host, weights_only())
    host[0].__class__ = Float8Linear
    x = torch.randn(4, 5, 32, requires_grad=True)
    y = host(x)
    assert y.dtype == torch.bfloat16 and y.shape == (4, 5, 16)
    y.float().sum().backward()
    wanted = host[0].weight.dequantize().float().sum(0).expand(4, 5, 32)
    torch.testing.assert_close(x.grad, wanted, rtol=1e-2, atol=1e-2)  # sums of 16 in bf16
    assert x.grad.dtype == torch.float32


def test_a_copy_is_its_own():
    grafted = graft(tiny_encoder("split-2d"), "lora", targets=("blocks.*.attn.q",))
    hold_in_float8(grafted.encoder, weights_only())
    other, inputs = copy.deepcopy(grafted), example_inputs(tiny_encoder("split-2d"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        one, two = (next(iter(each.eval().encode(inputs).values())).pooled for each in (grafted, other))
    assert torch.equal(one, two)


def test_only_plain_frozen_maps_of_even_sizes_are_taken():
    assert takes_float8(nn.Linear(32, 16).requires_grad_(False))
    assert not takes_float8(nn.Linear(32, 16))
    assert not takes_float8(nn.Linear(30, 16).requires_grad_(False))
    assert not takes_float8(nn.Conv1d(16, 16, 1).requires_grad_(False))
    with pytest.raises(ConfigError, match="no linear map whose sides are multiples of 16"):
        hold_in_float8(tiny_encoder("cnn-2d"), weights_only())
