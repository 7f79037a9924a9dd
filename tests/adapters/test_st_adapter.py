"""ST-Adapter against its equation on images and volumes, and what it must not touch."""

from __future__ import annotations

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F

from medgraft.adapters.st_adapter import GridBottleneck, StAdapter
from medgraft.encoders.diver import DiverSource
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import Grafted, graft
from medgraft.registry import build_encoder

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("activation", ["gelu", "none"])
@pytest.mark.parametrize("rank", [2, 3])
def test_a_block_is_that_of_the_paper(rank, activation):
    tower = plain.PlainTower(rank)
    adapter = StAdapter(StAdapter.Config(activation=activation))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    grafted.ungraft()
    numbers = adapter.state_dict()

    def block(i, module, y):
        def part(name):
            return numbers[f"bottleneck.blocks/{i}.{name}"]

        places = y[:, 1:] @ part("down.weight").T + part("down.bias")
        kernel = part("depthwise.weight")[:, 0]  # [width, 3, ...]
        padded = F.pad(places.transpose(1, 2).unflatten(2, tower.grid), (1, 1) * rank)
        mixed = part("depthwise.bias").view(1, -1, *(1,) * rank).repeat(len(y), 1, *tower.grid)
        for step in torch.cartesian_prod(*[torch.arange(3)] * rank).tolist():
            window = padded[
                (slice(None), slice(None), *(slice(s, s + n) for s, n in zip(step, tower.grid, strict=True)))
            ]
            mixed = mixed + kernel[(slice(None), *step)].view(1, -1, *(1,) * rank) * window
        mixed = mixed.flatten(2).transpose(1, 2)
        mixed = F.gelu(mixed) if activation == "gelu" else mixed
        added = mixed @ part("up.weight").T + part("up.bias")
        return module(torch.cat([y[:, :1], y[:, 1:] + added], dim=1))

    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)


@pytest.mark.parametrize(("rank", "kernel", "reduction"), [(2, 3, 2), (3, 3, 2), (3, 5, 4), (2, 1, 1)])
def test_the_number_of_parameters_is_that_of_the_formula(rank, kernel, reduction):
    config = StAdapter.Config(kernel=kernel, reduction=reduction)
    grafted = Grafted(plain.PlainTower(rank), {"it": StAdapter(config)})
    width = 12 // reduction
    assert grafted.trainable_count()["it"] == 2 * (2 * 12 * width + width + 12 + width * (kernel**rank + 1))


def test_a_place_reaches_its_neighbours_and_no_further():
    tower = plain.PlainTower(rank=2, depth=1)
    adapter = StAdapter()
    plain.grafted_on(tower, adapter)
    places = torch.zeros(1, 12, 4, 4, dtype=torch.float64)
    touched = places.clone()
    touched[..., 0, 0] = 1
    module = adapter.bottleneck["blocks/0"]
    changed = (module(touched) - module(places)).abs().amax(dim=1)[0] > 1e-9
    assert changed[:2, :2].all() and int(changed.sum()) == 4


@pytest.mark.parametrize("name", ["chest", "timm", "hf_vit", "mha", "brain"])
def test_the_grid_of_every_library_is_found(name):
    encoder = tiny.fresh(name)
    tower = next(iter(encoder.towers().values()))
    x = next(iter(tiny.batch(encoder).values()))
    adapter = StAdapter()
    plain.grafted_on(encoder, adapter)
    features = tower(x)
    assert features.tokens.isfinite().all()
    kernel = next(iter(adapter.bottleneck.values())).depthwise.weight
    assert kernel.ndim - 2 == len(features.grid) == len(tower.spec.input_size)


def test_a_text_tower_stays_as_it_is_and_alone_is_refused():
    encoder = tiny.fresh("brain")
    hits = graft(encoder, "st_adapter").coverage()["st_adapter"]
    assert all(site.startswith("volume.") for found in hits.values() for site in found)
    with pytest.raises(IncompatibleError, match="of an image or volume tower"):
        graft(tiny.fresh("brain").towers()["text"], "st_adapter")


def test_tokens_that_another_adapter_adds_are_an_error_that_says_so():
    tower = plain.PlainTower()
    grafted = graft(tower, "st_adapter+vpt", head=None)
    assert grafted(tower.images()).tokens.isfinite().all()  # the prompts come behind it
    grafted.ungraft()
    with pytest.raises(ConfigError, match="27 tokens reach an adapter that needs 1 and a grid of"):
        graft(tower, "vpt+st_adapter")


def test_an_even_kernel_is_refused():
    with pytest.raises(ConfigError, match="must be odd"):
        graft(plain.PlainTower(), "st_adapter", kernel=4)


def test_the_last_blocks_alone_leave_the_cache_before_them():
    tower = plain.PlainTower(depth=4)
    x = tower.images()
    hidden = tower.prefix(x, 3)
    grafted = plain.grafted_on(tower, StAdapter(StAdapter.Config(depth="half_up")))
    assert grafted.first_stage() == {"image": 3} and torch.equal(tower.prefix(x, 3), hidden)
    assert torch.equal(grafted(hidden, start=3).tokens, grafted(x).tokens)


# -- tokens along time and in four axes -------------------------------------------------------------------------------


def four_axes(batch=2, width=3, grid=(3, 2, 2, 4)):
    """A bottleneck over space and time with every number drawn, and a map for it."""
    module = GridBottleneck(5, width, "ssst", 3, "gelu", torch.zeros(1, dtype=torch.float64))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module, torch.randn(batch, 5, *grid, dtype=torch.float64)


def test_four_axes_are_convolved_over_space_and_then_over_time():
    module, x = four_axes()
    inside = torch.einsum("wc,bcxyzt->bwxyzt", module.down.weight, x) + module.down.bias.view(1, -1, 1, 1, 1, 1)
    frames = [
        F.conv3d(inside[..., t], module.spatial.weight, module.spatial.bias, padding=1, groups=3) for t in range(4)
    ]
    mixed = torch.stack(frames, dim=-1)
    padded = F.pad(mixed, (1, 1))
    kernel = module.depthwise.weight[:, 0]
    shifted = [kernel[:, i].view(1, -1, 1, 1, 1, 1) * padded[..., i : i + 4] for i in range(3)]
    inside = F.gelu(sum(shifted) + module.depthwise.bias.view(1, -1, 1, 1, 1, 1))
    expected = torch.einsum("cw,bwxyzt->bcxyzt", module.up.weight, inside) + module.up.bias.view(1, -1, 1, 1, 1, 1)
    torch.testing.assert_close(module(x), expected, **plain.EXACT)


def test_a_place_in_four_axes_reaches_its_neighbours_in_space_and_time():
    module, x = four_axes(batch=1, grid=(5, 5, 5, 5))
    touched = x.clone()
    touched[:, :, 0, 0, 0, 4] += 1
    changed = (module(touched) - module(x)).abs().amax(dim=1)[0] > 1e-12
    assert changed[:2, :2, :2, 3:].all() and int(changed.sum()) == 2**4


def test_channels_of_an_eeg_do_not_mix():
    module = GridBottleneck(5, 3, "ct", 3, "none", torch.zeros(1, dtype=torch.float64))
    torch.nn.init.normal_(module.depthwise.weight)
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order], **plain.EXACT)
    assert module.depthwise.weight.shape == (3, 1, 3)


@pytest.mark.parametrize(("axes", "kernels"), [("all", 27 + 1 + 3 + 1), ("space", 27 + 1), ("time", 3 + 1)])
def test_on_swift_each_block_has_its_own_width_and_learns(axes, kernels):
    encoder = build_encoder("swift:tiny,windows=2@random")
    x = torch.randn(2, 1, 8, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    before = encoder(x).tokens
    adapter = StAdapter(StAdapter.Config(axes=axes))
    grafted = Grafted(encoder, {"it": adapter}).eval()
    assert grafted.trainable_count()["it"] == sum(
        2 * d * (d // 2) + d // 2 + d + d // 2 * kernels for d in (12, 12, 24, 24)
    )
    assert torch.equal(encoder(x).tokens, before)
    target = torch.randn(2, 24, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    start = {name: value.clone() for name, value in adapter.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        (encoder(x).pooled - target).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(value, start[name]) for name, value in adapter.state_dict().items())


@pytest.mark.parametrize("missing", ["interpolate", "drop"])
def test_a_recording_that_lacks_channels_is_convolved_along_those_it_has(missing):
    encoder = DiverSource.build("tiny", "random", missing=missing, channels=("Fz", "Cz", "Pz"))
    x = 20 * torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0))
    plain.grafted_on(encoder, StAdapter())
    whole = encoder(x)
    if missing == "drop":
        x[1, 0] = torch.nan
        part = encoder(x)
        torch.testing.assert_close(part.tokens[0], whole.tokens[0])
        assert part.mask[1].tolist().count(False) == 3 and not torch.allclose(part.pooled[1], whole.pooled[1])
    assert whole.tokens.isfinite().all()


def test_axes_that_a_tower_does_not_have_are_refused():
    with pytest.raises(IncompatibleError, match="convolves along space, and tokens of encoder diver:tiny do not"):
        graft(build_encoder("diver:tiny@random"), "st_adapter", axes="space")
    with pytest.raises(IncompatibleError, match="convolves along time"):
        graft(plain.PlainTower(), "st_adapter", axes="time")
    with pytest.raises(IncompatibleError, match="of another whose tokens lie along time"):
        graft(build_encoder("omics:gene_tokens"), "st_adapter")
    grafted = graft(build_encoder("diver:tiny@random"), "st_adapter+vpt", head=None)
    grafted.ungraft()
    with pytest.raises(ConfigError, match="leave out the other adapter that adds tokens"):
        graft(build_encoder("diver:tiny@random"), "vpt+st_adapter")
