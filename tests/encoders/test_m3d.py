"""M3D's vision encoder against its formula and MONAI's ViT, its published keys, its preprocessing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.testing import assert_close

from medgraft.checkpoints.weights import state_digest
from medgraft.encoders.m3d import M3dSource, M3DViT, prepare_volume, resize_positions, vit_state
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError

EXACT = {"rtol": 1e-9, "atol": 1e-9}
SIZE, PATCH = (8, 32, 48), (4, 16, 16)
TINY = {"dim": 12, "depth": 2, "heads": 3, "mlp_dim": 20}
BLOCK = {
    "mlp.linear1.weight": (20, 12),
    "mlp.linear1.bias": (20,),
    "mlp.linear2.weight": (12, 20),
    "mlp.linear2.bias": (12,),
    "norm1.weight": (12,),
    "norm1.bias": (12,),
    "attn.out_proj.weight": (12, 12),
    "attn.out_proj.bias": (12,),
    "attn.qkv.weight": (36, 12),
    "norm2.weight": (12,),
    "norm2.bias": (12,),
}
KEYS = {
    "cls_token": (1, 1, 12),
    "patch_embedding.position_embeddings": (1, 12, 12),
    "patch_embedding.patch_embeddings.1.weight": (12, 1024),
    "patch_embedding.patch_embeddings.1.bias": (12,),
    **{f"blocks.{i}.{key}": shape for i in (0, 1) for key, shape in BLOCK.items()},
    "norm.weight": (12,),
    "norm.bias": (12,),
}


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published(positions=12, dtype=torch.float64):
    shapes = KEYS | {"patch_embedding.position_embeddings": (1, positions, 12)}
    return {key: (0.3 * noise(*shape, seed=n)).to(dtype) for n, (key, shape) in enumerate(shapes.items())}


def build() -> M3DViT:
    model = M3DViT(SIZE, PATCH, **TINY).double()
    model.load_state_dict(published())
    return model


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def by_hand(w, x, heads=3):
    """Patch by patch and head by head; tokens of one volume ``[D, H, W]`` and every block's output."""
    rows = [w["cls_token"][0, 0]]
    for d in range(0, x.shape[0], 4):
        for h in range(0, x.shape[1], 16):
            for v in range(0, x.shape[2], 16):
                patch = torch.stack([x[d + i, h + j, v + k] for i in range(4) for j in range(16) for k in range(16)])
                position = w["patch_embedding.position_embeddings"][0, len(rows) - 1]
                linear = w["patch_embedding.patch_embeddings.1.weight"] @ patch
                rows.append(linear + w["patch_embedding.patch_embeddings.1.bias"] + position)
    t, hidden = torch.stack(rows), []
    C = t.shape[1]
    for i in range(2):
        b = {k.removeprefix(f"blocks.{i}."): value for k, value in w.items() if k.startswith(f"blocks.{i}.")}
        z = norm(t, b["norm1.weight"], b["norm1.bias"])
        mixed = []
        for head in range(heads):
            part = [slice(p * C + head * C // heads, p * C + (head + 1) * C // heads) for p in range(3)]
            q, k, v = (torch.einsum("nc,dc->nd", z, b["attn.qkv.weight"][rows]) for rows in part)
            weights = torch.exp(torch.einsum("id,jd->ij", q, k) * (C // heads) ** -0.5)
            mixed.append(torch.einsum("ij,jd->id", weights / weights.sum(1, keepdim=True), v))
        t = t + torch.cat(mixed, dim=1) @ b["attn.out_proj.weight"].T + b["attn.out_proj.bias"]
        u = norm(t, b["norm2.weight"], b["norm2.bias"]) @ b["mlp.linear1.weight"].T + b["mlp.linear1.bias"]
        u = 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
        t = t + u @ b["mlp.linear2.weight"].T + b["mlp.linear2.bias"]
        hidden.append(t)
    return norm(t, w["norm.weight"], w["norm.bias"]), hidden


# -- the formula ------------------------------------------------------------------------------------------------------


def test_it_computes_the_published_formula():
    x = noise(2, 1, *SIZE)
    tokens, hidden = build()(x)
    for sample in range(2):
        wanted, states = by_hand(published(), x[sample, 0])
        assert_close(tokens[sample], wanted, **EXACT)
        assert len(hidden) == 2
        for found, state in zip(hidden, states, strict=True):
            assert_close(found[sample], state, **EXACT)


def test_it_gives_the_numbers_of_monai():
    from monai.networks.nets.vit import ViT

    theirs = ViT(1, SIZE, PATCH, 12, 20, 2, 3, proj_type="perceptron", classification=True).double().eval()
    extra = theirs.load_state_dict(published(), strict=False)
    assert not extra.unexpected_keys
    del theirs.classification_head
    x = noise(2, 1, *SIZE)
    wanted, hidden = theirs(x)
    tokens, states = build()(x)
    assert_close(tokens, wanted, **EXACT)
    assert_close(states, hidden, **EXACT)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_patch_embedding_is_a_strided_convolution_with_the_channel_innermost(channels):
    model = M3DViT((4, 6, 8), (2, 3, 4), **TINY, channels=channels).double()
    linear = model.patch_embedding.patch_embeddings[1]
    kernel = linear.weight.view(12, 2, 3, 4, channels).permute(0, 4, 1, 2, 3)
    x = noise(2, channels, 4, 6, 8)
    maps = torch.nn.functional.conv3d(x, kernel, linear.bias, stride=(2, 3, 4))
    wanted = maps.flatten(2).transpose(1, 2) + model.patch_embedding.position_embeddings
    assert_close(model.patch_embedding(x), wanted, **EXACT)


def test_the_published_size():
    with torch.device("meta"):
        model = M3DViT()
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 87_389_184 and len(state) == 138
    assert state["patch_embedding.position_embeddings"].shape == (1, 2048, 768)
    assert state["patch_embedding.patch_embeddings.1.weight"].shape == (768, 1024)
    assert state["blocks.11.attn.qkv.weight"].shape == (2304, 768) and model.grid == (8, 16, 16)


def test_the_state_dict_has_the_published_keys():
    assert {key: tuple(value.shape) for key, value in build().state_dict().items()} == KEYS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": (8, 32, 40)}, r"patches of \(4, 16, 16\) do not divide a volume of \(8, 32, 40\)"),
        ({"img_size": (8, 32)}, "three axes"),
        ({"heads": 5}, "5 heads do not divide a width of 12"),
    ],
)
def test_sizes_that_do_not_fit_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        M3dSource.build("clip", "random", **{"img_size": SIZE, **TINY} | options)


# -- checkpoints ------------------------------------------------------------------------------------------------------

PREFIXES = {
    "": (),
    "module.": ("module.language_encoder.embeddings.weight", "module.mm_vision_proj.bias"),
    "vision_encoder.": ("language_encoder.embeddings.weight", "mm_vision_proj.weight", "logit_scale"),
    "module.vision_encoder.": ("module.logit_scale",),
    "model.vision_tower.vision_tower.": (
        "model.embed_tokens.weight",
        "model.mm_projector.projector.0.weight",
        "lm_head.w",
    ),
    "vision_tower.vision_tower.": ("mm_projector.projector.0.weight",),
}


def tiny_encoder(path, model="clip", **options):
    return M3dSource.build(model, str(path), img_size=SIZE, **TINY, **options)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["model.safetensors", "pretrained_ViT.bin"])
def test_a_published_file_loads_under_any_prefix(prefix, name, tmp_path):
    state = {f"{prefix}{key}": value for key, value in published(dtype=torch.bfloat16).items()}
    state |= {key: torch.ones(2) for key in PREFIXES[prefix]}
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    encoder = tiny_encoder(path)
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}" and encoder.spec.licence == "unknown"
    own = encoder.model.state_dict()
    assert all(value.dtype == torch.float32 for value in own.values())
    assert all(torch.equal(own[key], value.float()) for key, value in published(dtype=torch.bfloat16).items())
    assert state_digest(tiny_encoder(tmp_path)) == state_digest(encoder)


def test_views_of_one_flat_storage_load(tmp_path):
    wanted = published(dtype=torch.bfloat16)
    flat = torch.cat([value.reshape(-1) for value in wanted.values()])
    views, start = {}, 0
    for key, value in wanted.items():
        views[key] = flat[start : start + value.numel()].view(value.shape)
        start += value.numel()
    torch.save(views, tmp_path / "pretrained_ViT.bin")
    own = tiny_encoder(tmp_path).model.state_dict()
    assert all(torch.equal(own[key], value.float()) for key, value in wanted.items())


def test_parts_that_newer_monai_adds_are_left_out(tmp_path):
    extra = {"blocks.0.norm_cross_attn.weight": torch.ones(12), "classification_head.0.bias": torch.ones(2)}
    save_file(published() | extra, tmp_path / "vit.safetensors")
    assert tiny_encoder(tmp_path / "vit.safetensors").spec.dim == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.attn.qkv.weight"), "missing: blocks.1.attn.qkv.weight"),
        (lambda s: s.update({"blocks.0.attn.qkv.bias": torch.ones(36)}), "unexpected: blocks.0.attn.qkv.bias"),
        (lambda s: s.update({"norm.weight": torch.ones(5)}), r"norm.weight is \(5,\), expected \(12,\)"),
        (lambda s: s.pop("patch_embedding.patch_embeddings.1.weight"), "holds 0 M3D vision encoders"),
        (
            lambda s: s.update({"patch_embedding.position_embeddings": torch.ones(1, 7, 12)}),
            "7 positions, neither the 12",
        ),
    ],
)
def test_a_file_that_does_not_fit_says_why(change, message, tmp_path):
    state = published()
    change(state)
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match=message):
        tiny_encoder(tmp_path / "vit.safetensors")


def test_two_encoders_in_one_file_are_refused():
    state = {f"{side}.{key}": value for side in ("student", "teacher") for key, value in published().items()}
    with pytest.raises(CheckpointError, match="holds 2 M3D vision encoders"):
        vit_state(state, (2, 2, 3))


def test_a_folder_without_weights_and_a_wrong_digest_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors, pretrained_ViT\.bin"):
        tiny_encoder(tmp_path)
    save_file(published(), tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match="has sha256"):
        tiny_encoder(tmp_path / "vit.safetensors", sha256="0" * 64)


def test_a_pickle_that_runs_code_is_refused(pickle_bomb):
    path, fuse = pickle_bomb
    with pytest.raises(CheckpointError, match="refused"):
        tiny_encoder(path)
    assert not fuse.exists()


def test_without_a_network_the_default_weights_are_an_error_with_a_remedy():
    with pytest.raises(CheckpointError, match=r"m3d:clip.*could not be loaded.*@random"):
        M3dSource.build("clip", **TINY)


def test_the_default_weights_are_the_published_file_of_the_hub(tmp_path, monkeypatch, reachable):
    save_file({f"vision_encoder.{key}": value for key, value in published().items()}, tmp_path / "clip.safetensors")
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return str(tmp_path / "clip.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    encoder = M3dSource.build("clip", img_size=SIZE, **TINY)
    assert asked == [("GoodBaiBai88/M3D-CLIP", "model.safetensors")]
    assert encoder.spec.licence == "Apache-2.0" and encoder.spec.cohorts == ("M3D-Cap",)
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}"


# -- positions --------------------------------------------------------------------------------------------------------


def test_published_positions_are_interpolated_to_other_grids():
    state = vit_state(published(positions=2048), (2, 2, 3))
    found = state["patch_embedding.position_embeddings"]
    positions = published(positions=2048)["patch_embedding.position_embeddings"].float()
    maps = positions.view(8, 16, 16, 12)
    # Sixteen columns shrink to two: the wanted point lies midway between the fourth and the fifth of each half.
    assert_close(found.view(2, 2, 3, 12)[0, 0, 1], maps[1:3, 3:5, 7:9].mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    same = vit_state(published(positions=2048), (8, 16, 16))["patch_embedding.position_embeddings"]
    assert torch.equal(same, positions)


@settings(max_examples=20, deadline=None)
@given(grid=st.tuples(*[st.integers(1, 4)] * 3), target=st.tuples(*[st.integers(1, 5)] * 3))
def test_interpolated_positions_stay_within_the_learned_range(grid, target):
    positions = noise(1, math.prod(grid), 3)
    found = resize_positions(positions, grid, target)
    assert found.shape == (1, math.prod(target), 3)
    assert found.max() <= positions.max() + 1e-12 and found.min() >= positions.min() - 1e-12
    constant = torch.ones_like(positions)
    assert_close(resize_positions(constant, grid, target), torch.ones_like(found))


# -- the encoder ------------------------------------------------------------------------------------------------------


def test_features_are_the_networks_tokens_with_cls_pooled():
    encoder = M3dSource.build("clip", "random", img_size=SIZE, **TINY)
    x = noise(2, 1, *SIZE).float()
    with torch.no_grad():
        features, tokens = encoder(x), encoder.model(x).tokens
    assert torch.equal(features.tokens, tokens) and torch.equal(features.pooled, tokens[:, 0])
    assert features.grid == (2, 2, 3) and features.n_prefix == 1


def test_pooled_tokens_are_means_of_cubes_without_cls():
    size = (16, 64, 64)
    encoder = M3dSource.build("clip_pooled", "random", img_size=size, **TINY)
    x = noise(2, 1, *size).float()
    with torch.no_grad():
        features = encoder(x)
        cubes = encoder.model(x).tokens[:, 1:].view(2, 2, 2, 2, 2, 2, 2, 12)
    assert features.grid == (2, 2, 2) and features.n_prefix == 0
    assert_close(features.tokens, cubes.mean((2, 4, 6)).flatten(1, 3))
    assert_close(features.pooled, features.tokens.mean(1))
    with pytest.raises(ConfigError, match="no CLS token"):
        encoder(x, scores=True)


def test_scores_are_those_of_the_last_blocks_cls_row():
    encoder = M3dSource.build("clip", "random", img_size=SIZE, **TINY)
    x = noise(2, 1, *SIZE).float()
    with torch.no_grad():
        features = encoder(x, scores=True)
        block, before = encoder.model.blocks[1], encoder.model(x).hidden_states[0]
        q, k, _ = block.attn.qkv(block.norm1(before)).view(2, 13, 3, 3, 4).permute(2, 0, 3, 1, 4)
    assert_close(features.cls_scores, (torch.einsum("bhd,bhnd->bhn", q[:, :, 0], k) / 2)[..., 1:])


def test_half_precision_stays_close():
    encoder = M3dSource.build("clip", "random", img_size=SIZE, **TINY)
    x = noise(2, 1, *SIZE).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = encoder(x).pooled.float()
    with torch.no_grad():
        full = encoder(x).pooled
    assert torch.linalg.vector_norm(half - full) < 0.05 * torch.linalg.vector_norm(full)


def test_an_unknown_model_is_an_error_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="did you mean clip"):
        M3dSource.build("clipp", "random")


# -- preparation ------------------------------------------------------------------------------------------------------


def test_a_volume_is_prepared_as_published(volume):
    from monai.transforms.compose import Compose
    from monai.transforms.croppad.array import CropForeground
    from monai.transforms.spatial.array import Resize

    raw = volume * 900 - 450
    scaled = raw - raw.min()
    scaled = scaled / scaled.max()
    wanted = Compose([CropForeground(), Resize(spatial_size=[32, 256, 256])])(scaled[None])
    found = prepare_volume(raw, (32, 256, 256))
    assert found.shape == (1, 32, 256, 256) and found.dtype == torch.float32
    assert_close(found, torch.as_tensor(np.asarray(wanted)), rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    scale=st.floats(1e-2, 1e4),
    offset=st.floats(-1e3, 1e3),
    size=st.tuples(*[st.integers(1, 7)] * 3),
)
def test_a_prepared_volume_lies_in_0_to_1_whatever_its_units(shape, scale, offset, size):
    raw = np.random.default_rng(0).random(shape)
    found = prepare_volume(raw, size)
    assert found.shape == (1, *size) and found.min() >= 0 and found.max() <= 1
    assert_close(prepare_volume(raw * scale + offset, size), found, rtol=1e-2, atol=2e-2)


def test_empty_borders_do_not_count(volume):
    padded = np.pad(volume, ((3, 1), (0, 4), (2, 2)))
    inner = np.pad(volume, ((0, 1), (0, 0), (0, 0)))  # a zero must be there, since the minimum maps to it
    assert_close(prepare_volume(padded, (8, 8, 8)), prepare_volume(inner, (8, 8, 8)), rtol=1e-5, atol=1e-6)


def test_a_constant_volume_is_black():
    assert not prepare_volume(np.full((3, 4, 5), 7.0), (2, 2, 2)).any()


@pytest.mark.parametrize("raw", [np.zeros((3, 4)), np.zeros((0, 3, 3)), np.full((2, 2, 2), np.nan)])
def test_what_is_no_volume_is_an_error(raw):
    with pytest.raises(DataError, match="a volume must be"):
        prepare_volume(raw, (2, 2, 2))
