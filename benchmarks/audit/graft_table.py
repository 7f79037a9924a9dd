"""Grafts adapters on many encoders and checks what a graft promises.

``python -m benchmarks.audit.graft_table --out build/grafts.jsonl``, or with ``--only swin`` those named so.
Each cell is an adapter on an encoder with random weights: :func:`medgraft.graft` refuses it with a reason, or the graft
runs forwards and backwards, every trained parameter gets a gradient, ``merge()`` changes no result or is refused, and
``ungraft()`` leaves every bit as it was. Cells that are in the file already are not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.errors import ConfigError, MedgraftError, MergeError
from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.modality import find_modality
from medgraft.plugins import find, load
from medgraft.registry import build_adapters

logger = logging.getLogger(__name__)

VIT: dict[str, Any] = {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3}
SWIN: dict[str, Any] = {"embed_dim": 32, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
TINY_HF: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
}  # fmt: skip
IMAGE_HF = {**TINY_HF, "image_size": 64}
DINO_HF = {name: value for name, value in IMAGE_HF.items() if name != "intermediate_size"}  # a ratio there
CLIP_IMAGE: dict[str, Any] = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
CLIP_TEXT: dict[str, Any] = {
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}, "embed_dim": 32,
}  # fmt: skip
# Encoder -> options that make it small; a full-size one where its library takes none.
ENCODERS: dict[str, dict[str, Any]] = {
    **{f"timm:{name}": VIT for name in (
        "vit_tiny_patch16_224", "vit_small_r26_s32_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
        "beit_base_patch16_224", "beitv2_base_patch16_224", "vit_base_patch16_siglip_224", "vit_base_patch16_clip_224",
        "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_rope_224",
    )},
    "timm:eva02_tiny_patch14_224": {**VIT, "img_size": 56},
    "timm:vit_pe_core_tiny_patch16_384": {**VIT, "img_size": 64},
    "timm:swin_tiny_patch4_window7_224": SWIN,
    "timm:swinv2_tiny_window8_256": SWIN,
    "timm:swinv2_cr_tiny_ns_224": SWIN,
    "timm:cait_xxs24_224": {"depth": 2, "img_size": 64},
    "timm:xcit_nano_12_p16_224": {"depth": 2, "img_size": 64},
    **{f"timm:{name}": {} for name in (
        "resnet10t", "resnetv2_50x1_bit", "nf_resnet26", "nf_regnet_b0", "convnext_atto", "regnetx_002",
        "tf_efficientnet_b0", "tf_efficientnetv2_b0", "tf_mixnet_s", "tf_efficientnet_cc_b0_4e",
        "tf_mobilenetv3_small_minimal_100", "mobilenetv4_conv_small_035", "levit_128s", "pvt_v2_b0", "volo_d1_224",
        "coat_tiny", "coat_lite_tiny", "mvitv2_tiny", "maxvit_rmlp_pico_rw_256", "coatnet_pico_rw_224",
        "poolformer_s12", "mixer_s32_224", "crossvit_tiny_240", "twins_pcpvt_small", "visformer_tiny", "gcvit_xxtiny",
        "edgenext_xx_small", "mobilevit_xxs", "efficientformer_l1", "fastvit_t8", "repvit_m0_9", "hiera_tiny_224",
        "tiny_vit_5m_224", "focalnet_tiny_srf", "densenet121", "repvgg_a0", "mobileone_s0", "efficientvit_b0",
        "efficientvit_m0", "convit_tiny", "pit_ti_224", "botnet26t_256", "halonet26t", "lambda_resnet26t", "resnest14d",
        "skresnet18", "hrnet_w18_small", "ghostnet_050", "dla34", "tnt_s_patch16_224",
    )},
    "transformers:vit": {"config": IMAGE_HF},
    **{f"transformers:{name}": {"config": DINO_HF} for name in ("dinov2", "dinov2_with_registers")},
    **{f"transformers:{name}": {"config": {"vision_config": IMAGE_HF, "text_config": TINY_HF}} for name in (
        "clip", "siglip",
    )},
    **{f"transformers:{name}": {"config": {**TINY_HF, "max_position_embeddings": 40}} for name in (
        "bert", "roberta", "llama",
    )},
    "open_clip:ViT-B-32": {"config": {"vision_cfg": CLIP_IMAGE, **CLIP_TEXT}},
    "open_clip:RN50": {"config": {"vision_cfg": CLIP_IMAGE | {"layers": [1, 1, 1, 1]}, **CLIP_TEXT}},
    "open_clip:ViT-B-16-SigLIP": {},
    "monai:vit": {"img_size": (32, 32, 32), "hidden_size": 96, "num_heads": 3, "num_layers": 2, "mlp_dim": 128},
    "monai:resnet18": {"img_size": (32, 32, 32)},
    "monai:densenet121": {"img_size": (32, 32, 32)},
    "monai:swin_unetr": {"img_size": (32, 32, 32), "feature_size": 12},
    "embedded:chest": {},
    "embedded:brain": {},
}  # fmt: skip
DORA: dict[str, Any] = {"options": {"use_dora": True}}
# Adapter, and its options; "lora *.qkv" and the like are names of rows.
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (
        "lora", "clip_lora", "conv_lora", "ssf", "bitfit", "full_finetune", "houlsby", "pfeiffer", "adaptformer", "vpt",
        "st_adapter", "linear_probe", "tip_adapter", "brain_adapter", "spatial_pooling", "perceiver_resampler",
        "ace_hgnn", "ace_lora", "clip_adapter", "coop", "peft:lora", "lora+ssf", "bitfit+lora", "peft:ia3",
    )},
    **{f"lora {pattern}": ("lora", {"targets": (pattern,)}) for pattern in ("*.qkv", "*conv*", "*fc1", "*.q", "*")},
    **{f"peft:lora {pattern}": ("peft:lora", {"targets": (pattern,)}) for pattern in ("*.qkv", "*conv*", "*fc1", "*")},
    "peft:dora *.qkv": ("peft:lora", {"targets": ("*.qkv",), **DORA}),
    "peft:hira *conv*": ("peft:hira", {"targets": ("*conv*",)}),
    "peft:loha *": ("peft:loha", {"targets": ("*",)}),
}  # fmt: skip

Status = Literal["works", "refused", "wrong"]


@dataclass(frozen=True)
class Cell:
    """What came of an adapter on an encoder.

    Attributes:
        status: ``works``, ``refused`` (by a :class:`medgraft.errors.MedgraftError`), or ``wrong``.
        text: The reason, or what was found.
        merge: ``equal``, ``refused``, or empty where the adapter does not claim to merge.
    """

    status: Status
    text: str = ""
    merge: str = ""


def build(name: str, options: Mapping[str, Any]) -> Encoder:
    """An encoder with random weights, none of them at a start that hides a dependence (zeros, equal gains)."""
    source, _, model = name.partition(":")
    encoder = load(find("encoder", source)).build(model, "default" if source == "embedded" else "random", **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return encoder


def batch(encoder: Encoder) -> dict[str, Tensor]:
    """Two samples ``[2, ...]`` for each tower."""
    generator = torch.Generator().manual_seed(1)
    return {name: find_modality(name).example_batch(tower, 2, generator) for name, tower in encoder.towers().items()}


def attempt(encoder: Encoder, adapter: str, options: Mapping[str, Any]) -> Cell:
    """One cell; the encoder is left as it was unless the cell is ``wrong``."""
    inputs = batch(encoder)
    before, bare = _copied(encoder), _outputs(encoder, inputs)
    torch.manual_seed(0)
    try:
        grafted = Grafted(encoder, build_adapters(adapter, options)) if "+" in adapter else graft(
            encoder, adapter, **options
        )  # fmt: skip
    except MedgraftError as error:
        changed = _changed(before, encoder)
        return Cell("wrong", f"refused, and {changed}") if changed else Cell("refused", str(error))
    except Exception as error:  # whatever it is, it should have been a reason
        return Cell("wrong", f"graft() raises {type(error).__name__}: {error}")
    merge = ""
    try:
        _shake(grafted)
        problem = _gradients(grafted, inputs)
        if not problem and all(each.mergeable for _, each in grafted.named_adapters()):
            merge, problem = _merges(grafted, inputs, before)
    except Exception as error:
        problem = f"a run raises {type(error).__name__}: {error}"
    grafted.ungraft()
    if not problem and (changed := _changed(before, encoder)):
        problem = f"after ungraft(), {changed}"
    if not problem and not _equal(bare, _outputs(encoder, inputs)):
        problem = "after ungraft(), the encoder returns something else"
    return Cell("wrong", problem, merge) if problem else Cell("works", "", merge)


def _shake(grafted: Grafted) -> None:
    """Away from the start, where zeros may hold gradients back."""
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)


def _gradients(grafted: Grafted, inputs: Mapping[str, Tensor]) -> str:
    """What is wrong with a training step; empty if nothing is."""
    grafted.train()
    outputs = grafted.encode(inputs)
    terms = []
    for name, features in outputs.items():
        tower = grafted.towers()[name]
        read = [features.tokens, features.pooled]
        if features.embedding is not None:
            read.append(features.embedding)
        elif features.pooled.shape[-1] == tower.spec.dim:
            read.append(tower.project(features.pooled))
        terms += [(value * torch.randn_like(value)).sum() for value in read]
    if (extra := grafted.extra_loss(outputs)) is not None:
        terms.append(extra)
    terms += [scale for _, each in grafted.named_adapters() if (scale := each.logit_scale()) is not None]
    total = torch.stack([term.reshape(()) for term in terms]).sum()
    if not total.isfinite():
        return "its features are not finite"
    named = {name: p for name, p in grafted.adapters.named_parameters() if p.requires_grad}
    if not named:
        return ""
    total.backward()
    dead = [name for name, p in named.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    return f"{len(dead)} of {len(named)} parameters get no gradient: {', '.join(dead[:3])}" if dead else ""


def _merges(grafted: Grafted, inputs: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> tuple[str, str]:
    """How merging went, and what is wrong with it; empty if nothing is."""
    expected = _outputs(grafted.eval(), inputs)
    try:
        grafted.merge()
    except MergeError:
        outcome, problem = "refused", ""
    else:
        merged = _outputs(grafted, inputs)
        apart = max(
            float((a - b).abs().max() / a.abs().max().clamp_min(1e-6)) for a, b in zip(expected, merged, strict=True)
        )
        outcome, problem = "equal", "" if apart < 1e-3 else f"merge() changes the features by {apart:.2g} of their size"
        grafted.unmerge()
    problem = problem or _changed(before, grafted.encoder)
    if not problem and not _equal(expected, _outputs(grafted, inputs)):
        problem = "after merge() the graft returns something else"
    return outcome, problem


@torch.no_grad()
def _outputs(model: Encoder | Grafted, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    results: Mapping[str, Features] = (
        model.encode(inputs)
        if isinstance(model, Grafted)
        else {name: tower(inputs[name]) for name, tower in model.towers().items()}
    )
    return [value for features in results.values() for value in (features.tokens, features.pooled)]


def _equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))


def _copied(encoder: Encoder) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in encoder.state_dict().items()}


def _changed(before: Mapping[str, Tensor], encoder: Encoder) -> str:
    after = encoder.state_dict()
    if after.keys() != before.keys():
        return "the encoder has other parameters"
    names = [name for name, value in before.items() if not torch.equal(value, after[name])]
    return f"{names[0]} of the encoder has changed" if names else ""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="a part of the encoders' names")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("medgraft").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    lines = options.out.read_text().splitlines() if options.out.is_file() else []
    done = {(row["encoder"], row["adapter"]): row["status"] for row in map(json.loads, lines)}
    with options.out.open("a") as file:
        for name, settings in ENCODERS.items():
            rows = [row for row in ADAPTERS if (name, row) not in done]
            if options.only not in name or not rows:
                continue
            try:
                encoder = build(name, settings)
                _outputs(encoder, batch(encoder))
            except ConfigError as error:
                logger.info("%s is no encoder here: %s", name, error)
                continue
            for row in rows:
                cell = attempt(encoder, *ADAPTERS[row])
                if cell.status == "wrong":
                    logger.info("%s %s: %s", name, row, cell.text)
                    encoder = build(name, settings)
                done[name, row] = cell.status
                file.write(json.dumps({"encoder": name, "adapter": row, **vars(cell)}) + "\n")
                file.flush()
    logger.info("%d cells: %s", len(done), dict(Counter(done.values())))


if __name__ == "__main__":
    main()
