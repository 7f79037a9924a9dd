"""What padding costs: the frozen pass over sentences and a LoRA cell, cut to the longest text of a batch and not.

``python -m benchmarks.speed.short_texts`` writes a Markdown table. Both ways run the same code in turns, one of them
with a tower that asks for its whole context, as every tower did before; beside the times stands how far their numbers
are apart. Without ``--encoder`` a BERT of MiniLM's size with random weights is made; ``--encoder FOLDER`` takes a text
model of transformers. The sentences are made up, of about 27 tokens.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.prefix_cache.inputs import tower_inputs
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.encoder import TextEncoder
from medgraft.errors import ConfigError
from medgraft.fast.linear import fp32_choice
from medgraft.fast.short_texts import text_lengths
from medgraft.modality import TEXT
from medgraft.registry import adapter_facts, resolve_adapter
from medgraft.task import RawInputs, Task, TaskData

TOLERANCE = 0.02
"""Largest difference of a class's probability, or of a pooled number, which is kept in half precision."""
GOALS = {"frozen pass": 15.0, "lora cell": 10.0}
FINDINGS = ("small effusion", "no pneumothorax", "mild edema", "clear lungs")
COMMON = (
    "the patient was seen with a history of pain in the chest and there is no change in the left lower lobe since the "
    "last study which showed a small area of new disease near the right heart border without sign of fluid"
)
WORDS = COMMON.split()
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


class Sentences(Task):
    """Which finding a made-up sentence names."""

    inputs = (TEXT,)
    objective = "multiclass"
    cohort = "adni"
    count = 373

    def load(self, root: Path) -> TaskData:
        """The sentences; nothing of ``root`` is read."""
        random = np.random.default_rng(0)
        targets = np.arange(self.count) % len(FINDINGS)
        texts = [sentence(random, FINDINGS[target]) for target in targets]
        places = random.permutation(self.count)
        train, val = int(0.7 * self.count), int(0.85 * self.count)
        return TaskData(
            inputs={TEXT: RawInputs(texts.__getitem__, self.count, f"sentences {self.count}")},
            targets=targets,
            subjects=np.array([str(i) for i in range(self.count)]),
            splits={
                n: np.sort(p) for n, p in zip(("train", "val", "test"), np.split(places, [train, val]), strict=True)
            },
            classes=tuple(name.replace(" ", "_") for name in FINDINGS),
            phantom=True,
        )


def sentence(random: np.random.Generator, finding: str) -> str:
    """A sentence of about 22 words, of 6 to 50, that names a finding somewhere."""
    words = list(random.choice(WORDS, int(np.clip(random.normal(22, 6), 6, 50))))
    words.insert(int(random.integers(len(words))), finding)
    return f"{' '.join(words)}."


@contextmanager
def encoder_folder(given: Path | None) -> Iterator[Path]:
    """The folder of a text model; one of MiniLM's size with random weights where none is given."""
    if given is not None:
        yield given
        return
    from transformers import BertConfig, BertModel

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *sorted({*WORDS, *" ".join(FINDINGS).split()})]
    with tempfile.TemporaryDirectory(prefix="medgraft-bert-") as folder:
        torch.manual_seed(0)
        config = BertConfig(vocab_size=30522, **MINILM)  # pyright: ignore[reportCallIssue, reportArgumentType]
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
        (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary))
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
        yield Path(folder)


Outcome = tuple[float, np.ndarray, float]
"""Seconds of the processor, numbers that both ways must agree in, tokens of a text."""


def run_job(folder: Path, job: str, cut: bool, *, options: argparse.Namespace) -> Outcome:
    """A job in an empty cache.

    Args:
        folder: Of the text model.
        job: One of :data:`GOALS`: the pass of a frozen tower over prepared texts, whose pooled features are compared,
            or a whole cell, from the encoder's weights to the scores of the test split.
        cut: Batches are as long as their longest text.
        options: The command line.
    """
    train_options = adapter_facts(resolve_adapter("lora")).train
    if options.epochs is not None:
        train_options = train_options.model_copy(update={"epochs": options.epochs})
    spec = CellSpec.model_validate(
        {
            "task": "adni_mci_conversion:text",  # any whose samples are texts; Sentences stands in its place
            "cohort": {"name": "adni", "revision": "timing", "phantom": True},
            "encoder": f"transformers:bert@{folder}",
            "adapter": "lora",
            "seed": 0,
            "precision": "fp32",
            "threads": options.threads,
            "train": train_options,
        }
    )
    Sentences.count = options.sentences
    with tempfile.TemporaryDirectory(prefix="medgraft-speed-") as cache:
        os.environ["MEDGRAFT_CACHE"] = cache
        fp32_choice()  # measures once for each cache
        start = time.process_time()
        loaded = load(spec, Path(cache), Sentences())
        tower, prepared = loaded.towers()[TEXT], loaded.prepared[TEXT]
        assert isinstance(tower, TextEncoder)
        tower.any_length = tower.any_length and cut
        tokens = float(text_lengths(tower, torch.tensor(prepared.array[:]).long()).float().mean())
        if job == "frozen pass":
            tower.freeze()
            start = time.process_time()
            rows = tower_inputs(prepared, tower, tower.n_stages, "weights", padding=0)
            return time.process_time() - start, rows.arrays["pooled"].astype(np.float32), tokens
        ready = build(loaded)
        train(ready, lambda share: None)
        scores = evaluate(ready).arrays["scores"]
        return time.process_time() - start, scores, tokens


def compare(run: Callable[[bool], Outcome], rounds: int) -> tuple[list[list[float]], float, float]:
    """Seconds of each round, padded and cut, in an order that turns; the largest difference; tokens.

    Raises:
        ConfigError: Numbers differ by more than :data:`TOLERANCE`, so that times are not of the same result.
    """
    seconds: list[list[float]] = []
    scores: dict[bool, np.ndarray] = {}
    tokens = 0.0
    for turn in range(rounds):
        spent: dict[bool, float] = {}
        for cut in (False, True) if turn % 2 == 0 else (True, False):
            spent[cut], scores[cut], tokens = run(cut)
        seconds.append([spent[False], spent[True]])
    apart = float(np.abs(scores[False] - scores[True]).max())
    if apart > TOLERANCE:
        raise ConfigError(f"cut texts give numbers up to {apart:.3g} away; a time of them would mean nothing")
    return seconds, apart, tokens


def row(job: str, seconds: Sequence[Sequence[float]], apart: float) -> str:
    """A line of the table: medians over rounds, and the ratio within a round with its range."""
    ratios = [padded / cut for padded, cut in seconds]
    padded, cut = (statistics.median(each[i] for each in seconds) for i in (0, 1))
    spread = f" ({min(ratios):.1f} to {max(ratios):.1f})" if len(ratios) > 1 else ""
    verdict = "met" if statistics.median(ratios) >= GOALS[job] else "**not met**"
    ratio = f"{statistics.median(ratios):.1f}x{spread}"
    return f"| {job} | {padded:.1f} | {cut:.1f} | {ratio} | {GOALS[job]:.0f}x: {verdict} | {apart:.0e} |"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="folder of a BERT with its tokenizer")
    parser.add_argument("--jobs", default="frozen pass,lora cell")
    parser.add_argument("--sentences", type=int, default=373)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of the lora cell; those of its recipe by default")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the table to the standard output."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    lines = ["| job | padded, processor s | cut, processor s | padded / cut | goal | largest difference |"]
    lines += ["|---|---:|---:|---:|---|---:|"]
    tokens = 0.0
    with encoder_folder(options.encoder) as folder:
        for job in options.jobs.split(","):
            seconds, apart, tokens = compare(functools.partial(run_job, folder, job, options=options), options.rounds)
            lines.append(row(job, seconds, apart))
            sys.stderr.write(lines[-1] + "\n")
    model = "random weights" if options.encoder is None else "its own weights"
    facts = f"{options.sentences} sentences of {tokens:.0f} tokens on average, {options.rounds} round(s)"
    lines += ["", f"BERT of MiniLM's size ({model}), {facts}, {options.threads} thread(s), fp32."]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
