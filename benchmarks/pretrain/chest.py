"""Trains ``embedded:chest``: ``python -m medgraft.benchmarks.pretrain.chest --out encoders/weights``.

A 2D ViT and a word-level text tower learn which report sentences belong to which generated radiograph, with a
sigmoid loss over distinct sentences (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023). Beside
it, a linear readout of the CLS token and one of the mean patch token predict the same sentences; without them the two
towers, both from scratch, stay at the sentences' base rates for the first 500 steps. The readouts are thrown away.
Nothing that only the generator knows, such as the drawn severities, is learnt: no real cohort has it.
The radiographs come from the generator's setting ``pretrain``, which differs from the benchmark's, and from its own
stream of patients. The run is defined by its seed and number of steps; its log and held-out result are written beside
the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from medgraft.benchmarks.cohorts.chest.chexpert import CHEXPERT_14
from medgraft.benchmarks.phantoms.chest.cohort import GENERATOR_VERSION, ChestArrays, generate
from medgraft.benchmarks.pretrain.probe import cosine, downsample, encode_all, pca, probe_auc, rounded
from medgraft.checkpoints.weights import file_digest
from medgraft.encoder import DualEncoder
from medgraft.encoders.embedded import SPECIALS, WORD, ConvStemViT, TextTower, assemble

logger = logging.getLogger(__name__)

PROBED = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion", "Pneumothorax")
TEMPLATES = (
    "{}",
    "there is {}",
    "chest x-ray with {}",
    "an image of {}",
    "radiograph showing {}",
    "findings suggest {}",
)
SENTENCE_LENGTH = 20


@dataclass
class Corpus:
    """Radiographs and the sentences that are true of each.

    Attributes:
        images: ``uint8 [n, 128, 128]``.
        sentences: Distinct lower-case sentences without a full stop.
        present: ``float32 [n, len(sentences)]``, 1 where the report says the sentence.
    """

    images: Tensor
    sentences: list[str]
    present: Tensor


def build_corpus(arrays: ChestArrays) -> Corpus:
    """Collects the reports' sentences, and a bare sentence per finding that was affirmed or denied."""
    spoken = [{s.strip().rstrip(".").lower() for s in report.split(". ")} - {""} for report in arrays.reports]
    labels = arrays.labels[list(CHEXPERT_14)].to_numpy()
    for row, said in zip(labels, spoken, strict=True):
        for name, value in zip(CHEXPERT_14, row, strict=True):
            if value == 1:
                said.add(name.lower())
            elif value == 0:
                said.add(f"no {name.lower()}")
    sentences = sorted(set().union(*spoken))
    column = {sentence: i for i, sentence in enumerate(sentences)}
    present = torch.zeros(len(spoken), len(sentences))
    for row, said in enumerate(spoken):
        present[row, [column[sentence] for sentence in said]] = 1.0
    return Corpus(torch.from_numpy(arrays.images), sentences, present)


def build_vocabulary(sentences: list[str]) -> list[str]:
    """Special tokens, then every word of the sentences and templates, sorted."""
    words = {word for text in [*sentences, *TEMPLATES] for word in WORD.findall(text.lower())}
    return [*SPECIALS, *sorted(words - set("{}"))]


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Small random rotation, zoom, shift and intensity change of a prepared batch ``[B, 1, H, W]``."""
    B = len(x)
    angle, zoom = ((torch.rand(B, generator=generator) - 0.5) * 0.16 for _ in range(2))
    shift = (torch.rand(B, 2, generator=generator) - 0.5) * 0.12
    zoom = zoom + 1
    matrix = torch.stack(
        [
            torch.stack([zoom * angle.cos(), -zoom * angle.sin(), shift[:, 0]], 1),
            torch.stack([zoom * angle.sin(), zoom * angle.cos(), shift[:, 1]], 1),
        ],
        dim=1,
    )
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    gain, offset = ((torch.rand(B, 1, 1, 1, generator=generator) - 0.5) * 0.4 for _ in range(2))
    return x * (1 + gain) + offset


def sentence_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy ``[n, sentences]``, summed over the sentences and averaged over the radiographs."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(target)


class Trainer:
    """The optimisation of the two towers.

    Args:
        corpus: What to learn from.
        steps: Number of optimisation steps.
        batch_size: Radiographs per step.
        seed: Defines weights, order and augmentation.
        sentences_per_step: Sentences drawn for a step, present in its radiographs or not.
    """

    def __init__(self, corpus: Corpus, steps: int, batch_size: int, seed: int, sentences_per_step: int = 96) -> None:
        torch.manual_seed(seed)
        self.sentences_per_step = sentences_per_step
        self.corpus, self.steps, self.batch_size = corpus, steps, batch_size
        self.model = assemble("chest", build_vocabulary(corpus.sentences))
        self.towers[0].stem.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-5.0))
        width = self.towers[0].spec.dim
        self.readouts = nn.ModuleList(nn.Linear(width, len(corpus.sentences)) for _ in range(2))
        self.parameters = [*self.model.parameters(), *self.readouts.parameters(), self.log_scale, self.bias]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.05, fused=True)
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.log: list[dict[str, float]] = []

    @property
    def towers(self) -> tuple[ConvStemViT, TextTower]:
        """Image and text tower."""
        image, text = self.model.tower["image"], self.model.tower["text"]
        assert isinstance(image, ConvStemViT) and isinstance(text, TextTower)
        return image, text

    def tokens(self, chosen: Tensor) -> Tensor:
        """Token ids ``[B, L]`` of chosen sentences, each in a template drawn anew; half stand bare, as in a report."""
        picks = torch.randint(0, 2 * len(TEMPLATES), (len(chosen),), generator=self.generator).tolist()
        sentences = [self.corpus.sentences[i] for i in chosen.tolist()]
        texts = [TEMPLATES[max(p - len(TEMPLATES), 0)].format(s) for p, s in zip(picks, sentences, strict=True)]
        return self.towers[1].tokenize(texts)[:, :SENTENCE_LENGTH]

    def loss(self, index: Tensor) -> Tensor:
        """Loss of the pairs and of both readouts on the radiographs ``index``, ``[B]``; a scalar."""
        image, text = self.towers
        x = augment((self.corpus.images[index][:, None].float() / 255 - 0.5) / 0.25, self.generator)
        chosen = torch.randperm(len(self.corpus.sentences), generator=self.generator)[: self.sentences_per_step]
        with torch.autocast("cpu", torch.bfloat16):
            visual = image.encode(x.contiguous(memory_format=torch.channels_last))
            verbal = text.encode(self.tokens(chosen))
        u = F.normalize(image.project(visual.pooled.float()), dim=-1)
        v = F.normalize(text.project(verbal.pooled.float()), dim=-1)
        logits = self.log_scale.exp() * u @ v.T + self.bias
        target = self.corpus.present[index]
        tokens = visual.tokens.float()
        loss = sentence_loss(logits, target[:, chosen])
        for readout, part in zip(self.readouts, (tokens[:, 0], tokens[:, 1:].mean(1)), strict=True):
            loss = loss + sentence_loss(readout(part), target)
        return loss

    def run(self) -> DualEncoder:
        """Trains to the end and returns the frozen encoder."""
        for module in self.model.modules():
            module.training = True
        average, start = None, time.process_time()
        for step in range(self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = cosine(step, self.steps, 150, 1e-3)
            index = torch.randint(0, len(self.corpus.images), (self.batch_size,), generator=self.generator)
            loss = self.loss(index)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
            if (step + 1) % 100 == 0:
                entry = {"step": step + 1, "loss": round(average, 4), "cpu_seconds": round(time.process_time() - start)}
                self.log.append(entry)
                logger.info("%s", entry)
        self.model.freeze()
        return self.model


def evaluate(model: DualEncoder, setting: str, counts: tuple[int, int], jobs: int) -> dict[str, Any]:
    """Probes the frozen image tower on held-out patients of one setting, beside pixels and random weights.

    Args:
        model: The encoder.
        setting: Of the generator.
        counts: Radiographs that the probes are trained on, and tested on.
        jobs: Processes that draw them.
    """
    train = generate(counts[0], 101, setting, jobs=jobs, stream="train")
    test = generate(counts[1], 101, setting, jobs=jobs, stream="test")
    labels = train.labels[list(PROBED)].to_numpy()
    mask, targets = labels != -1, np.nan_to_num(labels) == 1
    truth = test.truth[list(PROBED)].to_numpy()
    inputs = [(torch.from_numpy(a.images)[:, None].float() / 255 - 0.5) / 0.25 for a in (train, test)]
    torch.manual_seed(0)
    fresh = assemble("chest", list(SPECIALS))
    fresh.freeze()
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "pixels": pca(downsample(inputs[0], 4), downsample(inputs[1], 4), 300),
    }
    for name, encoder in (("random", fresh), ("pretrained", model)):
        tower = encoder.towers()["image"]
        rows[name] = (encode_all(tower, inputs[0]), encode_all(tower, inputs[1]))
    result: dict[str, Any] = {"labels": list(PROBED), "train_images": len(labels), "test_images": len(truth)}
    for name, (a, b) in rows.items():
        scores = probe_auc(a, targets, mask, b, truth)
        result[name] = {"mean_auc": round(float(np.mean(scores)), 4), "auc": rounded(scores)}
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for chest.safetensors and chest.json")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--held-out", type=int, nargs=2, default=(4_000, 1_500), help="films to probe with, and on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes that draw the radiographs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    arrays = generate(options.images, 900 + options.seed, "pretrain", jobs=options.jobs, max_studies=1)
    trainer = Trainer(build_corpus(arrays), options.steps, options.batch_size, options.seed)
    logger.info("%d radiographs, %d sentences", len(arrays.images), len(trainer.corpus.sentences))
    model = trainer.run()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "chest.safetensors"
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    card = {
        "encoder": "embedded:chest",
        "vocabulary": build_vocabulary(trainer.corpus.sentences),
        "logit_scale": round(trainer.log_scale.exp().item(), 6),
        "sha256": file_digest(path),
        "generator": GENERATOR_VERSION,
        "setting": "pretrain",
        "run": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "out"},
        "environment": {"torch": torch.__version__, "machine": platform.machine()},
        "log": trainer.log,
    }
    # Written before the held-out check too, which takes minutes: a stopped run keeps what it trained.
    (options.out / "chest.json").write_text(json.dumps(card, indent=1) + "\n")
    card["held_out"] = {
        setting: evaluate(model, setting, options.held_out, options.jobs) for setting in ("default", "pretrain")
    }
    (options.out / "chest.json").write_text(json.dumps(card, indent=1) + "\n")
    logger.info("held out: %s", json.dumps(card["held_out"]))


if __name__ == "__main__":
    main()
