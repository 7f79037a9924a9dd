"""The last block for CLS alone: what is read and every gradient stay, and whoever reads more is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_encoders as tiny
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.forms import fast_forms
from medgraft.grafting import Grafted, graft
from medgraft.plugins import discover, find, load


def lora(model: str, **options: Any) -> Grafted:
    torch.manual_seed(0)
    grafted = graft(tiny.fresh(model).double(), "lora", **{"rank": 2, **options}).double().train()
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return grafted


def batch(grafted: Grafted) -> dict[str, Tensor]:
    inputs = tiny.batch(grafted.encoder)
    return {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}


def pooled_and_gradients(grafted: Grafted, inputs: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    pooled = [features.pooled for features in grafted.encode(inputs).values()]
    total = torch.stack([x.sin().sum() for x in pooled]).sum()
    return pooled, list(torch.autograd.grad(total, grafted.trainable_parameters()))


@pytest.mark.parametrize("model", ["chest", "brain", "timm", "hf_vit", "hf_clip"])
def test_what_is_read_and_all_gradients_are_the_same_for_less_work(model):
    grafted = lora(model)
    inputs, read_out = batch(grafted), ClsReadOut(grafted)
    assert set(read_out.towers) == set(grafted.towers()) - ({"text"} if model == "hf_clip" else set())
    with FlopCounterMode(display=False) as whole:
        pooled, gradients = pooled_and_gradients(grafted, inputs)
    with fast_forms("cpu", bf16=False, read_out=read_out), FlopCounterMode(display=False) as short:
        found, of_cls = pooled_and_gradients(grafted, inputs)
    for a, b in zip([*pooled, *gradients], [*found, *of_cls], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert short.get_total_flops() < 0.9 * whole.get_total_flops()
    again, _ = pooled_and_gradients(grafted, inputs)
    assert all(torch.equal(a, b) for a, b in zip(pooled, again, strict=True))  # no trace is left


def timm_gated():
    from medgraft.encoders.timm import TimmSource

    sizes = {"depth": 2, "img_size": 32, "embed_dim": 24, "num_heads": 2}
    return TimmSource.build("eva02_base_patch16_clip_224", "random", **sizes)


def hf_gated():
    from medgraft.encoders.transformers import TransformersSource

    facts = {name: value for name, value in tiny.HF_VISION.items() if name != "intermediate_size"}
    return TransformersSource.build("dinov2", "random", config={**facts, "use_swiglu_ffn": True})


@pytest.mark.parametrize("build", [timm_gated, hf_gated])
def test_of_a_gated_mlp_every_linear_that_reads_the_tokens_gets_one_row(build):
    torch.manual_seed(0)
    grafted = graft(build().double(), "lora", rank=2).double().train()
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    inputs, read_out = batch(grafted), ClsReadOut(grafted)
    assert read_out.towers
    pooled, gradients = pooled_and_gradients(grafted, inputs)
    for _ in range(2):
        with fast_forms("cpu", bf16=False, read_out=read_out):
            found, of_cls = pooled_and_gradients(grafted, inputs)
        for a, b in zip([*pooled, *gradients], [*found, *of_cls], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_it_holds_in_bf16_and_with_fused_projections(backend):
    from medgraft.ops.backends import using

    with using(backend):
        grafted = graft(tiny.fresh("hf_vit"), "lora", rank=2).train()
        inputs = tiny.batch(grafted.encoder)
        read_out = ClsReadOut(grafted)
        with torch.autocast("cpu", torch.bfloat16):
            with fast_forms("cpu", bf16=True):
                (whole,), _ = pooled_and_gradients(grafted, inputs)
            for _ in range(2):  # the first run looks, the second one folds keys and values
                with fast_forms("cpu", bf16=True, read_out=read_out):
                    (short,), _ = pooled_and_gradients(grafted, inputs)
    # bf16 holds 8 bits; the products of one row may be summed in another order than those of many.
    torch.testing.assert_close(short.float(), whole.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("model", ["timm_cnn", "pixels_2d"])
def test_towers_without_a_cls_token_run_whole(model):
    assert not ClsReadOut(graft(tiny.fresh(model), "linear_probe")).towers


def test_another_pooling_runs_whole():
    grafted = lora("timm")
    grafted.encoder.spec = grafted.encoder.spec.model_copy(update={"pooling": "mean"})
    assert not ClsReadOut(grafted).towers


def test_an_encoder_that_does_not_say_how_it_pools_runs_whole():
    grafted = lora("timm")
    facts = grafted.encoder.spec.model_dump(exclude={"pooling"})
    grafted.encoder.spec = type(grafted.encoder.spec)(**facts)
    assert grafted.encoder.spec.pooling == "cls"
    assert not ClsReadOut(grafted).towers


def test_a_tower_that_averages_its_class_and_distillation_tokens_runs_whole():
    from medgraft.encoders.timm import TimmSource

    sizes = {"depth": 2, "img_size": 32, "embed_dim": 24, "num_heads": 2}
    tower = TimmSource.build("deit_tiny_distilled_patch16_224", "random", **sizes)
    assert tower.spec.pooling == "mean of CLS and distillation token"
    assert not ClsReadOut(graft(tower, "lora")).towers


@pytest.mark.parametrize("target", ["blocks.1.attn.out", "*.1.*fc1", "out"])
def test_changes_of_the_last_block_behind_its_projections_run_whole(target):
    assert not ClsReadOut(lora("timm", targets=(target,))).towers
    assert ClsReadOut(lora("timm", targets=("blocks.0.attn.out", "blocks.1.attn.?"))).towers


@pytest.mark.parametrize("adapter", ["conv_lora", "adaptformer", "ace_hgnn", "ace_lora", "perceiver_resampler", "vpt"])
def test_adapters_that_mix_tokens_or_read_them_run_whole(adapter):
    assert not ClsReadOut(graft(tiny.fresh("chest"), adapter)).towers


def token_wise() -> list[str]:
    """Those of vision; ``qlora`` is for language models alone, of which every token is read."""
    names = sorted(set(discover("adapter")) - {"qlora"})
    return [name for name in names if load(find("adapter", name)).token_wise]


@pytest.mark.parametrize("adapter", token_wise())
def test_every_adapter_that_claims_to_treat_tokens_one_by_one_does(adapter):
    cls = load(find("adapter", adapter))
    encoder = next(e for e in map(tiny.fresh, ("chest", "brain", "timm")) if cls(cls.Config()).supports(e))
    torch.manual_seed(0)
    grafted = graft(encoder, adapter).eval()
    inputs, read_out = tiny.batch(grafted.encoder), ClsReadOut(grafted)
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        whole = grafted.encode(inputs)
        with fast_forms("cpu", bf16=False, read_out=read_out):
            short = grafted.encode(inputs)
    for name in whole:
        torch.testing.assert_close(short[name].pooled, whole[name].pooled, rtol=1e-4, atol=1e-5)
