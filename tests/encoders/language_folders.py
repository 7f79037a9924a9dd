"""Small language models of transformers with fresh weights and a tokenizer of words, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXT = "the lungs are clear no focal opacity is seen there small large left right effusion heart size normal"
WORDS = dict.fromkeys(TEXT.split())
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
GROUPED = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "gemma": GROUPED | {"head_dim": 8},
    "gemma3_text": GROUPED | {"head_dim": 8, "sliding_window": 16},
    "phi": SMALL | {"intermediate_size": 48},
    "phi3": GROUPED,
    "gpt_neox": SMALL | {"intermediate_size": 48},
}


def folder_of(family: str, root: Path, begins: bool = True, **changes: Any) -> Path:
    """A small language model with fresh weights and a tokenizer of words, as the library stores them.

    ``changes`` are options of the family's configuration.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(root)
    ids = {"vocab_size": len(vocabulary), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **ids, **changes})
    network = AutoModelForCausalLM.from_config(config).eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(root)
    return root
