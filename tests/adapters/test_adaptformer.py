"""AdaptFormer against its equations, in every library, and the order of its parts."""

from __future__ import annotations

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F

from medgraft.adapters.adaptformer import AdaptFormer
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("rank", [2, 3])
def test_a_block_is_that_of_the_paper(rank):
    tower = plain.PlainTower(rank)
    adapter = AdaptFormer(AdaptFormer.Config(width=7, scale=0.3))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    numbers = adapter.state_dict()

    def block(i, module, y):
        y = y + module.attn(module.norm1(y))
        read = module.norm2(y)
        down, up = (f"bottleneck.blocks/{i}/mlp.{part}" for part in ("down", "up"))
        inside = F.relu(read @ numbers[f"{down}.weight"].T + numbers[f"{down}.bias"])
        return module.mlp(read) + 0.3 * (inside @ numbers[f"{up}.weight"].T + numbers[f"{up}.bias"]) + y

    grafted.ungraft()
    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)


def test_the_number_of_parameters_is_that_of_the_paper():
    grafted = Grafted(plain.PlainTower(), {"it": AdaptFormer()})
    assert grafted.trainable_count()["it"] == 2 * (2 * 64 * 12 + 12 + 64)


@pytest.mark.parametrize(("name", "mlp"), [("timm", "model.blocks.{}.mlp"), ("mha", "blocks.{}.mlp")])
def test_an_mlp_that_is_one_module_gives_the_same(name, mlp):
    encoder = tiny.fresh(name).double()
    x = tiny.batch(encoder)["image"].double()
    adapter = AdaptFormer()
    grafted = plain.grafted_on(encoder, adapter)
    got = grafted(x).pooled
    grafted.ungraft()
    for i in range(2):
        branch = adapter.bottleneck[f"blocks/{i}/mlp"]
        hook = lambda m, a, out, branch=branch: out + 0.1 * branch(a[0])  # noqa: E731
        encoder.get_submodule(mlp.format(i)).register_forward_hook(hook)
    torch.testing.assert_close(got, encoder(x).pooled, **plain.EXACT)


def test_a_branch_of_the_attention_reads_what_the_attention_reads():
    tower = plain.PlainTower(depth=1)
    adapter = AdaptFormer(AdaptFormer.Config(targets=("*.attn",)))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    grafted.ungraft()

    def block(i, module, y):
        read = module.norm1(y)
        y = y + module.attn(read) + 0.1 * adapter.bottleneck["blocks/0/attn"](read)
        return y + module.mlp(module.norm2(y))

    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)


def test_nothing_of_a_run_that_fails_half_way_is_left():
    tower = plain.PlainTower(depth=1)
    grafted = plain.grafted_on(tower, AdaptFormer())
    x = tower.images()
    wanted = grafted(x).tokens
    handle = tower.blocks[0].fc2.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out")))
    with pytest.raises(RuntimeError, match="out"):
        grafted(tower.images(3))
    handle.remove()
    assert torch.equal(grafted(x).tokens, wanted)


def test_it_composes_with_lora_and_both_come_off():
    encoder = tiny.fresh("chest")
    x = tiny.batch(encoder)["image"]
    before = encoder(x).pooled
    grafted = graft(encoder, "lora+adaptformer")
    assert set(grafted.trainable_count()) == {"lora", "adaptformer"}
    grafted.ungraft()
    assert torch.equal(encoder(x).pooled, before)
