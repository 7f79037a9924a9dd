"""The loss of preference tuning is that of TRL's trainer, asked about texts alone: it takes nothing else."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from medgraft.benchmarks.texts.preferences import dpo_loss

WORDS = ["<pad>", "<end>", "<unk>", "what", "is", "seen", "small", "left", "effusion", "clear", "none"]
PAIRS = [("what is seen", " small left effusion", " clear"), ("what is", " clear", " none none")]
BETA, WEIGHT = 0.3, 0.7


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def language(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1,
        pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.5,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def sums_and_means(model: GPT2LMHeadModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion, summed and averaged over its tokens."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    mask = batch["completion_mask"][:, 1:]
    return (chosen * mask).sum(1), (chosen * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("weight", [0.0, WEIGHT], ids=["comparison alone", "with the better text's own loss"])
def test_the_loss_and_its_gradient_are_those_of_trl(weight, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, before = language(0), language(1)
    types = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, weight]} if weight else {"loss_type": ["sigmoid"]}
    config = DPOConfig(
        output_dir=str(tmp_path), beta=BETA, per_device_train_batch_size=1, report_to=[], use_cpu=True, bf16=False,
        disable_tqdm=True, **types,
    )  # fmt: skip
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS]
    trainer = DPOTrainer(policy, before, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    for batch in trainer.get_train_dataloader():
        policy.zero_grad()
        theirs = trainer.compute_loss(trainer.model, batch)
        theirs.backward()
        gradient = [p.grad.clone() for p in policy.parameters()]
        policy.zero_grad()
        sums, means = sums_and_means(policy, batch)
        with torch.no_grad():
            held, _ = sums_and_means(before, batch)
        ours = dpo_loss(sums[:1], sums[1:], (held[:1], held[1:]), BETA).mean() - weight * means[0]
        ours.backward()
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)  # both in float32
        for mine, other in zip(policy.parameters(), gradient, strict=True):
            torch.testing.assert_close(mine.grad, other, rtol=1e-4, atol=1e-5)
