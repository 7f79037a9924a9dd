"""Brain-Adapter: the bottleneck starts as a plain resize, and each setting trains the parts that it names."""

from __future__ import annotations

import math

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F

from medgraft.adapters.brain_adapter import BlockBottleneck, BrainAdapter, VolumeBottleneck, upsample
from medgraft.adapters.linear_probe import mean_token
from medgraft.benchmarks.measure.costs import peak_allocation
from medgraft.encoders.m3d import M3dSource
from medgraft.encoders.monai import MonaiSource
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.losses import label_guided_info_nce
from medgraft.ops import backends
from medgraft.registry import build_encoder

pytestmark = pytest.mark.usefixtures("seeded")
SIZE = (8, 10, 6)
# A convolution of 5^3 to 16 channels, a norm, one of 3^3, a norm, one of 1^3 back.
BOTTLENECK = (125 * 16 + 16) + 32 + (27 * 16 * 16 + 16) + 32 + (16 + 1)


def wake(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)


# -- the bottleneck ---------------------------------------------------------------------------------------------------


def test_a_fresh_bottleneck_returns_a_volume_of_the_right_size_as_it_is():
    x = torch.randn(2, 1, *SIZE)
    assert torch.equal(VolumeBottleneck(1, SIZE)(x), x)


@pytest.mark.parametrize("shape", [(9, 11, 7), (16, 20, 12), (5, 30, 6)])
def test_a_fresh_bottleneck_interpolates_a_volume_of_another_size(shape):
    x = torch.randn(2, 1, *shape)
    wanted = F.interpolate(x, size=SIZE, mode="trilinear", align_corners=False)
    assert torch.equal(VolumeBottleneck(1, SIZE)(x), wanted)


def test_a_trained_bottleneck_adds_its_convolutions_to_the_resized_volume():
    bottleneck = VolumeBottleneck(1, SIZE, width=8)
    wake(bottleneck)
    x = torch.randn(2, 1, 9, 11, 7)
    h = F.gelu(bottleneck.norm1(bottleneck.reduce(x)))
    h = bottleneck.expand(F.gelu(bottleneck.norm2(bottleneck.mix(h))))
    wanted = sum(F.interpolate(each, size=SIZE, mode="trilinear", align_corners=False) for each in (x, h))
    # The matrix form of the interpolation rounds otherwise: one step of fp32.
    torch.testing.assert_close(bottleneck(x), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [1, 3, 12, 16])
@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_any_width_and_reduction_give_the_target_size(width, reduction):
    bottleneck = VolumeBottleneck(2, SIZE, width, reduction)
    wake(bottleneck)
    assert bottleneck(torch.randn(1, 2, 9, 11, 7)).shape == (1, 2, *SIZE)


@pytest.mark.parametrize("reduction", range(1, 7))
def test_no_voxel_falls_between_two_strides(reduction):
    bottleneck = VolumeBottleneck(1, SIZE, width=1, reduction=reduction)
    torch.nn.init.ones_(bottleneck.reduce.weight)
    x = torch.zeros(1, 1, 13, 13, 13, requires_grad=True)
    bottleneck.reduce(x).sum().backward()
    assert x.grad[..., :12, :12, :12].all()  # behind the last stride a border may be left over


def test_the_convolutions_run_on_the_reduced_grid():
    bottleneck = VolumeBottleneck(1, SIZE, reduction=2)
    seen = []
    bottleneck.mix.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[2:])))
    bottleneck(torch.randn(1, 1, *SIZE))
    assert seen == [(4, 5, 3)]


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 4, 16), (5, 4, 7), (3, 8, 2)])
def test_the_matrix_form_of_the_interpolation_is_the_librarys(size):
    x = torch.randn(2, 3, 5, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, size=size, mode="trilinear", align_corners=False)
    torch.testing.assert_close(upsample(x, size), expected, rtol=0, atol=1e-13)


def test_fpm_is_the_identity_at_the_start():
    encoder = tiny.shared("brain")
    inputs = tiny.batch(encoder)
    with torch.no_grad():
        before = {key: tower(inputs[key]).tokens for key, tower in encoder.towers().items()}
        grafted = graft(encoder, "brain_adapter", setting="FPM")
        after = {key: features.tokens for key, features in grafted.encode(inputs).items()}
        grafted.ungraft()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_fpm_takes_a_volume_of_another_size():
    encoder = tiny.shared("brain")
    x = torch.randn(1, 1, 40, 44, 36)
    with torch.no_grad():
        wanted = encoder(F.interpolate(x, size=encoder.spec.input_size, mode="trilinear", align_corners=False)).pooled
        grafted = graft(encoder, "brain_adapter", setting="FPM")
        got = grafted(x).pooled
        grafted.ungraft()
    assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("FPM", {"bottleneck.volume": BOTTLENECK}),
        (
            "TLP",
            {
                "bottleneck.volume": BOTTLENECK,
                "projection.volume": 192 * 192 + 192,
                "projection.text": 128 * 192 + 192,
            },
        ),
    ],
)
def test_a_setting_trains_its_parts(setting, parts):
    encoder = tiny.shared("brain")
    grafted = graft(encoder, "brain_adapter", setting=setting)
    grafted.ungraft()
    counts: dict[str, int] = {}
    for name, parameter in grafted.adapters["brain_adapter"].named_parameters():
        part = ".".join(name.split(".")[:2])
        counts[part] = counts.get(part, 0) + parameter.numel()
    assert counts == parts


def test_tlp_projects_the_mean_patch_token_of_the_volume_and_the_cls_token_of_the_text():
    encoder = tiny.fresh("brain")
    inputs = tiny.batch(encoder)
    with torch.no_grad():
        plain = {key: tower(inputs[key]) for key, tower in encoder.towers().items()}
        grafted = graft(encoder, "brain_adapter", projection_dim=7)
        linear = grafted.adapters["brain_adapter"].projection
        got = grafted.encode(inputs)
    wanted = {
        "volume": linear["volume"](plain["volume"].tokens[:, 1:].mean(1)),
        "text": linear["text"](plain["text"].pooled),
    }
    for key, features in got.items():
        # float32: one mean and one product in another order of summation.
        torch.testing.assert_close(features.pooled, wanted[key], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(features.embedding, F.normalize(features.pooled, dim=-1), rtol=0, atol=0)
        assert features.pooled.shape == (2, 7)


def test_a_text_encoder_alone_gets_its_projection_and_nothing_else():
    text = tiny.fresh("brain").towers()["text"]
    grafted = graft(text, "brain_adapter")
    assert {name.split(".")[0] for name in grafted.adapters["brain_adapter"].state_dict()} == {"projection"}
    assert grafted(tiny.batch(text)["text"]).embedding.shape == (2, 128)


@pytest.mark.parametrize(
    ("name", "tower", "setting", "reason"),
    [
        ("chest", None, "TLP", "reads image and text; brain_adapter needs volumes"),
        ("timm", None, "TLP", "reads image; brain_adapter needs volumes"),
        ("brain", "text", "FPM", "no volume tower"),
    ],
)
def test_a_refusal_says_what_is_missing(name, tower, setting, reason):
    encoder = tiny.shared(name)
    adapter = BrainAdapter(BrainAdapter.Config(setting=setting))
    support = adapter.supports(encoder.towers()[tower] if tower else encoder)
    assert not support and reason in support.reason


@pytest.mark.parametrize(("name", "channels"), [("pet", 1), ("dmri:maps=2", 2)])
@pytest.mark.parametrize("where", ["input", "blocks"])
def test_what_lies_on_a_3d_grid_is_a_volume_whatever_its_name(name, channels, where):
    encoder = build_encoder(f"{name}:embedded:brain@random")
    x = torch.randn(2, channels, *encoder.spec.input_size)
    with torch.no_grad():
        before = encoder(x).pooled
        grafted = graft(encoder, "brain_adapter", setting="FPM", where=where).eval()
        torch.testing.assert_close(grafted(x).pooled, before)
    wake(grafted.adapters["brain_adapter"])
    grafted(x[:, :, :30, :40, :30] if where == "input" else x).tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in grafted.trainable_parameters())


def test_each_of_two_volumes_has_its_bottleneck_and_only_one_beside_a_text_is_contrasted():
    grafted = graft("pair:embedded:brain@random|pet:embedded:brain@random", "brain_adapter")
    adapter = grafted.adapters["brain_adapter"]
    assert list(adapter.bottleneck) == list(adapter.projection) == ["volume", "pet"]
    volume, text = (
        Features(torch.randn(3, 2, 4), torch.randn(3, 4), 0, (2,), embedding=torch.randn(3, 4)) for _ in range(2)
    )
    assert adapter.extra_loss({"volume": volume, "pet": text}) is None
    loss = adapter.extra_loss({"volume": volume, "text": text})
    assert loss is not None and torch.equal(loss, adapter.extra_loss({"text": text, "pet": volume}))


def test_only_the_volumes_input_and_the_features_are_touched():
    encoder = tiny.shared("brain")
    grafted = graft(encoder, "brain_adapter")
    coverage, first = grafted.coverage()["brain_adapter"], grafted.first_stage()
    grafted.ungraft()
    assert coverage == {"input": ["volume.input"], "features": ["volume.features", "text.features"]}
    assert first == {"volume": 0, "text": encoder.towers()["text"].n_stages}


@pytest.mark.parametrize("kind", ["hidden state", "features"])
def test_what_was_computed_after_the_input_is_refused(kind):
    encoder = tiny.fresh("brain")
    x = tiny.batch(encoder)["volume"]
    later = encoder.towers()["volume"].prefix(x, 1) if kind == "hidden state" else encoder(x)
    grafted = graft(encoder, "brain_adapter")
    with pytest.raises(ConfigError, match="changes the encoder's input"):
        grafted(later, start=1 if kind == "hidden state" else 0)


# -- training ---------------------------------------------------------------------------------------------------------


def test_the_contrastive_loss_is_there_only_with_both_modalities():
    encoder = tiny.fresh("brain")
    inputs = tiny.batch(encoder)
    grafted = graft(encoder, "brain_adapter")
    outputs = grafted.encode(inputs)
    assert grafted.extra_loss(outputs) is not None
    assert grafted.extra_loss({"volume": outputs["volume"]}) is None
    assert grafted.extra_loss({"text": outputs["text"]}) is None


@pytest.mark.parametrize("options", [{"contrastive_weight": 0.0}, {"setting": "FPM"}])
def test_the_contrastive_loss_can_be_left_out(options):
    encoder = tiny.fresh("brain")
    grafted = graft(encoder, "brain_adapter", **options)
    assert grafted.extra_loss(grafted.encode(tiny.batch(encoder))) is None


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_contrastive_loss_is_weighted_and_relative_to_chance(size):
    encoder = tiny.fresh("brain")
    grafted = graft(encoder, "brain_adapter", contrastive_weight=0.3, temperature=0.2)
    with torch.no_grad():
        outputs = grafted.encode(tiny.batch(encoder, size))
        loss = label_guided_info_nce(outputs["volume"].embedding, outputs["text"].embedding, 1 / 0.2)
    chance = max(math.log(size), 1.0)
    torch.testing.assert_close(grafted.extra_loss(outputs), 0.3 * loss / chance)


def test_projections_learn_at_a_tenth_of_the_rate_and_the_bottleneck_at_the_whole():
    encoder = tiny.shared("brain")
    grafted = graft(encoder, "brain_adapter")
    grafted.ungraft()
    adapter = grafted.adapters["brain_adapter"]
    scales = {name: adapter.learning_rate_scale(name) for name in adapter.state_dict()}
    assert {scale for name, scale in scales.items() if name.startswith("projection.")} == {0.1}
    assert {scale for name, scale in scales.items() if name.startswith("bottleneck.")} == {1.0}


def test_the_mean_token_leaves_out_prefix_and_padding():
    tower = tiny.shared("brain").towers()["text"]
    with torch.no_grad():
        features = tower(tiny.batch(tower)["text"])
    real = features.tokens[:, 1:9]  # nine real tokens, the first of them CLS
    # float32: the same eight numbers, summed among zeros.
    torch.testing.assert_close(mean_token(features), real.mean(dim=1), rtol=1e-5, atol=1e-6)


def test_two_grafts_of_one_setting_share_nothing():
    first, second = BrainAdapter(), BrainAdapter()
    Grafted(tiny.fresh("brain"), {"brain": first})
    Grafted(tiny.fresh("brain"), {"brain": second})
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


# -- size of the input ------------------------------------------------------------------------------------------------


def tiny_m3d(model="clip_pooled_256", **options):
    return M3dSource.build(
        model, "random", img_size=(8, 32, 64), dim=24, depth=2, heads=2, mlp_dim=32, volume_size=(16, 32, 64), **options
    )


def test_the_identity_is_the_encoders_own_resize():
    encoder = tiny_m3d()
    x = torch.rand(2, 1, 16, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = encoder(x)
        grafted = graft(encoder, "brain_adapter", setting="FPM", reduction=(2, 4, 4))
        after = grafted(x)
    assert torch.equal(before.tokens, after.tokens)
    assert torch.equal(encoder.resize(x), F.avg_pool3d(x, (2, 1, 1))), "means of slices, as the published preparation"


@pytest.mark.parametrize("reduction", [(4, 2, 2), (8, 1, 1), (1, 2, 3)])
def test_a_stride_of_its_own_for_each_axis(reduction):
    bottleneck = VolumeBottleneck(1, SIZE, width=8, reduction=reduction)
    wake(bottleneck)
    x = torch.randn(1, 1, 16, 12, 12)
    assert bottleneck(x).shape == (1, 1, *SIZE)
    places = bottleneck.reduce(x).shape[2:]
    assert tuple(places) == tuple(-(-length // step) for length, step in zip((16, 12, 12), reduction, strict=True))


def test_the_published_setting_trains_less_than_ten_million():
    """Tower widths of M3D's ViT and LLaMA-2 7B; the bottleneck is this implementation's."""
    bottleneck = VolumeBottleneck(1, (32, 256, 256), 16, (8, 4, 4))
    parts = [sum(p.numel() for p in bottleneck.parameters()), 768 * 768 + 768, 4096 * 768 + 768]
    assert parts[1:] == [590_592, 3_146_496] and sum(parts) < 4_000_000 < 10_000_000


# -- behind each block ------------------------------------------------------------------------------------------------

RESNET = {"img_size": (32, 32, 32), "widen_factor": 0.125}


def gridded():
    return tiny.fresh("brain").towers()["volume"]


def convolutional():
    return MonaiSource.build("resnet18", "random", **RESNET)


@pytest.mark.parametrize("make", [gridded, convolutional, tiny_m3d])
def test_behind_each_block_it_starts_as_the_identity_and_every_part_learns(make):
    encoder = make()
    x = torch.randn(2, 1, *encoder.spec.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = encoder(x)
        grafted = graft(encoder, "brain_adapter", setting="FPM", where="blocks", width=4)
        assert torch.equal(grafted(x).tokens, before.tokens)
    blocks = [name for name, site in encoder.sites().items() if site.kind == "block"]
    assert grafted.coverage()["brain_adapter"] == {"blocks.*": blocks}
    wake(grafted.adapters)
    grafted(x).tokens.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in grafted.trainable_parameters())
    grafted.ungraft()
    with torch.no_grad():
        assert torch.equal(encoder(x).tokens, before.tokens)


def test_behind_a_block_it_convolves_over_the_grid_of_tokens():
    encoder = tiny_m3d("clip")
    grafted = graft(encoder, "brain_adapter", setting="FPM", where="blocks", width=3)
    wake(grafted.adapters)
    own = grafted.adapters["brain_adapter"].bottleneck["blocks/0"]
    tokens = torch.randn(2, 1 + 16, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = encoder.model.blocks[0](tokens)
        grafted.activate()
        plain = encoder.model.blocks[0](tokens)
        maps = plain[:, 1:].transpose(1, 2).unflatten(2, (2, 2, 4))
        h = own.mix(own.down(maps.movedim(1, -1)).movedim(-1, 1))
        wanted = maps + own.up(F.gelu(h).movedim(1, -1)).movedim(-1, 1)
    assert torch.equal(found[:, 0], plain[:, 0])
    # float32: a matrix product against a convolution of one voxel.
    torch.testing.assert_close(found[:, 1:].transpose(1, 2).unflatten(2, (2, 2, 4)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["fused", "auto"])
def test_behind_a_block_every_form_gives_the_same(backend):
    bottleneck = BlockBottleneck(6, 4)
    wake(bottleneck)
    x = torch.randn(2, 6, 3, 4, 5)
    with backends.using(backend):
        found = bottleneck(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = bottleneck(x)
    torch.testing.assert_close(found, bottleneck(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half, found, rtol=0.05, atol=0.05)
    assert half.dtype == torch.float32


def test_a_tower_without_blocks_is_refused():
    support = BrainAdapter(BrainAdapter.Config(where="blocks")).supports(tiny.shared("pixels_3d"))
    assert not support and "no blocks" in support.reason


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["input", "blocks"])
def test_recomputing_gives_the_same_gradients_and_keeps_less(where):
    gradients, saved = [], []
    x = torch.rand(2, 1, 16, 32, 64, generator=torch.Generator().manual_seed(0))
    for recompute in (False, True):
        torch.manual_seed(0)
        grafted = graft(tiny_m3d(), "brain_adapter", where=where, recompute=recompute, reduction=(2, 4, 4))
        wake(grafted.adapters)
        kept: list[int] = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = grafted(x).pooled.square().sum()
        loss.backward()
        gradients.append([p.grad for p in grafted.trainable_parameters()])
        saved.append(sum(kept))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    assert saved[1] < saved[0] / 2


@pytest.mark.slow
def test_one_volume_of_256_cubed_trains_within_the_stated_memory():
    """All 87 million weights of M3D's ViT; the limit is twice what docs/brain_adapter.md measures."""
    encoder = M3dSource.build("clip_pooled_256", "random")
    grafted = graft(encoder, "brain_adapter", reduction=(8, 4, 4))
    optimizer = torch.optim.AdamW(grafted.trainable_parameters())
    x = torch.rand(1, 1, 256, 256, 256, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        grafted(x).pooled.square().sum().backward()
        optimizer.step()

    peak = peak_allocation(step)
    assert peak is not None and peak < 1.8e9
    assert grafted.adapters["brain_adapter"].bottleneck["volume"].expand.weight.any(), "the bottleneck has moved"
