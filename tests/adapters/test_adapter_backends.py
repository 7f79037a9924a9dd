"""Adapters under each backend: eager mode is what it always was, and every other form gives its numbers."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from medgraft.adapters.ace_hgnn import AceHgnn
from medgraft.adapters.kernels.bottleneck.op import bottleneck_3d
from medgraft.adapters.kernels.hypergraph.op import cls_message_passing, message_passing
from medgraft.adapters.kernels.info_nce.op import label_info_nce
from medgraft.adapters.kernels.moe import op as moe
from medgraft.adapters.kernels.perceiver import op as perceiver
from medgraft.adapters.lora import Lora
from medgraft.adapters.parts.tgh.layers import Experts
from medgraft.adapters.perceiver_resampler import PerceiverAttention
from medgraft.grafting import Grafted
from medgraft.ops import backends
from medgraft.ops.backends import FusedFallbackWarning, recording, using
from medgraft.registry import build_adapters

pytestmark = pytest.mark.usefixtures("seeded")
# name -> (encoder, adapter, options, operation)
CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "lora packed": ("timm", "lora", {"rank": 4}, "packed_lora"),
    "lora split": ("hf_vit", "lora", {"targets": ["q", "k", "v", "out"], "depth": "half_up"}, "packed_lora"),
    "ace_hgnn": ("timm", "ace_hgnn", {"hidden_dim": 8, "return_tokens": True}, "hypergraph"),
    "perceiver": ("timm", "perceiver_resampler", {"heads": 2, "head_dim": 64, "num_latents": 4}, "perceiver"),
    "tgh_moe": ("chest", "tgh_moe", {"width": 8, "stages": "one"}, "moe"),
}
DOUBLE = {"rtol": 1e-9, "atol": 1e-10}
SINGLE = {"rtol": 2e-4, "atol": 2e-5}
"""A hundred roundings of float32, relative to numbers of about 1."""


def build(case: str, dtype: torch.dtype) -> Grafted:
    """A graft whose parameters are all away from zero."""
    encoder, adapter, options, _ = CASES[case]
    torch.manual_seed(0)
    grafted = Grafted(tiny.fresh(encoder).to(dtype), build_adapters(adapter, options))
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=parameter.dtype))
    return grafted


def inputs_of(grafted: Grafted, dtype: torch.dtype) -> dict[str, Tensor]:
    inputs = tiny.batch(grafted.encoder)
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}


def ran(grafted: Grafted, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs in training mode, and every gradient of a fixed functional of them."""
    grafted.train()
    outputs = grafted.encode(inputs_of(grafted, dtype))
    grafted.zero_grad()
    sum(each.tokens.double().sin().sum() + each.pooled.double().cos().sum() for each in outputs.values()).backward()
    found = {f"{name}.{part}": getattr(each, part).detach() for name, each in outputs.items()
             for part in ("tokens", "pooled")}  # fmt: skip
    return found | {name: p.grad for name, p in grafted.named_parameters() if p.grad is not None}


class Operations(TorchDispatchMode):
    """Names of the operations of ours that run."""

    def __init__(self) -> None:
        super().__init__()
        self.ours: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "medgraft":
            self.ours.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
def test_every_backend_gives_the_outputs_and_gradients_of_eager_mode(case, dtype, tolerance):
    wanted = ran(build(case, dtype), dtype)
    for backend in ("fused", "auto"):
        with using(backend), recording() as record:
            found = ran(build(case, dtype), dtype)
        assert found.keys() == wanted.keys()
        assert_close(found, wanted, **tolerance)
        forms = {use["form"] for use in record.summary()[CASES[case][3]]}
        assert backend == "auto" or forms == {"fused"}


@pytest.mark.parametrize("case", sorted(CASES))
def test_eager_mode_runs_no_operation_of_ours_and_is_the_default(case):
    with Operations() as seen, recording() as record:
        first = ran(build(case, torch.float32), torch.float32)
    with using("eager"):
        again = ran(build(case, torch.float32), torch.float32)
    assert not seen.ours and all(torch.equal(first[name], again[name]) for name in again)
    assert [(use["form"], use["asked"]) for use in record.summary()[CASES[case][3]]] == [("eager", "eager")]


@pytest.mark.parametrize("case", sorted(CASES))
def test_under_autocast_the_fused_form_runs_too_and_keeps_the_type(case):
    def of(backend: backends.Backend) -> tuple[Any, dict[str, set[str]]]:
        with using(backend), recording() as record:
            grafted = build(case, torch.float32)
            with torch.autocast("cpu", torch.bfloat16):
                found = grafted.eval().encode(inputs_of(grafted, torch.float32))
        summary = record.summary()
        return found, {op: {use["form"] for use in uses} for op, uses in summary.items()}

    (wanted, _), (found, forms) = of("eager"), of("fused")
    assert forms[CASES[case][3]] == {"fused"}
    for name, each in wanted.items():
        assert found[name].tokens.dtype == each.tokens.dtype
        error = (found[name].tokens.float() - each.tokens.float()).norm() / each.tokens.float().norm()
        assert error < 0.02  # bfloat16 has 8 bits; a rounding is 0.4 %


# --- eager mode, bit for bit ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_eager_lora_is_the_base_plus_the_branches_side_by_side():
    grafted = build("lora packed", torch.float32)
    adapter = grafted.adapters["lora"]
    assert isinstance(adapter, Lora)
    (path, branches) = next(iter(adapter.branches().items()))
    base = grafted.encoder.get_submodule(path)
    assert isinstance(base, torch.nn.Linear)
    x = torch.randn(2, 5, base.in_features)
    parts = [torch.zeros(2, 5, 48), torch.zeros(2, 5, 48), torch.zeros(2, 5, 48)]
    for (_, delta), place in zip(branches, (0, 2), strict=True):
        parts[place] = F.linear(F.linear(x, delta.A), delta.B) * delta.scaling
    assert torch.equal(base(x), F.linear(x, base.weight, base.bias) + torch.cat(parts, dim=-1))


@torch.no_grad()
@pytest.mark.parametrize("every", [False, True])
def test_eager_ace_hgnn_passes_messages_in_the_plain_form(every):
    layer, tokens, scores = AceHgnn(16, 4, 3), F.normalize(torch.randn(2, 10, 16), dim=-1), torch.randn(2, 9)
    form = message_passing if every else cls_message_passing
    assert torch.equal(layer(tokens, scores, every), form(tokens, scores, 3, layer.edge, layer.node))


@torch.no_grad()
def test_eager_resampler_attention_is_scaled_dot_product_attention():
    layer, x, latents = PerceiverAttention(12, 5, 3), torch.randn(2, 7, 12), torch.randn(2, 4, 12)
    normed = layer.norm_latents(latents)
    k, v = layer.to_kv(torch.cat([layer.norm_media(x), normed], dim=1)).chunk(2, dim=-1)
    q, k, v = (each.unflatten(-1, (3, -1)).transpose(1, 2) for each in (layer.to_q(normed), k, v))
    read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert torch.equal(layer(x, latents), layer.to_out(read))


@torch.no_grad()
def test_eager_experts_are_one_wide_gated_bottleneck():
    experts, u = Experts(3, 6, 4, torch.zeros(1)), torch.randn(2, 5, 6)
    experts.up.normal_()
    gates = torch.rand(2, 5, 3)
    hidden = F.gelu(torch.einsum("rnd,edh->rneh", u, experts.down) + experts.down_bias) * gates[..., None]
    wanted = torch.einsum("rneh,ehd->rnd", hidden, experts.up) + torch.einsum("rne,ed->rnd", gates, experts.up_bias)
    assert torch.equal(experts.mixed(u, gates), wanted)


# --- fallbacks --------------------------------------------------------------------------------------------------------


def reasons(record: backends.Record, op: str) -> list[str]:
    return [use["reason"] for use in record.summary()[op]]


@pytest.mark.parametrize(
    ("encoder", "options", "reason"),
    [
        ("mha", {}, "an nn.MultiheadAttention multiplies"),
        ("timm", {"dropout": 0.1}, "each branch drops inputs of its own"),
        ("timm_cnn", {"targets": ["*conv1"]}, "is no plain linear map"),
    ],
)
def test_lora_that_cannot_be_fused_says_why_and_runs_in_eager_mode(encoder, options, reason):
    def tokens() -> Tensor:
        torch.manual_seed(0)
        grafted = Grafted(tiny.fresh(encoder), build_adapters("lora", options)).train()
        torch.manual_seed(1)
        return grafted.encode(tiny.batch(grafted.encoder))["image"].tokens

    wanted = tokens()
    with using("fused"), recording() as record, pytest.warns(FusedFallbackWarning, match="packed_lora: no fused form"):
        found = tokens()
    assert torch.equal(found, wanted) and reason in reasons(record, "packed_lora")[0]


def test_dropout_stops_only_training():
    with using("fused"), recording() as record:
        grafted = Grafted(tiny.fresh("timm"), build_adapters("lora", {"dropout": 0.1})).eval()
        grafted.encode(tiny.batch(grafted.encoder))
    assert reasons(record, "packed_lora") == [""]


def test_a_graft_made_in_eager_mode_stays_with_it_and_says_so():
    grafted = build("lora packed", torch.float32)
    with using("fused"), recording() as record, pytest.warns(FusedFallbackWarning, match="attached in eager mode"):
        grafted.encode(inputs_of(grafted, torch.float32))
    assert record.summary()["packed_lora"][0]["form"] == "eager"


def test_trained_frame_embeddings_keep_the_resampler_in_eager_mode():
    options = {"heads": 2, "head_dim": 8, "num_latents": 4, "max_frames": 2}
    with using("fused"), recording() as record, pytest.warns(FusedFallbackWarning, match="need a gradient"):
        grafted = Grafted(tiny.fresh("timm"), build_adapters("perceiver_resampler", options))
        grafted.encode(tiny.batch(grafted.encoder))
    assert "need a gradient" in reasons(record, "perceiver")[0]


def test_auto_leaves_many_latents_over_narrow_tokens_in_eager_mode():
    options = {"heads": 2, "head_dim": 8, "num_latents": 64}
    with using("auto"), recording() as record:
        grafted = Grafted(tiny.fresh("timm"), build_adapters("perceiver_resampler", options))
        grafted.encode(tiny.batch(grafted.encoder))
    (use,) = record.summary()["perceiver"]
    assert use["form"] == "eager" and "16 tokens; eager mode is faster on a CPU below 512" in use["reason"]


@pytest.mark.parametrize(
    ("sizes", "dtype", "told"),
    [
        ((2048, 768, 64, 64), torch.float32, None),
        ((511, 768, 16, 64), torch.float32, "511 tokens"),
        ((500, 768, 64, 64), torch.bfloat16, "below 512"),
        ((2048, 768, 768, 64), torch.float32, "768 latents with heads of 64 over tokens of 768 take 4.2 times"),
    ],
)
def test_the_rule_of_auto_for_the_resampler(sizes, dtype, told):
    tokens, width, latents, head = sizes
    found = perceiver.slower(torch.zeros(1, tokens, width, dtype=dtype), latents, head)
    assert found is None if told is None else told in str(found)


@pytest.mark.parametrize(
    ("experts", "dtype", "slow"),
    [(8, torch.float32, False), (4, torch.float32, True), (8, torch.bfloat16, True), (16, torch.bfloat16, False)],
)
def test_the_rule_of_auto_for_two_of_several_experts(experts, dtype, slow):
    assert bool(moe.slower(torch.zeros(3, 4, dtype=dtype), experts, 2)) is slow


@pytest.mark.parametrize(
    ("dtype", "last", "form"),
    [(torch.float32, True, "fused"), (torch.float32, False, "eager"), (torch.bfloat16, True, "eager")],
)
def test_the_rule_of_auto_for_the_bottleneck(dtype, last, form):
    x = torch.zeros(1, 4, 2, 3, 2, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    parts = [torch.zeros(size, dtype=dtype) for size in ((2, 4), (2,), (2, 2, 3, 3, 3), (2,), (4, 2), (4,))]
    with recording() as record:
        bottleneck_3d(x, *parts, backend="auto")
    assert [use["form"] for use in record.summary()["bottleneck"]] == [form]


@pytest.mark.parametrize(("pairs", "form"), [(255, "eager"), (256, "fused")])
def test_the_rule_of_auto_for_the_contrastive_loss(pairs, form):
    with recording() as record:
        label_info_nce(torch.ones(pairs, 1), torch.ones(pairs, 1), 1.0, backend="auto")
    assert [use["form"] for use in record.summary()["info_nce"]] == [form]


# --- lifetime of the fused form ---------------------------------------------------------------------------------------


def test_fused_lora_merges_and_ungrafts_like_any_other():
    bare = tiny.fresh("timm")
    inputs = tiny.batch(bare)
    before = bare(inputs["image"]).tokens
    with using("fused"), torch.no_grad():
        grafted = build("lora packed", torch.float32).eval()
        wanted = grafted.encode(inputs)["image"].tokens
        grafted.merge()
        assert_close(grafted.encode(inputs)["image"].tokens, wanted, **SINGLE)
        grafted.unmerge()
        assert torch.equal(grafted.encode(inputs)["image"].tokens, wanted)
        restored = grafted.ungraft()
    assert torch.equal(restored(inputs["image"]).tokens, before)
    assert not any("forward" in module.__dict__ for module in restored.modules())


def test_experts_that_tie_are_all_counted_in_the_fused_form():
    experts, u = Experts(4, 6, 3, torch.zeros(1, dtype=torch.float64)), torch.randn(2, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        experts.up.normal_()
    gates = torch.full((2, 5, 4), 0.25, dtype=torch.float64)
    gates[0, 0] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    wanted = experts.mixed(u, gates)
    with using("fused"):
        assert_close(experts.mixed(u, gates), wanted, **DOUBLE)
