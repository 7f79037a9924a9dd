"""Trains ``causal_lm:embedded``: ``python -m medgraft.benchmarks.pretrain.language --out encoders/weights``.

A small LLaMA (Touvron et al., 2023, arXiv 2302.13971) learns to continue generated texts: reports of chest films,
chest CT and brains, questions on them, clinical notes and plain sentences
(:mod:`medgraft.benchmarks.pretrain.corpus`). Prompts are masked, so that it learns answers alone; documents share rows
and do not see each other. Its tokenizer is a byte-level BPE that reads numbers digit by digit, trained on the same
texts, so no text is unknown to it.

Reports of the chest phantom come from another stream, seed and site than any benchmark's. The run is defined by its
seed and number of steps, each step's texts by its seed and number: a run that was stopped goes on from ``--state`` as
if it had not been. Its log and held-out perplexities are written beside the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from medgraft.benchmarks.pretrain.corpus.mixture import FIRST_SEED, SHARES, documents
from medgraft.benchmarks.pretrain.packing import losses, packed
from medgraft.benchmarks.pretrain.reading import reading
from medgraft.checkpoints.weights import file_digest
from medgraft.encoders.causal_lm import EMBEDDED_TOKENIZER as TOKENIZER
from medgraft.encoders.causal_lm import fresh_embedded as fresh_network

logger = logging.getLogger(__name__)

VOCABULARY = 2048
SPECIALS = ("<pad>", "<s>", "</s>")
PAD = 0
CONFIG: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 768,
    "initializer_range": 0.0625,  # 1 / sqrt(256); from the usual 0.02 it is slow to look back
    "tie_word_embeddings": True,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROW = 512
HELD_OUT, VOCABULARY_STREAM = 10_000_019, 10_000_079
"""Streams of the corpus that no training step has."""
WARM_UP, PEAK, DECAY = 100, 2e-3, 0.25


def train_tokenizer(seed: int, count: int) -> Any:
    """A byte-level BPE of at most :data:`VOCABULARY` tokens, numbers digit by digit.

    Args:
        seed: Of the corpus.
        count: Documents that it is trained on.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE

    words = Tokenizer(BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words.train_from_iterator(_texts(seed, count), trainer)
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", words.token_to_id("<s>"))]
    )
    return words


def tokenizer_from(text: str) -> Any:
    """The tokenizer that a state holds."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)


def _texts(seed: int, count: int) -> Iterator[str]:
    for document in islice(documents(seed, VOCABULARY_STREAM), count):
        for turn in document.turns:
            yield from turn


def save_tokenizer(words: Any, folder: Path) -> Path:
    """Writes the tokenizer as the library reads it; returns the file that defines it."""
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return folder / "tokenizer.json"


def learning_rate(step: int, steps: int) -> float:
    """Rises over the first steps, stays, and falls to 0 over the last quarter.

    Before that quarter a run does not depend on its number of steps, so that one that was stopped may end earlier than
    it was meant to, or later (Hu et al., "MiniCPM", 2024, arXiv 2404.06395).

    Args:
        step: From 0.
        steps: Of the whole run.
    """
    return PEAK * min((step + 1) / WARM_UP, (steps - step) / (DECAY * steps), 1.0)


class Trainer:
    """The optimisation.

    Args:
        words: Tokenizer.
        steps: Number of steps.
        rows: Rows of :data:`ROW` tokens per step.
        seed: Defines the texts.
    """

    def __init__(self, words: Any, steps: int, rows: int, seed: int) -> None:
        self.words, self.steps, self.rows, self.seed = words, steps, rows, seed
        self.config = CONFIG | {"vocab_size": words.get_vocab_size()}
        self.network = fresh_network(self.config).train()
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        rest = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=True)
        self.step, self.seconds, self.average = 0, 0.0, math.nan
        self.log: list[dict[str, float]] = []

    def take_step(self) -> None:
        """One step of the optimisation, on texts that its number defines."""
        start = time.process_time()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps)
        rows = packed(documents(self.seed, self.step), self.words, self.rows, ROW, PAD)
        with torch.autocast("cpu", torch.bfloat16):
            loss = losses(self.network, rows)[0].mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.average = loss.item() if math.isnan(self.average) else 0.98 * self.average + 0.02 * loss.item()
        self.seconds += time.process_time() - start
        if self.step % 25 == 0:
            entry = {"step": self.step, "loss": round(self.average, 4), "cpu_seconds": round(self.seconds)}
            self.log.append(entry)
            logger.info("%s", entry)

    def state(self) -> dict[str, Any]:
        """Everything that the run needs to go on."""
        state = {name: getattr(self, name) for name in ("step", "seconds", "average", "log")}
        state |= {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state | {"words": self.words.to_str()}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Takes up a run where :meth:`state` was asked for."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("step", "seconds", "average", "log"):
            setattr(self, name, state[name])

    def run(self, path: Path | None, every: float = 120.0) -> None:
        """Trains to the end.

        Args:
            path: Where the state is kept; ``None`` for nowhere.
            every: Seconds between two writings of it.
        """
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        written = time.monotonic()
        while self.step < self.steps:
            self.take_step()
            if path is not None and (time.monotonic() - written > every or self.step == self.steps):
                partial = path.with_suffix(".partial")
                torch.save(self.state(), partial)
                partial.replace(path)
                written = time.monotonic()


@torch.no_grad()
def perplexities(network: Any, words: Any, seed: int, count: int = 200) -> dict[str, float]:
    """Perplexity of the answers' tokens on texts that were never trained on, by part of the corpus.

    Args:
        network: The library's model.
        words: Tokenizer.
        seed: Of the corpus.
        count: Documents of each part.
    """
    network.eval()
    result: dict[str, float] = {}
    for place, part in enumerate(SHARES):
        total, tokens = 0.0, 0
        texts = list(islice(documents(seed, HELD_OUT + place, part), count))
        for start in range(0, count, 25):
            chunk = texts[start : start + 25]
            rows = packed(iter(chunk), words, len(chunk), ROW, PAD)
            each = losses(network, rows)[0]
            total, tokens = total + float(each.double().sum()), tokens + len(each)
        result[part] = round(math.exp(total / tokens), 4)
    return result


def write(out: Path, trainer: Trainer, run: dict[str, Any], held_out: int = 200) -> None:
    """Writes weights, tokenizer and card.

    Args:
        out: Folder.
        trainer: At its last step.
        run: The options of the run.
        held_out: Documents of each part for its perplexity, and questions for what is read from a prompt.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer, path = save_tokenizer(trainer.words, out / TOKENIZER), out / "language.safetensors"
    state = {k: v for k, v in trainer.network.state_dict().items() if k != "lm_head.weight"}
    save_file({name: tensor.bfloat16().contiguous() for name, tensor in state.items()}, path)
    stored = fresh_network(trainer.config)
    stored.load_state_dict({name: tensor.bfloat16().float() for name, tensor in trainer.network.state_dict().items()})
    card = {
        "encoder": "causal_lm:embedded",
        "config": trainer.config,
        "parameters": sum(p.numel() for p in stored.parameters()),
        "sha256": file_digest(path),
        "tokenizer_sha256": file_digest(tokenizer),
        "cohorts": ["phantom chest (pretrain)", "generated texts"],
        "date": datetime.now(UTC).date().isoformat(),
        "run": run,
        "corpus": {"shares": dict(SHARES), "phantom_seed": FIRST_SEED + trainer.seed, "setting": "pretrain"},
        "environment": {"torch": torch.__version__, "machine": platform.machine()},
        "cpu_seconds": round(trainer.seconds),
        "held_out_perplexity": perplexities(stored, trainer.words, trainer.seed + 1, held_out),
        "held_out_reading": reading(stored, trainer.words, trainer.seed + 1, held_out),
        "log": trainer.log,
    }
    (out / "language.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    logger.info("held out: %s", json.dumps({**card["held_out_perplexity"], **card["held_out_reading"]}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for language.safetensors, .json and tokenizer")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=4, help=f"rows of {ROW} tokens per step")
    parser.add_argument("--documents", type=int, default=6_000, help="that the tokenizer is trained on")
    parser.add_argument("--held-out", type=int, default=200, help="documents of each part that are only tested on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--state", type=Path, help="file that the run goes on from if it was stopped")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    state = torch.load(options.state, weights_only=True) if options.state and options.state.is_file() else None
    words = train_tokenizer(options.seed, options.documents) if state is None else tokenizer_from(state["words"])
    trainer = Trainer(words, options.steps, options.rows, options.seed)
    if state is not None:
        trainer.go_on_from(state)
        logger.info("goes on from step %d of %s", trainer.step, options.state)
    trainer.run(options.state)
    run = {name: getattr(options, name) for name in ("steps", "rows", "documents", "seed", "threads")}
    write(options.out, trainer, run, options.held_out)


if __name__ == "__main__":
    main()
