"""Frozen linear maps in eight bits: refused with a reason, near to bf16, and gradients pass through them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medgraft.benchmarks.results.intact import FrozenEncoder
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
    with pytest.raises(ConfigError, match=r"fp8 needs a GPU of compute capability 8\.9") as caught:
        hold_frozen(tiny_encoder("split-2d"), "fp8", "cpu")
    assert "\n" not in str(caught.value)


def test_features_are_near_and_all_of_it_is_what_the_rounded_weights_give():
    made = [graft(tiny_encoder("split-2d"), "lora", targets=("blocks.*.attn.q",)) for _ in range(3)]
    exact, rounded, grafted = made
    inputs = example_inputs(exact.encoder)
    assert hold_in_float8(grafted.encoder, weights_only()) == 2 * 6  # q, k, v, out and two of the MLP in each block
    assert not any(isinstance(module, Float8Linear) for module in grafted.adapters.modules())
    rounded.encoder.hold_in_bf16()
    with torch.no_grad():
        for name, module in grafted.encoder.named_modules():
            if isinstance(module, Float8Linear):
                rounded.encoder.get_submodule(name).weight.copy_(module.weight.dequantize())
        for parameters in zip(*(each.trainable_parameters() for each in made), strict=True):
            drawn = torch.randn(parameters[0].shape, generator=torch.Generator().manual_seed(0))
            for parameter in parameters:
                parameter.copy_(0.1 * drawn)
    pooled, gradients = [], []
    for each in made:
        with torch.autocast("cpu", torch.bfloat16):
            pooled.append(next(iter(each.eval().encode(inputs).values())).pooled.float())
        pooled[-1].square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten().float() for p in each.trainable_parameters()]))
    # e4m3 keeps three bits behind the first: 3% per weight, and a dozen products in a row, partly averaged out.
    assert 0 < relative(pooled[2], pooled[0]) < 0.15
    # The same weights in the same products: what is left is bf16, 0.4% per rounding, a dozen of them in a row forwards
    # and as many backwards.
    assert relative(pooled[2], pooled[1]) < 0.05 and relative(gradients[2], gradients[1]) < 0.1


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


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


def test_an_encoder_in_eight_bits_is_watched_and_given_back():
    grafted = graft(tiny_encoder("split-2d"), "lora", targets=("blocks.*.attn.q",))
    watched = FrozenEncoder(grafted.encoder)
    hold_in_float8(grafted.encoder, weights_only())
    watched.renew()
    assert watched.problem() == ""
    grafted.ungraft()
    assert watched.restored_problem() == ""
    held = next(module for module in grafted.encoder.modules() if isinstance(module, Float8Linear))
    with torch.no_grad():
        held.weight.scale.mul_(2)
    assert "now have other values" in watched.problem()
