"""Adapters with one module per site: what is built where, how it hangs, and that copies have their own."""

from __future__ import annotations

import copy

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.adapter.site_adapter import SiteAdapter
from medgraft.encoder.sites import match_sites
from medgraft.errors import IncompatibleError
from medgraft.grafting import Grafted


class Linear(SiteAdapter):
    modules_name = "extra"

    def select(self, encoder, sites):
        return match_sites(sites, ("blocks.*.mlp", "blocks.1.*mlp"), "linear.targets")

    def build(self, encoder, site):
        return nn.Linear(encoder.spec.dim, encoder.spec.dim, bias=False)


def test_each_selected_site_has_one_module_under_its_name():
    grafted = Grafted(tiny.fresh("timm"), {"it": Linear()})
    assert list(grafted.adapters["it"].state_dict()) == [f"extra.blocks/{i}/mlp.weight" for i in range(2)]
    assert grafted.coverage()["it"]["blocks.*.mlp"] == ["blocks.0.mlp", "blocks.1.mlp"]


def test_what_a_module_makes_of_a_sites_output_is_added_to_it():
    encoder = tiny.fresh("timm")
    x, seen = tiny.batch(encoder)["image"], {}
    grafted = Grafted(encoder, {"it": Linear()})
    weight = grafted.adapters["it"].extra["blocks/1/mlp"].weight
    with torch.no_grad():
        grafted.adapters["it"].extra["blocks/0/mlp"].weight.zero_()
        weight.copy_(torch.eye(len(weight)))
    branch = encoder.get_submodule(encoder.sites()["blocks.1.mlp"].path)
    branch.register_forward_hook(lambda module, arguments, output: seen.update({grafted.active: output}))
    grafted(x)
    grafted.activate()
    grafted(x)
    torch.testing.assert_close(seen["it",], 2 * seen[()], rtol=0, atol=1e-6)


def test_a_copy_acts_by_its_own_modules():
    grafted = Grafted(tiny.fresh("timm"), {"it": Linear()})
    x = tiny.batch(grafted.encoder)["image"]
    twin, before = copy.deepcopy(grafted), grafted(x).tokens
    with torch.no_grad():
        for parameter in twin.adapters["it"].parameters():
            parameter.zero_()
    assert torch.equal(grafted(x).tokens, before) and not torch.equal(twin(x).tokens, before)


def test_it_fits_where_its_selection_finds_sites():
    assert Linear().supports(tiny.shared("timm"))
    support = Linear().supports(tiny.shared("timm_cnn"))
    assert not support and "linear.targets" in support.reason
    with pytest.raises(IncompatibleError, match=r"linear\.targets"):
        Grafted(tiny.fresh("timm_cnn"), {"it": Linear()})


@pytest.mark.parametrize("method", ["select", "build"])
def test_what_is_missing_is_named(method):
    cls = type("Half", (Linear,), {method: getattr(SiteAdapter, method)})
    with pytest.raises(TypeError, match=rf"Half must implement {method}\(\)"):
        Grafted(tiny.fresh("timm"), {"it": cls()})
