"""The losses of TRL's ``DPOTrainer`` on log-probabilities that the harness computes.

The trainer itself gives token ids to a model of transformers, and here soft tokens and cross-attention bring an image
in, phases and interrupted runs are the harness's. So its ``compute_loss`` is asked alone: the policy that it knows
returns what the grafted model has computed, and the reference is what was noted before the phase. von Werra et al.,
TRL (https://github.com/huggingface/trl); the losses are cited in its ``DPOConfig``.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from medgraft.language_model import LanguageModel, Prompts

WORDS = {"<pad>": 0, "<end>": 1, "word": 2}
"""Of a row that the trainer asks for before it can be asked for a loss."""


class Policy(PreTrainedModel):
    """Stands for the grafted model: returns the log-probabilities that it was given last."""

    config_class = PretrainedConfig

    def __init__(self) -> None:
        super().__init__(PretrainedConfig())
        self.generation_config = GenerationConfig()
        self.outputs: SimpleNamespace | None = None

    def answer(self, *_: Any, **__: Any) -> SimpleNamespace | None:
        """What the trainer takes for the model's output."""
        return self.outputs


def described(logits: Tensor, ids: Tensor, real: Tensor) -> dict[str, Tensor]:
    """What the trainer reads of each token.

    Args:
        logits: Of the tokens, ``[B, A, V]``.
        ids: The tokens, ``[B, A]``.
        real: Which of them are real, ``bool [B, A]``.

    Returns:
        Log-probability (0 where not real), entropy, mean logit and whether it is the likeliest, ``[B, A]`` each.
    """
    logits = logits.float()
    each = logits.log_softmax(-1)
    with torch.no_grad():
        told = {
            "entropy": -(each.exp() * each).sum(-1),
            "mean_logits": logits.mean(-1),
            "is_top1": logits.argmax(-1) == ids,
        }
    return {"log_probs": each.gather(-1, ids[..., None]).squeeze(-1) * real, **told}


@contextmanager
def chance_as_it_was() -> Iterator[None]:
    """Sets generators back behind a trainer that seeds all of them."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


class TrlLoss:
    """A loss of TRL's trainer.

    Args:
        name: As ``DPOConfig.loss_type`` has it, such as ``sigmoid`` or ``ipo``.
        beta: How strongly the model is held to the one before.
    """

    def __init__(self, name: str, beta: float) -> None:
        row = {"prompt": "word", "chosen": " word", "rejected": " word"}
        words = Tokenizer(models.WordLevel(WORDS, unk_token="word"))
        words = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="word")
        self.policy = Policy()
        with tempfile.TemporaryDirectory(prefix="medgraft-trl-") as folder, chance_as_it_was():
            config = DPOConfig(
                output_dir=folder, loss_type=[name], beta=beta, report_to=[], disable_tqdm=True, bf16=False,
                use_cpu=True, max_steps=1,
            )  # fmt: skip
            rows = Dataset.from_list([row]).to_iterable_dataset()
            self.trainer = DPOTrainer(self.policy, Policy(), config, train_dataset=rows, processing_class=words)
        self.policy.forward = self.policy.answer  # in the place of the trainer's own way to log-probabilities
        self.trainer.precompute_ref_logps, self.trainer.ref_model = True, None  # they come with each batch

    def of(
        self,
        model: LanguageModel,
        prompts: Prompts,
        texts: tuple[Sequence[str], Sequence[str]],
        before: Tensor,
        rows: Tensor,
    ) -> Tensor:
        """The mean over pairs, as a trainer of theirs would have it of this batch.

        Args:
            model: In training.
            prompts: ``B`` of them.
            texts: ``B`` better and ``B`` worse ones.
            before: Log-probabilities of both by the model before, summed over the tokens, ``[B, 2]``.
            rows: Those that have a pair, ``bool [B]``; the others do not count.
        """
        answers = [model.answers(each) for each in texts]
        seen = [described(model.logits(prompts, each)[:, prompts.length - 1 : -1], *each) for each in answers]
        length = max(ids.shape[1] for ids, _ in answers)

        def both(tensors: Iterable[Tensor]) -> Tensor:
            return torch.cat([F.pad(each[rows], (0, length - each.shape[1])) for each in tensors])

        self.policy.outputs = SimpleNamespace(**{name: both(each[name] for each in seen) for name in seen[0]})
        ids, real = both(ids for ids, _ in answers), both(real for _, real in answers).long()
        first = torch.zeros_like(ids[:, :1])  # a prompt of one token
        inputs = {
            "input_ids": torch.cat([first, ids], dim=1),
            "attention_mask": torch.cat([first + 1, real], dim=1),
            "completion_mask": torch.cat([first, real], dim=1),
            "ref_chosen_logps": before[rows, 0],
            "ref_rejected_logps": before[rows, 1],
        }
        return self.trainer.compute_loss(self.policy.train(), inputs)
