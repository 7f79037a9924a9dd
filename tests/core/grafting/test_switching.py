"""Several named adapters on one encoder, and the tree that shows what they touch."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.adapters.lora import Lora
from medgraft.adapters.peft import PeftAdapter
from medgraft.errors import ConfigError, IncompatibleError, UnknownNameError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


def wake(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)


def run(grafted: Grafted) -> torch.Tensor:
    with torch.no_grad():
        return grafted(next(iter(tiny.batch(grafted.encoder).values()))).tokens


SECOND = {
    "lora": lambda: Lora(Lora.Config(rank=3, targets=("out",))),
    "peft": lambda: PeftAdapter(PeftAdapter.Config(method="lora", targets=("out",), options={"r": 2})),
}


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("name", ["timm", "hf_vit"])
def test_adapters_take_turns_bit_for_bit(name, second):
    encoder = tiny.fresh(name)
    bare = encoder(next(iter(tiny.batch(encoder).values()))).tokens
    grafted = graft(encoder, "lora", rank=2)
    wake(grafted.adapters)
    first = run(grafted)
    grafted.add("other", SECOND[second]())
    assert grafted.active == ("other",)
    wake(grafted.adapters["other"])
    other = run(grafted)
    assert not torch.equal(first, other)

    for _ in range(2):
        grafted.activate("lora")
        assert torch.equal(run(grafted), first)
        grafted.activate("other")
        assert torch.equal(run(grafted), other)
        grafted.activate()
        assert torch.equal(run(grafted), bare)
    grafted.activate("lora", "other")
    both = run(grafted)
    assert not torch.equal(both, first) and not torch.equal(both, other)
    assert torch.equal(grafted.ungraft()(next(iter(tiny.batch(encoder).values()))).tokens, bare)


def test_two_that_cannot_act_at_once_take_turns():
    grafted = graft(tiny.fresh("mha"), "lora", rank=2)
    wake(grafted.adapters)
    first = run(grafted)
    grafted.add("other", Lora(Lora.Config(rank=3, targets=("k",))))
    wake(grafted.adapters["other"])
    other = run(grafted)
    with pytest.raises(ConfigError, match="already changed by another adapter"):
        grafted.activate("lora", "other")
    assert grafted.active == ("other",) and torch.equal(run(grafted), other)
    grafted.activate("lora")
    assert torch.equal(run(grafted), first)


def test_only_what_is_active_trains_counts_and_is_covered():
    grafted = graft(tiny.fresh("timm"), "lora", rank=2)
    grafted.add("probe", Lora(Lora.Config(rank=1, targets=("blocks.1.attn.q",))))
    assert list(grafted.trainable_count()) == ["probe"] and list(grafted.coverage()) == ["probe"]
    assert len(grafted.trainable_parameters()) == 2
    assert grafted.first_stage() == {"image": 2}
    grafted.activate("lora")
    assert list(grafted.trainable_count()) == ["lora"] and grafted.first_stage() == {"image": 1}


def test_a_merged_adapter_leaves_the_weights_when_it_is_switched_off():
    encoder = tiny.fresh("timm")
    weights = {key: value.clone() for key, value in encoder.state_dict().items()}
    grafted = graft(encoder, "lora", rank=2)
    wake(grafted.adapters)
    grafted.merge()
    grafted.activate()
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())


def test_an_adapter_that_does_not_fit_leaves_the_graft_as_it_was():
    grafted = graft(tiny.fresh("timm"), "lora", rank=2)
    wake(grafted.adapters)
    before = run(grafted)
    with pytest.raises(IncompatibleError, match="nosuch"):
        grafted.add("other", Lora(Lora.Config(targets=("nosuch",))))
    assert grafted.active == ("lora",) and torch.equal(run(grafted), before)


def test_names_are_checked():
    grafted = graft(tiny.fresh("timm"), "lora", rank=2)
    with pytest.raises(ConfigError, match="already has an adapter 'lora'"):
        grafted.add("lora", Lora())
    with pytest.raises(UnknownNameError, match="did you mean lora"):
        grafted.activate("lra")


def test_the_tree_shows_every_site_once_and_marks_what_was_hit():
    grafted = graft(tiny.fresh("chest"), "lora", rank=2, targets=("image.blocks.1.attn.q", "fc1"))
    coverage = grafted.coverage()
    assert coverage == {"lora": {"image.blocks.1.attn.q": ["image.blocks.1.attn.q"], "fc1": coverage["lora"]["fc1"]}}
    text = str(coverage)
    assert repr(coverage) == text and text.startswith("embedded:chest\n")
    lines = text.splitlines()
    assert "    attn.q                       lora (image.blocks.1.attn.q)" not in lines  # the pattern is the site
    assert sum(line.split() == ["attn.q", "lora"] for line in lines) == 1
    assert sum(line.split() == ["fc1", "lora", "(fc1)"] for line in lines) >= 3
    assert any("alike" in line for line in lines)


def test_the_tree_of_an_encoder_with_module_paths_folds_equal_blocks():
    text = str(graft(tiny.fresh("hf_vit"), "lora", rank=2).coverage())
    assert "(2 alike)" in text and text.count("lora (q)") == 1
