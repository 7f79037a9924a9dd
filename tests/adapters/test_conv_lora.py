"""Conv-LoRA against its equations, its gate against Shazeer's, and where it sits."""

from __future__ import annotations

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.adapters.conv_lora import ConvLora, NoisyTopOne, _variation
from medgraft.errors import IncompatibleError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


def branch(numbers, name, tower, x):
    """``W_d E_i(W_e x)`` sample by sample, for the expert with the largest gate."""
    encode, decode, kernel, bias = (numbers[f"delta.{name}.{part}"] for part in ("encode", "decode", "kernel", "bias"))
    rank = len(tower.grid)
    convolution, mode = (F.conv2d, "bilinear") if rank == 2 else (F.conv3d, "trilinear")
    rows, chosen = [], []
    for sample in x:
        low = sample @ encode.T
        places = low[1:].T.unflatten(1, tower.grid)[None]
        expert = int((low[1:].mean(dim=0) @ numbers[f"delta.{name}.gate.gate"]).argmax())
        scale = expert + 1
        big = F.interpolate(places, scale_factor=scale, mode=mode, align_corners=False) if expert else places
        mixed = convolution(big, kernel[expert], bias[expert], padding=1)
        mixed = F.interpolate(mixed, size=tower.grid, mode=mode, align_corners=False) if expert else mixed
        rows.append(torch.cat([low[:1], mixed[0].flatten(1).T]) @ decode.T)
        chosen.append(expert)
    return torch.stack(rows), chosen


@pytest.mark.parametrize("rank", [2, 3])
def test_a_projection_is_that_of_the_paper(rank):
    tower = plain.PlainTower(rank)
    adapter = ConvLora(ConvLora.Config(experts=4))
    x = tower.images(6)
    grafted = plain.grafted_on(tower, adapter)
    with torch.no_grad():
        for delta in adapter.delta.values():
            delta.gate.gate.mul_(20)  # far from a tie
    got = grafted(x).tokens
    grafted.ungraft()
    numbers, used = adapter.state_dict(), set()

    def block(i, module, y):
        read = module.norm1(y)
        q, k, v = module.qkv(read).chunk(3, dim=-1)
        added, experts = branch(numbers, f"blocks/{i}/attn/k", tower, read)
        used.update(experts)
        k = k + added
        added, experts = branch(numbers, f"blocks/{i}/attn/v", tower, read)
        used.update(experts)
        v = v + added
        y = y + module.proj(module.attend(torch.cat([q, k, v], dim=-1)))
        return y + module.mlp(module.norm2(y))

    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)
    assert len(used) > 1  # samples went to several experts


@settings(max_examples=8, deadline=None)
@given(rank=st.integers(1, 5), experts=st.integers(2, 8))
def test_the_number_of_parameters_is_that_of_the_formula(rank, experts):
    config = ConvLora.Config(rank=rank, experts=experts)
    grafted = Grafted(plain.PlainTower(), {"it": ConvLora(config)})
    one = 2 * 12 * rank + experts * (9 * rank**2 + rank) + 2 * rank * experts
    assert grafted.trainable_count()["it"] == 4 * one
    grafted.ungraft()


@pytest.mark.parametrize("name", ["chest", "timm", "hf_vit", "mha", "brain"])
def test_every_way_to_store_attention_is_covered(name):
    encoder = tiny.fresh(name)
    x = next(iter(tiny.batch(encoder).values()))
    before = encoder(x).tokens
    grafted = plain.grafted_on(encoder, ConvLora(ConvLora.Config(targets=("q", "k", "v"))))
    after = grafted(x).tokens
    assert after.isfinite().all() and not torch.allclose(after, before, atol=1e-3)
    hits = grafted.coverage()["it"]
    tower = next(iter(encoder.towers().values()))
    assert all(len(found) == len(tower.attention) and "text" not in found[0] for found in hits.values())


# -- the gate ---------------------------------------------------------------------------------------------------------


def balance_of(gate: NoisyTopOne, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Chosen experts, and the loss of their importance and load."""
    chosen, shares = gate(x)
    return chosen, torch.stack([_variation(each) for each in shares]).sum()


def test_an_even_gate_has_no_balance_to_restore_and_an_uneven_one_has():
    gate = NoisyTopOne(3, 4, torch.zeros(1)).train()
    x = torch.randn(4000, 3)
    chosen, even = balance_of(gate, x)
    shares = chosen.bincount(minlength=4) / len(x)
    # 4000 draws: the share of a quarter has a deviation of 0.007.
    assert (shares - 0.25).abs().max() < 0.035 and even < 0.02
    with torch.no_grad():
        gate.gate[:, 0] = 3.0
    chosen, uneven = balance_of(gate, x.abs())
    assert (chosen == 0).float().mean() > 0.9 and uneven > 1


def test_the_load_is_the_probability_of_staying_on_top():
    gate = NoisyTopOne(2, 3, torch.zeros(1, dtype=torch.float64)).train()
    with torch.no_grad():
        gate.gate.copy_(torch.randn(2, 3))
        gate.noise.copy_(torch.randn(2, 3))
    x = torch.randn(5, 2, dtype=torch.float64)
    torch.manual_seed(7)
    chosen, loss = balance_of(gate, x)
    torch.manual_seed(7)
    clean, deviation = x @ gate.gate, F.softplus(x @ gate.noise) + 1e-2
    noisy = clean + torch.randn_like(clean) * deviation
    load = torch.zeros(3, dtype=torch.float64)
    for b in range(5):
        for i in range(3):
            rival = max(float(noisy[b, j].detach()) for j in range(3) if j != i)
            load[i] += torch.distributions.Normal(0.0, 1.0).cdf((clean[b, i] - rival) / deviation[b, i])
    importance = noisy.argmax(dim=1).bincount(minlength=3).double()

    def variation(shares):
        return shares.var(correction=0) / shares.mean() ** 2

    assert torch.equal(chosen, noisy.argmax(dim=1))
    torch.testing.assert_close(loss, variation(importance) + variation(load), rtol=1e-8, atol=1e-8)


def test_the_balance_is_a_loss_while_training_only():
    tower = plain.PlainTower()
    adapter = ConvLora()
    grafted = Grafted(tower, {"it": adapter})
    grafted.train()
    loss = grafted.extra_loss(grafted.encode({"image": tower.images()}))
    assert loss is not None and 0 < float(loss.detach()) < 1
    loss.backward()
    assert all(delta.gate.gate.grad.any() for delta in adapter.delta.values())
    grafted.eval()
    assert grafted.extra_loss(grafted.encode({"image": tower.images()})) is None
    off = ConvLora(ConvLora.Config(balance=0.0))
    grafted.ungraft()
    grafted = Grafted(tower, {"it": off}).train()
    assert grafted.extra_loss(grafted.encode({"image": tower.images()})) is None


@pytest.mark.parametrize("name", ["timm_cnn", "text"])
def test_what_has_no_grid_of_tokens_is_refused(name):
    encoder = tiny.fresh("chest").towers()["text"] if name == "text" else tiny.fresh(name)
    with pytest.raises(IncompatibleError, match="query, key or value projection of an image or volume tower"):
        graft(encoder, "conv_lora")


def test_the_last_blocks_alone_leave_the_cache_before_them():
    tower = plain.PlainTower(depth=4)
    x = tower.images()
    hidden = tower.prefix(x, 3)
    grafted = plain.grafted_on(tower, ConvLora(ConvLora.Config(depth="half_up")))
    assert grafted.first_stage() == {"image": 3}
    assert torch.equal(grafted(hidden, start=3).tokens, grafted(x).tokens)
