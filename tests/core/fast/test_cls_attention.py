"""One query in the last block: the same numbers for less work, whatever lies between projections and attention."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_encoders as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medgraft.encoder import Encoder
from medgraft.encoder.attention import AttentionLayout
from medgraft.errors import ConfigError
from medgraft.fast.cls_attention import OneQuery
from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.forms import Forms, fast_forms
from medgraft.grafting import Grafted, graft


def grafted_with(encoder: Encoder, **options: Any) -> Grafted:
    torch.manual_seed(0)
    grafted = graft(encoder.double(), "lora", **{"rank": 2, **options}).double().train()
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return grafted


def run(grafted: Grafted, read_out: ClsReadOut | None) -> tuple[list[Tensor], int]:
    """Pooled features and gradients, and the operations that they took."""
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in tiny.batch(grafted.encoder).items()}
    with FlopCounterMode(display=False) as counter, fast_forms("cpu", bf16=False, read_out=read_out):
        pooled = [features.pooled for features in grafted.encode(inputs).values()]
        total = torch.stack([x.sin().sum() for x in pooled]).sum()
        gradients = torch.autograd.grad(total, grafted.trainable_parameters())
    return [*pooled, *gradients], counter.get_total_flops()


def assert_same_for_less(grafted: Grafted) -> None:
    (expected, whole), read_out = run(grafted, None), ClsReadOut(grafted)
    assert read_out.towers
    for _ in range(2):
        results, flops = run(grafted, read_out)
        for a, b in zip(expected, results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert flops < whole


def timm(**options: Any) -> Encoder:
    from medgraft.encoders.timm import TimmSource

    sizes = {"depth": 2, "img_size": 64, "embed_dim": 48, "num_heads": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = TimmSource.build("vit_tiny_patch16_224", "random", **sizes, **options)
        encoder.freeze()
    return encoder


@pytest.mark.parametrize("model", ["chest", "brain", "timm", "hf_vit", "hf_clip"])
def test_every_kind_of_encoder_does_less(model):
    assert_same_for_less(grafted_with(tiny.fresh(model)))


@pytest.mark.parametrize(
    "options",
    [
        {"targets": ("k",)},
        {"targets": ("q", "k", "v")},
        {"targets": ("v",)},
        {"dropout": 1e-9},
        {"depth": "half_bottom"},
    ],
)
def test_whatever_is_changed(options):
    assert_same_for_less(grafted_with(tiny.fresh("hf_vit"), **options))


def test_norms_of_queries_and_keys():
    assert_same_for_less(grafted_with(timm(qk_norm=True)))


class Rotated(nn.Module):
    """Self-attention with separate projections and something between them and the attention."""

    def __init__(self, between: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between = between
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.double()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.between == "rotation":
            q, k = q.roll(1, -1), k * torch.arange(k.shape[-2])[:, None]
        elif self.between == "order of heads":
            q, k, v = q.flip(1), k.flip(1), v.flip(1)
        elif self.between == "copies":
            k, v = k.contiguous(), v.contiguous()
        elif self.between == "other tokens":
            k = self.k(x.flip(1)).unflatten(-1, (2, -1)).transpose(1, 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))


def one_query(block: Rotated, x: Tensor, bias: Tensor | None = None) -> Tensor:
    layout = AttentionLayout("split", "q", heads=2, dim=8, key_path="k", value_path="v", out_path="out")
    sdpa = torch.nn.functional.scaled_dot_product_attention
    one = OneQuery(block, layout, sdpa)
    handles = one.hooks()
    with Forms({sdpa: one.attend}):
        output = block(x, bias)
    for handle in handles:
        handle.remove()
    assert output[:, 1:].eq(block.out.bias).all()  # the other rows had no attention
    return output[:, 0]


@pytest.mark.parametrize("between", ["nothing", "rotation", "order of heads", "copies", "other tokens"])
def test_whatever_lies_between_projections_and_attention(between):
    block, x = Rotated(between), torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(one_query(block, x), block(x)[:, 0], rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    B=st.integers(1, 3),
    N=st.integers(1, 6),
    kind=st.sampled_from(["none", "boolean", "additive", "one row"]),
    axes=st.integers(2, 4),
)
def test_masks_hide_the_same_tokens(seed, B, N, kind, axes):
    generator = torch.Generator().manual_seed(seed)
    block, x = Rotated("nothing"), torch.randn(B, N, 8, generator=generator, dtype=torch.float64)
    seen = torch.rand(B, 1, 1 if kind == "one row" else N, N, generator=generator) > 0.4
    seen[..., 0] = True
    seen = {2: seen[0, 0], 3: seen[0], 4: seen}[axes]  # of all samples and heads, of all samples, of each
    hidden = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, float("-inf"))
    bias = {"none": None, "boolean": seen, "additive": hidden, "one row": seen}[kind]
    torch.testing.assert_close(one_query(block, x, bias), block(x, bias)[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", ["chest", "hf_vit", "timm"])
def test_scores_that_are_asked_for_are_those_of_every_key(model):
    grafted = grafted_with(tiny.fresh(model))
    read_out, inputs = ClsReadOut(grafted), tiny.batch(grafted.encoder)["image"].double()
    tower = grafted.towers()["image"]
    expected = tower(inputs, scores=True)
    for scores in (False, True, False):
        with fast_forms("cpu", bf16=False, read_out=read_out):
            features = tower(inputs, scores=scores)
        if scores:
            torch.testing.assert_close(features.cls_scores, expected.cls_scores, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(features.pooled, expected.pooled, rtol=1e-10, atol=1e-12)


def test_a_hook_of_somebody_else_on_the_keys_counts():
    grafted = grafted_with(tiny.fresh("hf_vit"))
    tower = grafted.towers()["image"]
    keys = tower.get_submodule(tower.attention[-1].key_path)
    handle = keys.register_forward_hook(lambda module, args, k: k.roll(1, 1) * 2)
    assert_same_for_less(grafted)
    handle.remove()


def test_other_active_adapters_are_an_error():
    grafted = grafted_with(tiny.fresh("hf_vit"))
    read_out = ClsReadOut(grafted)
    grafted.activate()
    with pytest.raises(ConfigError, match="made for the adapters lora, and now none act"), read_out.running():
        pass


@pytest.mark.parametrize("model", ["chest", "brain", "timm", "hf_vit"])
def test_it_is_less_in_bf16_too(model):
    grafted = graft(tiny.fresh(model), "lora", rank=2).train()
    inputs, work = tiny.batch(grafted.encoder), []
    for read_out in (None, ClsReadOut(grafted)):
        counter, half = FlopCounterMode(display=False), torch.autocast("cpu", torch.bfloat16)
        with counter, half, fast_forms("cpu", bf16=True, read_out=read_out):
            grafted.encode(inputs)
        work.append(counter.get_total_flops())
    assert work[1] < work[0]
