"""One small model per kind of every source, named ``source-kind``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgraft import plugins
from medgraft.encoder import Encoder
from medgraft.registry import build_encoder

HF_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {key: value for key, value in HF_VISION.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
HF_TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 12,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 1,
}
CLIP_VISION = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
CLIP_TEXT = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2}
MONAI_VIT = {"img_size": (32, 32, 16), "hidden_size": 32, "mlp_dim": 48, "num_layers": 2, "num_heads": 2}
M3D_VIT = {"dim": 48, "depth": 2, "heads": 2, "mlp_dim": 96}
DEPTH_64 = {"depth": 2, "img_size": 64}
EEG_SIX = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
TINY_EEG: dict[str, dict[str, Any]] = {
    "labram": {"num_layers": 2, "seconds": 2, "channels": EEG_SIX},
    "cbramod": {"n_layer": 2, "dim_feedforward": 64, "seconds": 2, "channels": EEG_SIX},
    "eegpt": {"depth": 2, "embed_dim": 32, "num_heads": 2, "seconds": 1, "channels": EEG_SIX},
    "biot": {"num_layers": 2, "embed_dim": 32, "num_heads": 2, "seconds": 2},
    "bendr": {
        "seconds": 3,
        "encoder_h": 32,
        "contextualizer_hidden": 64,
        "transformer_layers": 2,
        "transformer_heads": 2,
    },
    "luna": {"depth": 2, "embed_dim": 16, "seconds": 5, "channels": EEG_SIX},
    "reve": {"depth": 2, "embed_dim": 32, "heads": 2, "head_dim": 8, "seconds": 2, "channels": EEG_SIX},
    "eegnet": {"seconds": 2, "channels": EEG_SIX},
}


def timm(model: str, **options: Any) -> Callable[[], Encoder]:
    from medgraft.encoders.timm import TimmSource

    return lambda: TimmSource.build(model, "random", **options)


def transformers(family: str, config: dict[str, Any]) -> Callable[[], Encoder]:
    from medgraft.encoders.transformers import TransformersSource

    return lambda: TransformersSource.build(family, "random", config=config)


def open_clip(config: Callable[[], dict[str, Any]]) -> Callable[[], Encoder]:
    from medgraft.encoders.open_clip import OpenClipSource

    return lambda: OpenClipSource.build("tiny", "random", config=config())


def monai(model: str, **options: Any) -> Callable[[], Encoder]:
    from medgraft.encoders.monai import MonaiSource

    return lambda: MonaiSource.build(model, "random", **options)


def eeg(model: str, **options: Any) -> Callable[[], Encoder]:
    from medgraft.encoders.braindecode import BraindecodeSource

    return lambda: BraindecodeSource.build(model, "random", **options)


def volumes(source: str, model: str, **options: Any) -> Callable[[], Encoder]:
    def build() -> Encoder:
        return plugins.load(plugins.find("encoder", source)).build(model, "random", **options)

    return build


def bert_pair() -> dict[str, Any]:
    from transformers import BertConfig

    folder = Path(tempfile.mkdtemp(prefix="medgraft-test-bert-"))
    bert = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=60)
    (folder / "config.json").write_text(bert.to_json_string(use_diff=False))
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    text = {
        "hf_model_name": str(folder),
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 12,
    }
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}


def siglip_pair() -> dict[str, Any]:
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    text = CLIP_TEXT | {"width": 96, "heads": 2, "no_causal_mask": True, "pool_type": "last", "pad_id": 1}
    return {"embed_dim": 96, "vision_cfg": vision, "text_cfg": text}


def inflated(name: str, **options: Any) -> Callable[[], Encoder]:
    from medgraft.encoders.inflate3d import inflate

    return lambda: inflate(MODELS[name](), slices=3, **options)


MODELS: dict[str, Callable[[], Encoder]] = {
    "embedded-chest": lambda: build_encoder("embedded:chest"),
    "embedded-brain": lambda: build_encoder("embedded:brain@random"),
    "pixels-2d": lambda: build_encoder("pixels:2d"),
    "pixels-3d": lambda: build_encoder("pixels:3d"),
    "timm-vit": timm("vit_tiny_patch16_224", **DEPTH_64),
    "timm-no-cls": timm("vit_base_patch16_siglip_224", embed_dim=48, num_heads=3, **DEPTH_64),
    "timm-dinov3": timm("vit_small_patch16_dinov3", embed_dim=96, num_heads=3, **DEPTH_64),
    "timm-pe-rope": timm("vit_pe_core_tiny_patch16_384", **DEPTH_64),
    "timm-rope-mixed": timm("vit_small_patch16_rope_mixed_224", embed_dim=96, num_heads=3, **DEPTH_64),
    "timm-eva-split": timm("eva02_tiny_patch14_224", depth=2, img_size=56),
    "timm-eva-packed": timm("eva_giant_patch14_224", depth=2, img_size=56, embed_dim=64, num_heads=2),
    "timm-qk-norm": timm("vit_tiny_patch16_224", qk_norm=True, **DEPTH_64),
    "timm-deit-distilled": timm("deit_tiny_distilled_patch16_224", **DEPTH_64),
    "timm-cnn": timm("test_resnet"),
    "timm-swin": timm("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 1, 1), img_size=56),
    "timm-beit": timm("beit_base_patch16_224", depth=1, embed_dim=48, num_heads=3, img_size=64),
    "transformers-vit": transformers("vit", HF_VISION),
    "transformers-dinov2": transformers("dinov2", DINO),
    "transformers-dinov2-registers": transformers("dinov2_with_registers", DINO),
    "transformers-clip": transformers(
        "clip", {"vision_config": HF_VISION, "text_config": HF_TEXT, "projection_dim": 16}
    ),
    "transformers-siglip": transformers(
        "siglip", {"vision_config": HF_VISION, "text_config": HF_TEXT | {"projection_size": 32}}
    ),
    "open_clip-own": open_clip(lambda: {"embed_dim": 16, "vision_cfg": CLIP_VISION, "text_cfg": CLIP_TEXT}),
    "open_clip-bert": open_clip(bert_pair),
    "open_clip-siglip": open_clip(siglip_pair),
    "inflate3d-timm": inflated("timm-dinov3", depth_2d=1),
    "inflate3d-transformers": inflated("transformers-clip", depth_2d=0, window=3),
    "inflate3d-open_clip": inflated("open_clip-own", depth_2d=0, rotary=False),
    "m3d-clip": volumes("m3d", "clip", img_size=(8, 32, 32), **M3D_VIT),
    "m3d-pooled": volumes("m3d", "clip_pooled", img_size=(8, 32, 32), **M3D_VIT),
    "brainiac-vit": volumes("brainiac", "v2", **MONAI_VIT),
    "medicalnet-resnet": volumes("medicalnet", "resnet10", img_size=(32, 32, 32), widen_factor=0.125),
    "neuro_simclr-resnet": volumes("neuro_simclr", "t1", img_size=(32, 32, 32), widen_factor=0.125),
    "swin_unetr-ssl": volumes("swin_unetr", "ssl", img_size=(32, 32, 32), feature_size=12, depths=(1, 1, 1, 1)),
    "swift-tiny": volumes("swift", "tiny", windows=3),
    "omics-genes": volumes("omics", "gene_tokens", genes=34),
    "connectome-tiny": volumes("connectome", "tiny", regions=14),
    "connectome-degree": volumes("connectome", "tiny", regions=12, features="degree", scaling="log"),
    "diver-tiny": volumes("diver", "tiny", channels=EEG_SIX),
    "diver-drop": volumes("diver", "tiny", channels=("Fz", "O1", "Pz"), missing="drop", patch=50, seconds=0.2),
    **{f"braindecode-{name}": eeg(name, **options) for name, options in TINY_EEG.items()},
    "pet-embedded": lambda: build_encoder("pet:embedded:brain@random"),
    "dmri-embedded": lambda: build_encoder("dmri:embedded:brain@random"),
    "dmri-pixels": lambda: build_encoder("dmri:maps=2:pixels:3d"),
    "fmri-embedded": lambda: build_encoder("fmri:embedded:brain@random"),
    "fmri-pixels": lambda: build_encoder("fmri:maps=mean+deviation:pixels:3d"),
    "pair-embedded": lambda: build_encoder("pair:embedded:brain@random|embedded:chest@random"),
    "monai-vit": monai("vit", **MONAI_VIT),
    "monai-vit-cls": monai("vit", classification=True, qkv_bias=True, **MONAI_VIT),
    "monai-resnet": monai("resnet18", img_size=(32, 32, 32), widen_factor=0.125),
    "monai-densenet": monai("densenet121", img_size=(32, 32, 32), block_config=(1, 2, 1), growth_rate=8),
    "monai-swin": monai("swin_unetr", img_size=(32, 32, 32), feature_size=12, depths=(1, 1, 1, 1)),
}
TINY_VOCABULARY = {"open_clip-own", "open_clip-bert", "open_clip-siglip", "inflate3d-open_clip"}
