"""timm: the same numbers as the library, its attention, its preprocessing, its checkpoints."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from medgraft.checkpoints.weights import file_digest, state_digest
from medgraft.encoders.timm import TimmFeatures, TimmSource, TimmViT
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from medgraft.grafting import graft

SMALL: dict[str, Any] = {"depth": 2, "img_size": 64}
THIN: dict[str, Any] = {"embed_dim": 96, "num_heads": 3, **SMALL}
EVA: dict[str, Any] = {"depth": 2, "img_size": 56, "embed_dim": 64, "num_heads": 2}
VITS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "vit_small_patch14_reg4_dinov2": THIN | {"img_size": 56},
    "vit_small_patch16_dinov3": THIN,
    "vit_small_patch16_dinov3_qkvb": THIN,
    "vit_small_patch16_rope_mixed_224": THIN,
    "vit_pe_core_tiny_patch16_384": SMALL,
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": 56},
    "eva_giant_patch14_224": EVA,
}


def build(*args: Any, **options: Any) -> Any:
    return TimmSource.build(*args, **options)


@functools.cache
def encoder_of(name: str, **options) -> Any:
    return build(name, "random", **(VITS.get(name, {}) | options))


def images(encoder, count=2, dtype=torch.float32):
    return torch.randn(count, 3, *encoder.spec.input_size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def with_random_biases(model: Any) -> Any:
    """Fresh models have zero biases and unit norms, which would hide a forgotten one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", [*VITS, "test_resnet", "test_convnext", "test_efficientnet", "swin_s3_tiny_224"])
def test_features_are_the_librarys(name, tmp_path):
    options = VITS.get(name, {"img_size": 56, "embed_dim": 24, "depths": (1, 1, 1, 1)} if "swin" in name else {})
    model = with_random_biases(timm.create_model(name, num_classes=0, **options)).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    encoder = build(name, str(tmp_path / "weights.safetensors"), **options)
    x = images(encoder)
    with torch.no_grad():
        expected, features = model.forward_features(x), encoder(x)
        pooled = model.forward_head(expected, pre_logits=True)
    if expected.ndim == 4:
        first = expected.shape[1] == encoder.spec.dim
        expected = expected.flatten(2).transpose(1, 2) if first else expected.flatten(1, 2)
    assert torch.equal(features.tokens, expected)
    assert torch.equal(features.pooled, pooled)
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}"


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in VITS), ("vit_tiny_patch16_224", {"qk_norm": True})]
)
def test_cls_row_is_the_librarys_attention(name, options):
    encoder = copy.deepcopy(encoder_of(name, **options)).double()
    with_random_biases(encoder)
    x = images(encoder, dtype=torch.float64)
    seen = {}
    attn = encoder.model.blocks[-1].attn
    attn.fused_attn = False
    attn.attn_drop.register_forward_pre_hook(lambda module, args: seen.update(probs=args[0]))
    with torch.no_grad():
        features = encoder(x, scores=True)
    expected = seen["probs"][:, :, 0, features.n_prefix :]
    assert (features.cls_probs - expected).abs().max() < 1e-9


def test_eva_without_folding_would_have_dead_projections():
    """The trap that folding the bias avoids: timm uses the weight of ``qkv`` and never calls the module."""
    model: Any = timm.create_model("eva_giant_patch14_224", num_classes=0, **EVA).eval()
    calls = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda *args: calls.append(1))
    model.forward_features(torch.zeros(1, 3, 56, 56))
    assert not calls
    encoder = TimmViT(encoder_of("eva_giant_patch14_224").spec, model, lambda image: image)
    encoder(torch.zeros(1, 3, 56, 56))
    assert calls


@pytest.mark.parametrize(("name", "options"), [
    ("beit_base_patch16_224", THIN), ("beitv2_base_patch16_224", THIN),
    ("swinv2_tiny_window8_256", {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 4)}),
])  # fmt: skip
def test_beit_and_swin_v2_call_their_projections_and_give_the_same(name, options):
    model = with_random_biases(timm.create_model(name, num_classes=0, **options)).eval()
    x = torch.randn(1, 3, *model.pretrained_cfg["input_size"][1:] if "swin" in name else (64, 64))
    with torch.no_grad():
        expected = model.forward_features(x)
        encoder = TimmFeatures(encoder_of(name, **options).spec, model, lambda image: image)
        called = {path for path, module in model.named_modules() if path.endswith(".qkv")}
        for path in list(called):
            model.get_submodule(path).register_forward_hook(lambda *args, path=path: called.discard(path))
        assert torch.equal(encoder.embed(x), expected) and not called


@pytest.mark.parametrize("name", ["levit_128s", "tiny_vit_5m_224", "efficientvit_m0"])
def test_position_biases_are_read_anew_in_each_run(name):
    """timm keeps what it gathered of them in evaluation mode: they would train nothing and outlive the graft."""
    encoder = TimmSource.build(name, "random")
    with torch.no_grad():
        for value in encoder.parameters():
            value.add_(0.02 * torch.randn_like(value))  # gains that start at zero hide what lies behind them
    x = torch.randn(1, 3, *encoder.spec.input_size)
    before = encoder(x).pooled.detach()
    grafted = graft(encoder, "full_finetune")
    biases = [value for key, value in grafted.adapters.named_parameters() if key.endswith("attention_biases")]
    for _ in range(2):  # a graph that was kept would be gone in the second step
        grafted.zero_grad()
        grafted(x).tokens.square().sum().backward()
        assert biases and all(value.grad is not None and value.grad.abs().sum() > 0 for value in biases)
    with torch.no_grad():
        for value in biases:
            value.add_(torch.randn_like(value))
        assert not torch.allclose(grafted(x).pooled, before)
        assert torch.equal(grafted.ungraft()(x).pooled, before)


def test_the_transform_of_a_copy_reads_the_copy():
    encoder = encoder_of("vit_small_patch16_dinov3")
    twin = copy.deepcopy(encoder)
    assert twin.attention[-1].transform.encoder is twin
    assert encoder.attention[-1].transform.encoder is encoder


def test_prepare_is_the_librarys_transform(radiograph):
    encoder = encoder_of("vit_tiny_patch16_224")
    data = resolve_data_config({"input_size": (3, 64, 64)}, model=encoder.model)
    transform: Any = create_transform(**data, is_training=False)
    expected = transform(Image.fromarray(radiograph).convert("RGB"))
    prepared = encoder.prepare(radiograph)
    assert torch.equal(prepared, expected) and prepared.shape == (3, 64, 64)
    assert encoder.spec.intensity == "(grey / 255 - 0.5) / 0.5"
    for bad in (radiograph.astype(np.float32), radiograph[None], "a path"):
        with pytest.raises(DataError, match="uint8"):
            encoder.prepare(bad)


@pytest.fixture
def checkpoint(tmp_path):
    model = with_random_biases(timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL)).eval()
    return model, tmp_path / "model.pt"


def load(path, **options) -> Any:
    return build("vit_tiny_patch16_224", str(path), **SMALL, **options)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.encoder.", "vision_encoder."])
def test_checkpoints_load_with_common_prefixes_and_without_their_classifier(checkpoint, prefix):
    model, path = checkpoint
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    if prefix == "vision_encoder.":
        state |= {"projector.weight": torch.zeros(2, 2)}
    torch.save({"state_dict": state}, path)
    encoder = load(path, sha256=file_digest(path))
    x = images(encoder)
    assert torch.equal(encoder(x).tokens, model.forward_features(x))


def test_half_precision_checkpoints_are_widened(checkpoint):
    model, path = checkpoint
    torch.save({key: value.bfloat16() for key, value in model.state_dict().items()}, path)
    encoder = load(path)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_foreign_layouts_go_through_timms_own_conversion(tmp_path):
    """DINOv2's own files call the registers otherwise and carry a mask token."""
    options = VITS["vit_small_patch14_reg4_dinov2"]
    model = with_random_biases(timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, **options))
    state = dict(model.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    cls_position = torch.zeros(1, 1, 96)  # DINOv2 adds a position to the CLS token; timm keeps the sum
    state["pos_embed"] = torch.cat([cls_position, state["pos_embed"]], dim=1)
    state["mask_token"] = torch.zeros(1, 96)
    torch.save(state, tmp_path / "dinov2.pth")
    encoder = build("vit_small_patch14_reg4_dinov2", str(tmp_path / "dinov2.pth"), **options)
    x = images(encoder)
    assert torch.equal(encoder(x).tokens, model.eval().forward_features(x))


def test_checkpoints_that_do_not_fit_are_refused(checkpoint, pickle_bomb, tmp_path):
    model, path = checkpoint
    state = dict(model.state_dict())
    del state["blocks.1.norm2.bias"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"does not fit: missing: blocks\.1\.norm2\.bias"):
        load(path)
    torch.save(model.state_dict() | {"norm.weight": torch.zeros(7)}, path)
    with pytest.raises(CheckpointError, match=r"norm\.weight is \(7,\), expected \(192,\)"):
        load(path)
    torch.save(model.state_dict() | {"extra.weight": torch.zeros(7)}, path)
    with pytest.raises(CheckpointError, match=r"unexpected: extra\.weight"):
        load(path)
    torch.save({}, path)
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more"):
        load(path)
    with pytest.raises(CheckpointError, match="sha256"):
        load(path, sha256="0" * 64)
    bomb, fuse = pickle_bomb
    with pytest.raises(CheckpointError, match="more than tensors"):
        load(bomb)
    assert not fuse.exists()
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        load(path)
    with pytest.raises(CheckpointError, match="do not exist"):
        load(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("vit_tny_patch16_224", "vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.augreg_in21", "vit_tiny_patch16_224.augreg_in21k"),
        ("nothing like it", "vit_base_patch16_224"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(name, known):
    with pytest.raises(UnknownNameError, match=known) as caught:
        build(name, "random")
    assert len(str(caught.value)) < 500


def test_options_that_do_not_fit_are_refused():
    for options in ({"depht": 2}, {"img_size": 63.5}, {"in_chans": 2}, {"global_pool": ""}):
        with pytest.raises(ConfigError, match="timm:vit_tiny_patch16_224"):
            build("vit_tiny_patch16_224", "random", **options)
    with pytest.raises(ConfigError, match="sha256"):
        build("vit_tiny_patch16_224", "random", sha256="0")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"])
def test_no_network_is_one_sentence_with_a_remedy(name):
    with pytest.raises(CheckpointError, match="@random") as caught:
        build(name)
    assert f"timm:{name}" in str(caught.value) and "\n" not in str(caught.value)
