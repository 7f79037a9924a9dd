"""Sites and the patterns that choose them."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import PROJECTIONS
from medgraft.encoder.sites import match_sites
from medgraft.errors import IncompatibleError

ATTENTION = ["chest", "brain", "timm", "hf_vit", "hf_clip", "mha"]


def names(encoder: Encoder, *patterns: str) -> list[str]:
    hits = match_sites(encoder.sites(), patterns, "test.targets")
    return [site.name for found in hits.values() for site in found]


# -- what an encoder offers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTENTION)
def test_every_block_offers_its_projections_and_itself_by_the_same_names(name):
    encoder = tiny.shared(name)
    sites = encoder.sites()
    for key, tower in encoder.towers().items():
        prefix = f"{key}." if len(encoder.towers()) > 1 else ""
        for i in range(len(tower.attention)):
            assert not tower.block_paths() or sites[f"{prefix}blocks.{i}"].kind == "block"
            assert {sites[f"{prefix}blocks.{i}.attn.{p}"].kind for p in PROJECTIONS} == {"projection"}


@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_every_site_points_at_a_module_of_the_encoder(name):
    encoder = tiny.shared(name)
    for site in encoder.sites().values():
        module = encoder.get_submodule(site.path)
        if site.kind in ("projection", "layer"):
            assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention)


@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_no_layer_is_offered_under_two_names(name):
    sites = tiny.shared(name).sites().values()
    places = [(site.path, site.rows and site.rows.start) for site in sites if site.kind in ("projection", "layer")]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("name", ["chest", "timm", "mha"])
def test_the_rows_of_a_packed_weight_are_parted_into_q_k_and_v(name):
    encoder = tiny.shared(name)
    sites = encoder.sites()
    prefix = next(iter(encoder.towers())) + "." if len(encoder.towers()) > 1 else ""
    found = [sites[f"{prefix}blocks.0.attn.{p}"] for p in PROJECTIONS]
    module = encoder.get_submodule(found[0].path)
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    rows = torch.cat([torch.arange(len(weight))[site.rows] for site in found])
    assert torch.equal(rows, torch.arange(len(weight)))


def test_the_output_projection_of_a_fused_attention_is_no_site():
    assert not [site for site in tiny.shared("mha").sites().values() if site.path.endswith("out_proj")]


@pytest.mark.parametrize("name", ["chest", "timm", "hf_vit", "mha"])
def test_a_site_inside_a_block_lies_at_the_blocks_stage_and_any_other_layer_at_the_start(name):
    encoder = tiny.shared(name)
    for site in encoder.sites().values():
        tower = encoder.towers()[site.tower] if site.tower else encoder
        if site.kind in ("projection", "layer", "block"):
            staged = site.block is not None and len(tower.block_stages) > 0
            assert site.stage == (tower.block_stages[site.block] if staged else 0)


@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_input_is_the_first_stage_and_features_come_after_the_last(name):
    encoder = tiny.shared(name)
    for site in encoder.sites().values():
        tower = encoder.towers()[site.tower] if site.tower else encoder
        if site.kind in ("input", "features"):
            assert site.stage == (0 if site.kind == "input" else tower.n_stages)


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("q", ["blocks.0.attn.q", "blocks.1.attn.q"]),
        ("blocks.1.attn.q", ["blocks.1.attn.q"]),
        ("*.attn.[qv]", ["blocks.0.attn.q", "blocks.0.attn.v", "blocks.1.attn.q", "blocks.1.attn.v"]),
        ("blocks.?.attn.k", ["blocks.0.attn.k", "blocks.1.attn.k"]),
        ("out", ["blocks.0.attn.out", "blocks.1.attn.out"]),
        ("fc1", ["model.blocks.0.mlp.fc1", "model.blocks.1.mlp.fc1"]),
        ("model.blocks.1.attn.proj", ["blocks.1.attn.out"]),
        ("blocks.?", ["blocks.0", "blocks.1"]),
        ("input", ["input"]),
        ("features", ["features"]),
    ],
)
def test_a_pattern_hits_names_last_parts_and_module_paths(pattern, wanted):
    assert names(tiny.shared("timm"), pattern) == wanted


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("image.blocks.0.attn.q", ["image.blocks.0.attn.q"]),
        ("blocks.0.attn.q", ["image.blocks.0.attn.q", "text.blocks.0.attn.q"]),
        ("text.*.attn.v", ["text.blocks.0.attn.v", "text.blocks.1.attn.v"]),
        ("features", ["image.features", "text.features"]),
    ],
)
def test_a_pattern_hits_every_tower_or_the_one_that_it_names(pattern, wanted):
    assert names(tiny.shared("hf_clip"), pattern) == wanted


def test_a_short_pattern_does_not_hit_a_block_by_its_number():
    with pytest.raises(IncompatibleError):
        names(tiny.shared("timm"), "1")


@pytest.mark.parametrize("pattern", ["Q", "qkv", "attn", "blocks.9.attn.q", "audio.*", ""])
def test_a_pattern_without_a_hit_is_an_error_with_examples(pattern):
    with pytest.raises(IncompatibleError, match=r"test\.targets: pattern .* matches no site .* for example input"):
        names(tiny.shared("timm"), pattern)


def test_one_dead_pattern_among_good_ones_is_an_error_that_names_it():
    with pytest.raises(IncompatibleError, match="'typo'"):
        names(tiny.shared("timm"), "q", "typo", "v")


def test_the_hits_are_kept_by_pattern():
    hits = match_sites(tiny.shared("timm").sites(), ["v", "q"], "test.targets")
    assert {pattern: [site.block for site in found] for pattern, found in hits.items()} == {"v": [0, 1], "q": [0, 1]}


def test_a_lone_layer_of_an_encoder_without_blocks_is_a_site():
    class Flat(Encoder):
        def __init__(self) -> None:
            super().__init__(EncoderSpec(name="t", modality="image", input_size=(4,), dim=4, weights="random"))
            self.stem = nn.Conv1d(1, 4, 3)

    assert list(Flat().sites()) == ["input", "stem", "features"]


# -- pooling heads ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pooled() -> Encoder:
    """A SigLIP of timm, pooled by an attention with a ``q`` and a ``kv`` of its own."""
    from medgraft.encoders.timm import TimmSource

    return TimmSource.build("vit_base_patch16_siglip_224", "random", img_size=32, depth=2, embed_dim=24, num_heads=2)


@pytest.mark.parametrize("pattern", ["q", "*.q", "*q", "*.attn.q", "blocks.*.q", "?*.q", "*.*.q"])
def test_a_pooling_heads_query_is_none_of_the_blocks(pooled, pattern):
    assert names(pooled, pattern) == ["blocks.0.attn.q", "blocks.1.attn.q"]


@pytest.mark.parametrize("pattern", ["query", "*.query", "*attn_pool.q", "model.attn_pool.q", "model.attn_pool.query"])
def test_a_pooling_heads_query_has_a_name_of_its_own(pooled, pattern):
    assert names(pooled, pattern) == ["model.attn_pool.query"]
    assert pooled.sites()["model.attn_pool.query"].path == "model.attn_pool.q"
    assert names(pooled, "*attn_pool.kv") == ["model.attn_pool.key_value"]


def test_where_blocks_have_no_canonical_projections_a_layer_called_q_stays_one():
    encoder = tiny.fresh("pixels_2d")
    encoder.add_module("cross", nn.ModuleDict({"q": nn.Linear(2, 2), "kv": nn.Linear(2, 4)}))
    assert names(encoder, "q") == names(encoder, "*.q") == ["cross.q"] and names(encoder, "kv") == ["cross.kv"]
