"""DIVER's network: what permutations of channels and shifts in time do, unknown places, and how it widens."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch.testing import assert_close

from medgraft.encoders.parts.diver.attention import Attention, Block, grid_places
from medgraft.encoders.parts.diver.embedding import REACH, ElectrodePosition, PatchEncoder, SlidingPosition, Spectral
from medgraft.encoders.parts.diver.network import Diver
from medgraft.encoders.parts.diver.scaling import MuReadout, mup_groups
from medgraft.errors import ConfigError

# Sums in another order, in double precision, behind two blocks.
exact = functools.partial(assert_close, rtol=1e-10, atol=1e-10)


@functools.cache
def network(patch: int = 500) -> Diver:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Diver(64, 2, patch).double().eval()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def split(tokens: torch.Tensor, channels: int, frames: int) -> list[torch.Tensor]:
    """Global register, those of channels and of times, and patches ``[B, C, N, dim]``."""
    whole, channel, time, patches = tokens.split([1, channels, frames, channels * frames], dim=1)
    return [whole, channel, time, patches.unflatten(1, (channels, frames))]


# -- channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patch", "channels", "frames", "seed"), [(500, 5, 3, 0), (500, 2, 1, 1), (50, 4, 9, 2)])
def test_a_permutation_of_the_channels_permutes_their_tokens_and_changes_nothing_else(patch, channels, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    x, xyz = 30 * drawn(2, channels, frames * patch, seed=seed), 80 * drawn(channels, 3, seed=seed + 9)
    xyz[0] = torch.nan
    modality, subtype = (torch.randint(0, n, (channels,), generator=generator) for n in (2, 4))
    order = torch.arange(channels).roll(1)[[1, 0, *range(2, channels)]] if channels > 2 else torch.tensor([1, 0])
    model = network(patch)
    with torch.no_grad():
        plain = split(model(x, xyz, modality, subtype), channels, frames)
        turned = split(model(x[:, order], xyz[order], modality[order], subtype[order]), channels, frames)
    for name, a, b in zip(("global", "channel", "time", "patches"), plain, turned, strict=True):
        exact(b, a[:, order] if name in ("channel", "patches") else a)
    assert not torch.allclose(plain[3], turned[3])


def test_channels_without_a_place_or_kind_of_their_own_are_alike():
    """Nothing but signal, place and kind tells channels apart, so equal ones have equal tokens."""
    x = drawn(1, 1, 1000).repeat(1, 3, 1)
    with torch.no_grad():
        _, channel, _, patches = split(network()(x, torch.full((3, 3), torch.nan).double()), 3, 2)
    exact(patches, patches[:, :1].expand_as(patches))
    exact(channel, channel[:, :1].expand_as(channel))


def test_unknown_places_give_zeros_and_only_there():
    module = ElectrodePosition(64).double()
    xyz = 80 * drawn(3, 3)
    kinds = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 3])
    whole = module(xyz, *kinds)
    xyz[1, 2] = torch.nan
    part = module(xyz, *kinds)
    assert not part[1, :48].any() and torch.equal(part[[0, 2]], whole[[0, 2]])
    assert torch.equal(part[:, 48:], whole[:, 48:]) and part.isfinite().all()
    assert not torch.equal(whole[1, 48:], whole[2, 48:])


def test_the_sines_of_a_place_are_those_of_the_formula():
    """Per axis sine and cosine by turns of ``2 pi x / 256 / 2000^(i / 8)``, for millimetres."""
    xyz = torch.tensor([[64.0, -30.0, 12.5]], dtype=torch.float64)
    place = ElectrodePosition(64).double()(xyz, torch.tensor([0]), torch.tensor([0]))[0, :48]
    for axis, value in enumerate(xyz[0].tolist()):
        for i in range(8):
            angle = 2 * math.pi / 256 * value / 2000 ** (i / 8)
            pair = place[16 * axis + 2 * i : 16 * axis + 2 * i + 2].tolist()
            assert pair == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-12)


def test_the_bias_of_a_head_is_one_of_two_numbers_and_scores_are_divided_by_the_width():
    """Against attention written out: norms, turns, ``q . k / 32`` plus the number, softmax."""
    torch.manual_seed(0)
    module, places = Attention(64, 2).double(), grid_places(2, 3)
    x = drawn(1, len(places.time), 64, seed=3)
    q, k, v = module.qkv(x)[0].view(-1, 3, 2, 32).permute(1, 2, 0, 3)
    q, k = (module.q_norm(q), module.k_norm(k))
    rows = []
    for head in range(2):
        scores = torch.zeros(len(x[0]), len(x[0]), dtype=torch.float64)
        for i, (ci, ti) in enumerate(zip(places.channel, places.time, strict=True)):
            for j, (cj, tj) in enumerate(zip(places.channel, places.time, strict=True)):
                angle = (int(tj) - int(ti)) * 10000.0 ** (-torch.arange(16).double() / 16)
                a, b = q[head, i].view(2, 16), k[head, j].view(2, 16)
                turned = angle.cos() * (a[0] * b[0] + a[1] * b[1]) + angle.sin() * (a[1] * b[0] - a[0] * b[1])
                scores[i, j] = turned.sum() / 32 + module.channel_bias[head, int(ci == cj)]
        rows.append(scores.softmax(dim=-1) @ v[head])
    exact(module(x, places)[0], module.proj(torch.cat(rows, dim=-1)))


# -- time -------------------------------------------------------------------------------------------------------------


def test_blocks_know_differences_of_times_only():
    block, places = network().blocks[0], grid_places(3, 4)
    x = drawn(2, len(places.time), 64)
    later = type(places)(places.channel, places.time + 100)
    stretched = type(places)(places.channel, places.time * 2)
    with torch.no_grad():
        exact(block(x, later), block(x, places))
        assert not torch.allclose(block(x, stretched), block(x, places), atol=1e-3)


def test_what_is_before_the_blocks_moves_with_the_signal():
    """Up to six patches from either end, where windows reach beyond it."""
    signal = 30 * drawn(1, 2, 19 * 50)
    xyz = 80 * drawn(2, 3)
    with torch.no_grad():
        early, late = (
            split(network(50).embed(signal[:, :, start : start + 16 * 50], xyz), 2, 16)[3] for start in (0, 150)
        )
    inside = slice(REACH - 1, 16 - 3 - (REACH - 1))
    assert inside.stop - inside.start == 1
    moved = slice(inside.start + 3, inside.stop + 3)
    exact(late[:, :, inside], early[:, :, moved])
    assert not torch.allclose(late[:, :, 0], early[:, :, 3])


def test_the_sliding_encoding_is_the_mean_over_the_windows_of_a_time():
    torch.manual_seed(0)
    module = SlidingPosition(64).double()
    x = drawn(1, 2, 4, 64)
    low = module.down(x)
    total = torch.zeros_like(low)
    for start in range(-6, 4):
        times = [t for t in range(start, start + REACH) if 0 <= t < 4]
        places = grid_places(2, len(times))
        channel, time = places.channel[-2 * len(times) :], places.time[-2 * len(times) :]
        tokens = low[:, :, times].flatten(1, 2)
        total[:, :, times] += module.block(tokens, type(places)(channel, time)).view(1, 2, len(times), -1) / REACH
    exact(module(x), module.up(total))


@pytest.mark.parametrize(("patch", "full", "kernel", "step"), [(500, 512, 63, 64), (50, 64, 7, 8)])
def test_a_patch_becomes_eight_places_of_an_eighth_of_the_width(patch, full, kernel, step):
    module = PatchEncoder(64, patch).double()
    first = module.layers[0]
    assert (first.kernel_size, first.stride, first.padding) == ((kernel,), (step,), (kernel // 2,))
    x = drawn(1, 2, 3 * patch)
    alone = torch.nn.functional.pad(x[:, 1:2, patch : 2 * patch], (0, full - patch))
    assert module.layers(alone).shape == (1, 8, 8)
    exact(module(x)[0, 1, 1], module.layers(alone).flatten())


def test_the_spectrum_is_that_of_the_token():
    module, x = Spectral(64).double().eval(), drawn(3, 64)
    turns = torch.outer(torch.arange(33.0), torch.arange(64.0)).double() * 2 * math.pi / 64
    amplitudes = ((x @ turns.cos().T) ** 2 + (x @ turns.sin().T) ** 2).sqrt() / 64
    exact(module(x), module.linear(amplitudes))


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "depth", "patch"), [(100, 1, 500), (0, 1, 500), (64, 0, 500), (64, 1, 250)])
def test_numbers_that_make_no_network_are_refused(dim, depth, patch):
    with pytest.raises(ConfigError, match="DIVER"):
        Diver(dim, depth, patch)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"N \* 500"):
        network()(drawn(1, 2, 750), drawn(2, 3))
    with pytest.raises(ConfigError, match="up to 511 patches"):
        network(50)(drawn(1, 1, 512 * 50), drawn(1, 3))
    with pytest.raises(ConfigError, match="has places for 12"):
        Block(64, 2)(drawn(1, 11, 64).float(), grid_places(3, 2))


# -- width ------------------------------------------------------------------------------------------------------------


def activations(width: int, steps: int, mup: bool) -> dict[str, float]:
    """Mean absolute activation of parts of the network after some steps of Adam on one batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, head = Diver(width, 2).eval(), MuReadout(width, 1)
        generator = torch.Generator().manual_seed(5)
        x, xyz = 30 * torch.randn(8, 2, 1000, generator=generator), 80 * torch.randn(2, 3, generator=generator)
        y = torch.randn(8, generator=generator)
        lr = 4e-3
        groups = mup_groups(model, lr) if mup else [{"params": list(model.parameters()), "lr": lr}]
        optimizer = torch.optim.Adam([*groups, {"params": list(head.parameters()), "lr": lr}])
        for _ in range(steps):
            loss = (head(model(x, xyz).mean(dim=1))[:, 0] - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seen: dict[str, float] = {}
        parts = {
            "patches": model.patches,
            "sliding": model.sliding,
            **{f"block{i}": b for i, b in enumerate(model.blocks)},
        }
        hooks = [
            m.register_forward_hook(lambda _m, _a, out, k=k: seen.update({k: float(out.abs().mean())}))
            for k, m in parts.items()
        ]
        with torch.no_grad():
            model(x, xyz)
        for hook in hooks:
            hook.remove()
        return seen


def slopes(mup: bool) -> dict[str, float]:
    """Growth of each part's activation with the width, as the exponent between widths 64 and 512."""
    narrow, wide = activations(64, 4, mup), activations(512, 4, mup)
    return {part: math.log(wide[part] / narrow[part]) / math.log(512 / 64) for part in narrow}


def test_coordinates_stay_as_large_when_the_network_is_widened():
    assert all(abs(slope) < 0.12 for slope in slopes(mup=True).values())
    assert max(slopes(mup=False).values()) > 0.3  # one learning rate for all: what the groups are for


def test_groups_hold_every_parameter_once_with_its_multiplier():
    with torch.random.fork_rng(devices=[]):
        model = Diver(512, 1)
    groups = mup_groups(model, 1e-3, weight_decay=0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert all(group["lr"] * group["weight_decay"] == pytest.approx(1e-4) for group in groups)
    expected = {
        "blocks.0.attn.qkv.weight": 0.5e-3,
        "blocks.0.mlp.down.weight": 0.5e-3,
        "spectral.linear.weight": 1e-3 * 129 / 257,
        "patches.layers.0.weight": 1e-3,
        "patches.layers.3.weight": 0.5e-3,
        "sliding.down.weight": 0.5e-3,
        "sliding.down.bias": 1e-3,
        "electrode.modality.weight": 1e-3,
        "registers": 1e-3,
        "blocks.0.norm1.weight": 1e-3,
        "blocks.0.attn.q_norm.weight": 1e-3,
        "blocks.0.attn.channel_bias": 1e-3,
    }
    found = {name: rates[id(p)] for name, p in model.named_parameters() if name in expected}
    assert found == pytest.approx(expected)
