"""Small files in the published layouts that the pages speak of: what a reader downloads, with made-up content."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from language_folders import folder_of  # pyright: ignore[reportMissingImports]
from oasis_data import row2, write  # pyright: ignore[reportMissingImports]
from torch import Tensor

from medgraft.benchmarks.cohorts.chest.chexpert import read_chexpert
from medgraft.registry import build_encoder
from medgraft.testing.phantoms import small_phantom

WIDTH = 64
"""Of the language model; its linear maps are stored in four bits, in blocks of as many numbers."""

HEADS, HEAD_DIM = 2, 64
"""Of OpenFlamingo's attention."""


def language_model(folder: Path) -> Path:
    """A LLaMA with fresh weights as transformers stores one, with room for a report."""
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 128, "max_position_embeddings": 512}
    return folder_of("llama", folder, **sizes)


def vision_transformer(folder: Path) -> Path:
    """A CLIP with fresh weights as transformers stores one."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = sizes | {"vocab_size": 60, "max_position_embeddings": 8, "bos_token_id": 58, "eos_token_id": 59}
    torch.manual_seed(0)
    vision = sizes | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).save_pretrained(folder)
    return folder


def ace_lora_checkpoint(path: Path) -> Path:
    """What ACE-LoRA's authors publish for BiomedCLIP: 24 layers of 768, a joint space of 512."""
    parts: dict[str, Any] = {
        f"layer_{i}": {
            f"{name}_proj": {"w_lora_A": torch.randn(4, 768), "w_lora_B": torch.randn(768, 4)} for name in "qkv"
        }
        for i in range(24)
    }
    for name in ("img_edge_adapter", "img_node_adapter", "text_edge_adapter", "text_node_adapter"):
        parts[name] = {
            "down.weight": torch.randn(128, 512),
            "down.bias": torch.randn(128),
            "up.weight": torch.randn(512, 128),
            "up.bias": torch.randn(512),
        }
    parts["logit_scale"] = torch.tensor(78.3)
    torch.save({"weights": parts, "metadata": {"loss_type": "clip_loss_ace_hgat", "alpha": 1, "r": 4}}, path)
    return path


def m3d_projector(path: Path) -> Path:
    """M3D-LaMed's ``mm_projector.bin``, between the shipped encoder of radiographs and :func:`language_model`."""
    visual: Any = build_encoder("embedded:chest").towers()["image"]
    front = "model.mm_projector.projector."
    state = {f"{front}0.weight": _normal(WIDTH, visual.spec.dim), f"{front}0.bias": _normal(WIDTH)}
    torch.save(state | {f"{front}2.weight": _normal(WIDTH, WIDTH), f"{front}2.bias": _normal(WIDTH)}, path)
    return path


def openflamingo_checkpoint(path: Path, visual_width: int = 32) -> Path:
    """A checkpoint of OpenFlamingo: a resampler of two layers, and a cross-attention before the second block."""
    inner, state = HEADS * HEAD_DIM, {"perceiver.latents": torch.randn(5, visual_width)}
    for i in range(2):
        front = f"perceiver.layers.{i}."
        for norm in ("0.norm_media", "0.norm_latents", "1.0"):
            state |= {f"{front}{norm}.weight": torch.ones(visual_width), f"{front}{norm}.bias": _normal(visual_width)}
        state[f"{front}0.to_q.weight"] = _normal(inner, visual_width)
        state[f"{front}0.to_kv.weight"] = _normal(2 * inner, visual_width)
        state[f"{front}0.to_out.weight"] = _normal(visual_width, inner)
        state[f"{front}1.1.weight"] = _normal(4 * visual_width, visual_width)
        state[f"{front}1.3.weight"] = _normal(visual_width, 4 * visual_width)
    state |= {"perceiver.norm.weight": torch.ones(visual_width), "perceiver.norm.bias": _normal(visual_width)}
    block = {
        **{f"{norm}.weight": torch.ones(WIDTH) for norm in ("attn.norm", "ff.0")},
        **{f"{norm}.bias": _normal(WIDTH) for norm in ("attn.norm", "ff.0")},
        "attn.to_q.weight": _normal(inner, WIDTH),
        "attn.to_kv.weight": _normal(2 * inner, visual_width),
        "attn.to_out.weight": _normal(WIDTH, inner),
        "attn_gate": torch.tensor([0.7]),
        "ff.1.weight": _normal(4 * WIDTH, WIDTH),
        "ff.3.weight": _normal(WIDTH, 4 * WIDTH),
        "ff_gate": torch.tensor([-0.4]),
    }
    state |= {f"lang_encoder.model.layers.1.gated_cross_attn_layer.{name}": each for name, each in block.items()}
    torch.save({"epoch": 3, "model_state_dict": state}, path)
    return path


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape) / math.sqrt(shape[-1])


def with_feedback(folder: Path) -> Path:
    """A small CheXpert with reports, and ``feedback.csv`` in it: of every film the report before another's."""
    shutil.copytree(small_phantom("chexpert"), folder)
    frame = read_chexpert(folder, "train").frame
    frame = frame[frame["report"].str.strip().astype(bool)]
    with (folder / "feedback.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "chosen", "rejected", "rater"])
        for image, report in zip(frame["image"], frame["report"], strict=True):
            table.writerow([Path(image).relative_to(folder).as_posix(), report, f"{report} No heart is seen.", "r1"])
    return folder


def oasis2_table(folder: Path) -> Path:
    """OASIS-2's table alone, as public repositories hold it: two visits of each person, a few of whom converted."""
    groups, random = ("Nondemented", "Demented", "Nondemented", "Demented", "Converted"), np.random.default_rng(0)
    rows = []
    for number in range(1, 61):
        group = groups[number % 5]
        for visit in (1, 2):
            ill = group == "Demented" or (group == "Converted" and visit == 2)
            facts = {"MMSE": int(random.integers(18, 25) if ill else random.integers(27, 31)), "Age": 70 + number % 20}
            rows.append(row2(f"{number:04d}", visit, 0.5 if ill else 0, group, **facts))
    write(folder / "oasis_longitudinal.csv", rows)
    return folder


def fmri_run(path: Path, volumes: int, seed: int, axes: int = 4) -> Path:
    """A brain of 14 voxels of 2 mm a side, with a pattern of its subject, which other noise covers in every volume."""
    import nibabel as nib

    random = np.random.default_rng(seed)
    values = np.zeros((14, 14, 14, volumes), np.float32)
    values[2:-2, 2:-2, 2:-2] = 100 + 20 * random.standard_normal((10, 10, 10, 1))
    values[2:-2, 2:-2, 2:-2] += 5 * random.standard_normal((10, 10, 10, volumes))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values if axes == 4 else values[..., 0], np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def sentence_model(folder: Path, words: Iterable[str]) -> Path:
    """A small BERT with fresh weights, and a tokenizer that knows these words."""
    from transformers import BertConfig, BertModel

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=32, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder
