"""Branches, norms and blocks as sites, and what an attachment does there."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.adapter import Attachment
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoder.sites import block_roots, branch_sites, match_sites, norm_sites

pytestmark = pytest.mark.usefixtures("seeded")
ATTENTION = ["chest", "brain", "timm", "hf_vit", "hf_clip", "mha"]


@pytest.mark.parametrize("name", ATTENTION)
def test_every_block_has_two_branches_that_add_up_to_its_change(name):
    encoder = tiny.fresh(name)
    inputs = tiny.batch(encoder)
    for key, tower in encoder.towers().items():
        sites = tower.sites()
        first = tower.block_paths()[0] if tower.block_paths() else block_roots(tower.attention)[0]
        seen = {}

        def keep(label, seen=seen):
            def hook(module, args, output):
                seen[label] = args[0], output[0] if isinstance(output, tuple) else output

            return hook

        paths = {"attn": sites["blocks.0.attn"].path, "mlp": sites["blocks.0.mlp"].path, "block": first}
        handles = [tower.get_submodule(path).register_forward_hook(keep(label)) for label, path in paths.items()]
        with torch.no_grad():
            tower(inputs[key])
        for handle in handles:
            handle.remove()
        entered, left = seen["block"]
        torch.testing.assert_close(left - entered, seen["attn"][1] + seen["mlp"][1], rtol=1e-4, atol=1e-4)


def bert() -> tuple[nn.Module, list[AttentionLayout]]:
    from transformers import BertConfig, BertModel

    from medgraft.encoders.parts.hf.towers import find_layers, split_layouts

    model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16))
    return model, split_layouts(model, find_layers(model), 2, "")


def test_a_post_norm_block_has_its_branches_at_its_output_layers():
    model, layouts = bert()
    layouts = [
        AttentionLayout("split", x.path[1:], 2, 8, x.key_path[1:], x.value_path[1:], x.out_path[1:]) for x in layouts
    ]
    blocks = block_roots(layouts)
    assert blocks == ["encoder.layer.0", "encoder.layer.1"]
    sites = branch_sites(model, layouts, blocks, ())
    assert sites["blocks.1.attn"].path == "encoder.layer.1.attention.output.dense"
    assert (sites["blocks.1.mlp"].entry, sites["blocks.1.mlp"].path) == (
        "encoder.layer.1.intermediate.dense",
        "encoder.layer.1.output.dense",
    )
    assert norm_sites(model, blocks, ())["encoder.layer.1.output.LayerNorm"].block == 1


def test_a_block_without_an_mlp_has_no_such_branch():
    root = nn.ModuleDict({"0": nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)})})
    layouts = [AttentionLayout("mha", "0.attn", 2, 8)]
    assert list(branch_sites(root, layouts, ["0"], ())) == ["blocks.0.attn"]


@pytest.mark.parametrize(("pattern", "hits"), [("norm1", 2), ("*.attn", 2), ("*.norm?", 4), ("model.norm", 1)])
def test_patterns_hit_norms_and_branches(pattern, hits):
    assert len(match_sites(tiny.shared("timm").sites(), [pattern], "test.targets")[pattern]) == hits


def test_a_site_of_a_tower_knows_its_entry_in_the_whole():
    site = tiny.shared("chest").sites()["text.blocks.1.mlp"]
    assert (site.entry, site.path) == ("tower.text.blocks.1.fc1", "tower.text.blocks.1.fc2")


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_projections_of_a_fused_attention_can_be_mapped(batch_first):
    encoder = tiny.MhaViT(batch_first=batch_first).freeze().double()
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    before = encoder(x).tokens
    attachment = Attachment(encoder)
    attachment.map_projection("blocks.0.attn", lambda x, packed: packed + 0.5 * x.repeat(1, 1, 3))
    after = encoder(x).tokens
    attachment.detach()
    assert torch.equal(encoder(x).tokens, before)
    with torch.no_grad():
        encoder.blocks[0].attn.in_proj_weight += 0.5 * torch.eye(32).repeat(3, 1)
    torch.testing.assert_close(after, encoder(x).tokens, rtol=1e-10, atol=1e-10)
