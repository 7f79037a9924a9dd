"""LoRA against peft's, on every layer that both cover, and what only ours covers."""

from __future__ import annotations

import math

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapters.lora import Lora, same_padding
from medgraft.adapters.parts.placement import depth_range
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted

pytestmark = pytest.mark.usefixtures("seeded")
# float64: what is left are a few roundings of 1e-16 in sums over at most some hundred terms.
EXACT = {"rtol": 1e-10, "atol": 1e-12}


class OneLayer(Encoder):
    """An encoder that is a single module, at site ``layer``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(EncoderSpec(name="test:layer", modality="image", input_size=(8,), dim=8, weights="random"))
        self.layer = layer

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        y = self.layer(x)
        return Features(tokens=y, pooled=y.flatten(1), n_prefix=0, grid=(1,))


def lora_on(layer: nn.Module, **options) -> tuple[Grafted, Lora]:
    lora = Lora(Lora.Config(targets=("layer",), **options))
    return Grafted(OneLayer(layer), {"lora": lora}), lora


def fill(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))


LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (3, 4, 7)),
    "linear without bias": (lambda: nn.Linear(7, 5, bias=False), (3, 7)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3, stride=2, padding=1), (2, 3, 11)),
    "conv2d": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, stride=2, padding=1), (2, 2, 7, 6, 5)),
}


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["alpha/r", "alpha/sqrt(r)"])
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_and_gradients_equal_those_of_peft(kind, rank_stabilised):
    from peft import LoraConfig, inject_adapter_in_model

    build, shape = LAYERS[kind]
    layer = build().double()
    fill(layer)
    theirs = nn.ModuleDict({"layer": build().double()})
    theirs.load_state_dict({f"layer.{key}": value for key, value in layer.state_dict().items()})
    ours, adapter = lora_on(layer, rank=3, alpha=5.0, rank_stabilised=rank_stabilised)
    config = LoraConfig(r=3, lora_alpha=5, use_rslora=rank_stabilised, target_modules=["layer"])
    inject_adapter_in_model(config, theirs)
    fill(adapter)
    delta = adapter.delta["layer"]
    wrapped = theirs["layer"]
    with torch.no_grad():
        wrapped.lora_A["default"].weight.copy_(delta.A)
        wrapped.lora_B["default"].weight.copy_(delta.B)
    inputs = [torch.randn(shape, dtype=torch.float64).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [ours(inputs[0]).tokens, wrapped(inputs[1])]
    torch.testing.assert_close(outputs[0], outputs[1], **EXACT)
    for output in outputs:
        output.square().sum().backward()
    gradients = [
        (inputs[0].grad, delta.A.grad, delta.B.grad),
        (inputs[1].grad, wrapped.lora_A["default"].weight.grad, wrapped.lora_B["default"].weight.grad),
    ]
    torch.testing.assert_close(gradients[0], gradients[1], **EXACT)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3, dilation=2, padding=2), nn.Conv2d(3, 5, 3, padding="same")])
def test_a_convolution_whose_geometry_peft_drops_follows_the_merged_weight(layer):
    # peft hands neither dilation nor a padding by name to its factor, so the reference is the convolution itself.
    layer = layer.double()
    grafted, adapter = lora_on(layer, rank=2, alpha=3.0)
    fill(adapter)
    delta = adapter.delta["layer"]
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    update = 1.5 * torch.einsum("or,rikl->oikl", delta.B[:, :, 0, 0], delta.A)
    wanted = F.conv2d(x, layer.weight + update, layer.bias, layer.stride, layer.padding, layer.dilation)
    torch.testing.assert_close(grafted(x).tokens, wanted, **EXACT)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "grouped"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode 'reflect'"),
    ],
)
def test_a_convolution_it_cannot_follow_is_refused_with_the_reason(layer, reason):
    encoder = OneLayer(layer)
    lora = Lora(Lora.Config(targets=("layer",)))
    assert reason in lora.supports(encoder).reason
    with pytest.raises(IncompatibleError, match=reason):
        Grafted(encoder, {"lora": lora})
    assert not layer._forward_hooks


# -- packed and fused attention ---------------------------------------------------------------------------------------


def test_a_packed_qkv_equals_three_separate_linears():
    packed = tiny.fresh("timm").double()
    grafted = Grafted(packed, {"lora": Lora(Lora.Config(rank=2, alpha=3.0, targets=("q", "k", "v")))})
    fill(grafted.adapters)
    path = packed.attention[0].path
    qkv = packed.get_submodule(path)
    x = torch.randn(2, 5, qkv.in_features, dtype=torch.float64)
    whole = qkv(x)
    for index, name in enumerate("qkv"):
        rows = slice(index * 48, (index + 1) * 48)
        linear = nn.Linear(48, 48).double()
        linear.load_state_dict({"weight": qkv.weight[rows], "bias": qkv.bias[rows]})
        separate, adapter = lora_on(linear, rank=2, alpha=3.0)
        adapter.delta["layer"].load_state_dict(grafted.adapters["lora"].delta[f"blocks/0/attn/{name}"].state_dict())
        torch.testing.assert_close(whole[..., rows], separate(x).tokens, **EXACT)


def test_one_projection_of_a_packed_weight_leaves_the_others_alone():
    encoder = tiny.fresh("timm")
    qkv = encoder.get_submodule(encoder.attention[0].path)
    x = torch.randn(2, 5, 48)
    before = qkv(x)
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(targets=("k",)))})
    fill(grafted.adapters)
    q, k, v = (qkv(x) - before).split(48, dim=-1)
    assert not q.any() and not v.any() and k.abs().min() > 0


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_fused_attention_with_lora_equals_one_whose_weight_holds_the_update(batch_first):
    encoder = tiny.MhaViT(batch_first=batch_first).double()
    changed = tiny.MhaViT(batch_first=batch_first).double()
    changed.load_state_dict(encoder.state_dict())
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(rank=2, targets=("q", "v")))}).eval()
    fill(grafted.adapters)
    with torch.no_grad():
        for name, delta in grafted.adapters["lora"].delta.items():
            _, block, _, projection = name.split("/")
            rows = slice(*{"q": (0, 32), "v": (64, 96)}[projection])
            changed.blocks[int(block)].attn.in_proj_weight[rows] += delta.weight()
    changed.freeze()
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(grafted(x).tokens, changed(x).tokens, **EXACT)


def test_a_fused_attention_gets_the_updates_that_peft_gives_to_the_same_matrices():
    # peft takes the fused weight as one matrix; with the factors of q, k and v stacked block-diagonally, its rank-3r
    # update is ours.
    from peft import LoraConfig, inject_adapter_in_model

    encoder = tiny.MhaViT(depth=1).double()
    theirs = nn.ModuleDict({"qkv": nn.Linear(32, 96).double()})
    attention = encoder.blocks[0].attn
    theirs["qkv"].load_state_dict({"weight": attention.in_proj_weight, "bias": attention.in_proj_bias})
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(rank=2, alpha=2.0, targets=("q", "k", "v")))})
    fill(grafted.adapters)
    deltas = [grafted.adapters["lora"].delta[f"blocks/0/attn/{name}"] for name in "qkv"]
    inject_adapter_in_model(LoraConfig(r=6, lora_alpha=6, target_modules=["qkv"]), theirs)
    with torch.no_grad():
        theirs["qkv"].lora_A["default"].weight.copy_(torch.cat([delta.A for delta in deltas]))
        theirs["qkv"].lora_B["default"].weight.copy_(torch.block_diag(*[delta.B for delta in deltas]))
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    torch.testing.assert_close(attention.medgraft_projection(x), theirs["qkv"](x), **EXACT)


@pytest.mark.parametrize("mask", ["boolean", "additive"])
def test_a_fused_attention_with_lora_follows_an_attention_mask(mask):
    encoder = tiny.MhaViT(depth=1).double()
    block = encoder.blocks[0]
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    mask = hidden if mask == "boolean" else torch.zeros(5, 5, dtype=torch.float64).masked_fill(hidden, float("-inf"))
    before = block(x, mask)
    Grafted(encoder, {"lora": Lora()})
    torch.testing.assert_close(block(x, mask), before, **EXACT)


@pytest.mark.parametrize("average", [True, False])
def test_a_fused_attention_with_lora_returns_the_same_weights(average):
    attention = tiny.MhaViT(depth=1).double().blocks[0].attn
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    wanted = attention(x, x, x, average_attn_weights=average)
    encoder = tiny.MhaViT(depth=1).double()
    encoder.blocks[0].attn.load_state_dict(attention.state_dict())
    Grafted(encoder, {"lora": Lora()})
    torch.testing.assert_close(encoder.blocks[0].attn(x, x, x, average_attn_weights=average), wanted, **EXACT)


def test_cross_attention_through_a_fused_attention_with_lora_is_refused():
    encoder = tiny.MhaViT(depth=1)
    Grafted(encoder, {"lora": Lora()})
    x = torch.randn(2, 5, 32)
    with pytest.raises(ConfigError, match="self-attention"):
        encoder.blocks[0].attn(x, x + 1, x + 1)


def test_two_loras_on_one_fused_attention_are_refused_and_nothing_is_left_behind():
    encoder = tiny.MhaViT()
    second = Lora(Lora.Config(targets=("blocks.0.attn.k", "blocks.1.attn.k")))
    first = Lora(Lora.Config(targets=("blocks.1.attn.q",)))
    with pytest.raises(ConfigError, match="already changed by another adapter"):
        Grafted(encoder, {"first": first, "second": second})
    assert not any("forward" in block.attn.__dict__ for block in encoder.blocks)


# -- merging ----------------------------------------------------------------------------------------------------------

MERGED = ["chest", "timm", "hf_vit", "hf_clip", "mha"]


def trained_lora(name: str, **options) -> tuple[Encoder, Grafted]:
    encoder = tiny.fresh(name)
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(rank=4, targets=("q", "k", "v"), **options))}).eval()
    with torch.no_grad():
        for parameter in grafted.adapters.parameters():
            parameter.normal_(std=0.05)
    return encoder, grafted


@pytest.mark.parametrize("name", MERGED)
@torch.no_grad()
def test_merged_outputs_equal_unmerged_ones(name):
    encoder, grafted = trained_lora(name)
    inputs = tiny.batch(encoder)
    before = {key: each.pooled for key, each in grafted.encode(inputs).items()}
    plain = {key: each.pooled for key, each in Grafted(tiny.fresh(name), {}).encode(inputs).items()}
    grafted.merge()
    for key, each in grafted.encode(inputs).items():
        # float32: the sum Wx + BAx is formed in another order, 1e-5 is some hundred roundings of values around 1.
        torch.testing.assert_close(each.pooled, before[key], rtol=1e-5, atol=1e-5)
        assert (each.pooled - plain[key]).abs().max() > 1e-3


@pytest.mark.parametrize("name", MERGED)
@pytest.mark.parametrize("undo", ["unmerge", "ungraft"])
def test_unmerge_and_ungraft_restore_the_weights_bit_for_bit(name, undo):
    encoder, grafted = trained_lora(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    grafted.merge()
    assert any(not torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    getattr(grafted, undo)()
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_two_merged_loras_on_one_weight_are_unmerged_bit_for_bit():
    encoder = tiny.fresh("chest")
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    grafted = Grafted(encoder, {"a": Lora(), "b": Lora()})
    fill(grafted.adapters)
    grafted.merge()
    grafted.unmerge()
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_merging_twice_is_an_error_and_changes_nothing():
    encoder, grafted = trained_lora("timm")
    grafted.merge()
    once = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ConfigError, match="merged already"):
        grafted.merge()
    assert all(torch.equal(value, once[key]) for key, value in encoder.state_dict().items())


def test_loading_into_a_merged_lora_is_an_error():
    _, grafted = trained_lora("timm")
    state = grafted.adapters.state_dict()
    grafted.merge()
    with pytest.raises(ConfigError, match="unmerge before loading"):
        grafted.adapters.load_state_dict(state)


def test_a_convolution_is_merged_too():
    grafted, adapter = lora_on(nn.Conv3d(2, 4, 3, padding=1).double(), rank=2)
    fill(adapter)
    x = torch.randn(1, 2, 5, 5, 5, dtype=torch.float64)
    before = grafted(x).tokens
    grafted.merge()
    torch.testing.assert_close(grafted(x).tokens, before, **EXACT)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_same_padding_is_timms(stride, dilation, kernel):
    from timm.layers.padding import pad_same

    for size in ((7, 8), (9, 16), (4, 5)):
        x, axes = torch.randn(1, 2, *size), [(each, each) for each in (kernel, stride, dilation)]
        assert torch.equal(F.pad(x, same_padding(size, *axes)), pad_same(x, *axes))


@pytest.mark.parametrize("size", [(9, 9), (8, 11)])
def test_a_convolution_that_pads_by_the_size_of_its_input_is_adapted_and_merged(size):
    from timm.layers.conv2d_same import Conv2dSame

    grafted, adapter = lora_on(Conv2dSame(2, 4, 3, stride=2, padding=0).double(), rank=2)
    fill(adapter)
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    weight = grafted.encoder.layer.weight + adapter.delta["layer"].weight()
    wanted = F.conv2d(F.pad(x, same_padding(size, (3, 3), (2, 2), (1, 1))), weight, grafted.encoder.layer.bias, 2)
    torch.testing.assert_close(grafted(x).tokens, wanted, **EXACT)
    grafted.merge()
    torch.testing.assert_close(grafted(x).tokens, wanted, **EXACT)


# -- options ----------------------------------------------------------------------------------------------------------


def test_dropout_touches_the_branch_and_nothing_else():
    layer = nn.Linear(64, 64, bias=False)
    grafted, adapter = lora_on(layer, dropout=0.5, rank=64, alpha=64.0)
    fill(adapter)
    x = torch.ones(1, 64)
    grafted.train()
    noisy = torch.stack([grafted(x).tokens for _ in range(2)])
    assert not torch.equal(noisy[0], noisy[1])
    with torch.no_grad():
        adapter.delta["layer"].B.zero_()
    assert torch.equal(grafted(x).tokens, layer(x))


def test_dropout_is_off_in_evaluation_mode():
    grafted, adapter = lora_on(nn.Linear(8, 8), dropout=0.5)
    fill(adapter)
    grafted.eval()
    x = torch.randn(2, 8)
    assert torch.equal(grafted(x).tokens, grafted(x).tokens)


def test_the_projections_of_a_packed_weight_have_dropout_masks_of_their_own():
    encoder = tiny.fresh("timm")
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(dropout=0.5, targets=("q", "k")))}).train()
    q, k = (grafted.adapters["lora"].delta[f"blocks/0/attn/{name}"] for name in "qk")
    fill(q)
    k.load_state_dict(q.state_dict())
    qkv = encoder.get_submodule(encoder.attention[0].path)
    x = torch.ones(1, 1, 48)
    wide = qkv(x) - F.linear(x, qkv.weight, qkv.bias)
    assert not torch.equal(wide[..., :48], wide[..., 48:96])


@pytest.mark.parametrize(
    ("group", "blocks"),
    [
        ("all", range(12)),
        ("bottom", range(4)),
        ("mid", range(4, 8)),
        ("up", range(8, 12)),
        ("half_bottom", range(6)),
        ("half_up", range(6, 12)),
        ("top3", range(9, 12)),
    ],
)
def test_depth_groups_of_twelve_blocks_are_the_published_ones(group, blocks):
    assert list(depth_range(group, 12)) == list(blocks)


@pytest.mark.parametrize("depth", range(1, 26))
def test_thirds_and_halves_part_the_blocks_of_any_depth(depth):
    thirds = [*depth_range("bottom", depth), *depth_range("mid", depth), *depth_range("up", depth)]
    assert thirds == [*depth_range("half_bottom", depth), *depth_range("half_up", depth)] == list(range(depth))


def test_a_depth_group_counts_the_blocks_of_each_tower():
    encoder = tiny.shared("chest")  # four blocks for images, two for text
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(targets=("q",), depth="half_up"))})
    sites = grafted.coverage()["lora"]["q"]
    grafted.ungraft()
    assert sites == ["image.blocks.2.attn.q", "image.blocks.3.attn.q", "text.blocks.1.attn.q"]


def test_a_depth_group_reaches_a_tower_that_names_no_module_per_block():
    encoder = tiny.shared("hf_clip")
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(targets=("q",), depth="half_up"))})
    sites = grafted.coverage()["lora"]["q"]
    grafted.ungraft()
    assert sites == ["image.blocks.1.attn.q", "text.blocks.1.attn.q"]


def test_a_depth_group_without_a_block_is_an_error():
    encoder = tiny.shared("timm")  # two blocks, so a third of them is none
    with pytest.raises(IncompatibleError, match="depth group 'bottom'"):
        Grafted(encoder, {"lora": Lora(Lora.Config(depth="bottom"))})


def test_overlapping_patterns_make_one_branch_per_site():
    encoder = tiny.shared("timm")
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(targets=("q", "blocks.*.attn.[qv]")))})
    names = list(grafted.adapters["lora"].delta)
    grafted.ungraft()
    assert names == ["blocks/0/attn/q", "blocks/1/attn/q", "blocks/0/attn/v", "blocks/1/attn/v"]


def test_the_initial_factors_are_those_of_the_paper_and_of_peft():
    _, adapter = lora_on(nn.Linear(64, 64), rank=16)
    delta = adapter.delta["layer"]
    bound = 1 / math.sqrt(64)  # kaiming_uniform(a=sqrt(5)) over 64 inputs
    assert not delta.B.any()
    assert delta.A.abs().max() <= bound
    assert abs(delta.A.std().item() / (bound / math.sqrt(3)) - 1) < 0.1


def test_an_instance_may_be_grafted_again_and_merged():
    encoder = tiny.fresh("timm")
    lora = Lora()
    Grafted(encoder, {"lora": lora}).ungraft()
    grafted = Grafted(encoder, {"lora": lora})
    grafted.merge()
    grafted.ungraft()
    assert len(lora.delta) == 4
