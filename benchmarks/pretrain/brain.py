"""Trains ``embedded:brain``: ``python -m medgraft.benchmarks.pretrain.brain --out encoders/weights``.

The 3D ViT regresses anatomy (volumes, age, sex) in a generated healthy ageing population; no diagnosis exists there,
the scanners differ from the benchmark's, and ages over 80 are held out. The text tower learns to read: it regresses the
numbers in clinical notes whose scores are drawn independently of each other and of any person. The two towers share no
space. The run is defined by its seed and numbers of steps; its log and held-out result are written beside the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from medgraft.benchmarks.cohorts.tables.clinical_text import TEXT_FIELDS, compose_text
from medgraft.benchmarks.phantoms.brain.renderer import AGEING_TARGETS, GENERATOR_VERSION, generate_ageing
from medgraft.benchmarks.pretrain.probe import cosine, rounded
from medgraft.checkpoints.weights import file_digest
from medgraft.encoder import Encoder
from medgraft.encoders.embedded import SPECIALS, WORD, assemble, prepare_volume

logger = logging.getLogger(__name__)

NUMBERS = tuple(str(i) for i in range(101))
NOTE_FIELDS = TEXT_FIELDS["full"]
MISSING = 0.15


def draw_note_row(rng: np.random.Generator, missing: float = MISSING) -> dict[str, Any]:
    """Fields of a note, each drawn on its own over its whole range; ``missing`` is the share left out."""
    row: dict[str, Any] = {
        "age": float(rng.uniform(50, 95)),
        "sex": "F" if rng.random() < 0.5 else "M",
        "education": int(rng.integers(6, 21)),
        "apoe4": int(rng.integers(0, 3)),
        "MMSE": int(rng.integers(10, 31)),
        "MOCA": int(rng.integers(5, 31)),
        "ADAS13": round(float(rng.uniform(0, 60)), 1),
        "RAVLT_immediate": int(rng.integers(5, 70)),
        "FAQ": int(rng.integers(0, 31)),
        "CDRSB": float(rng.integers(0, 25)) / 2,
    }
    return {k: v for k, v in row.items() if k in ("age", "sex") or rng.random() >= missing}


def note_targets(row: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Values of :data:`NOTE_FIELDS`, scaled to about unit range, and whether each is there."""
    scale = {
        "age": 15,
        "education": 5,
        "apoe4": 1,
        "MMSE": 6,
        "MOCA": 7,
        "ADAS13": 15,
        "RAVLT_immediate": 18,
        "FAQ": 9,
        "CDRSB": 4,
    }
    centre = {
        "age": 72,
        "education": 13,
        "apoe4": 1,
        "MMSE": 22,
        "MOCA": 20,
        "ADAS13": 25,
        "RAVLT_immediate": 35,
        "FAQ": 12,
        "CDRSB": 5,
    }
    values = [
        (float(row["sex"] == "F") - 0.5) * 2
        if name == "sex"
        else (row.get(name, centre[name]) - centre[name]) / scale[name]
        for name in NOTE_FIELDS
    ]
    return values, [float(name in row) for name in NOTE_FIELDS]


def build_vocabulary(seed: int) -> list[str]:
    """Special tokens, the numbers 0 to 100, and the words of many notes."""
    rng = np.random.default_rng([seed, 1])
    notes = [compose_text(draw_note_row(rng), "full", seed=i) for i in range(2000)]
    words = {word for note in notes for word in WORD.findall(note.lower())} | {"person"}
    return [*SPECIALS, *sorted(words | set(NUMBERS))]


class Readout(nn.Module):
    """Reads the targets from CLS and, separately, from the mean patch token, so that both learn to hold them."""

    def __init__(self, dim: int, targets: int) -> None:
        super().__init__()
        self.cls = nn.Linear(dim, targets)
        self.mean = nn.Linear(dim, targets)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, N, C]`` -> two predictions ``[B, targets]``."""
        rest = tokens[:, 1:]
        weight = torch.ones_like(rest[..., :1]) if mask is None else mask[:, 1:, None].to(rest.dtype)
        return self.cls(tokens[:, 0]), self.mean((rest * weight).sum(1) / weight.sum(1))


def fit(
    tower: Encoder, readout: Readout, loss: Callable[[], Tensor], steps: int, peak: float
) -> list[dict[str, float]]:
    """Optimises a tower and its readout on inputs ``[n, ...]``; returns the log."""
    parameters = [*tower.parameters(), *readout.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05)
    tower.requires_grad_(True)
    for module in tower.modules():
        module.training = True
    log, average, start = [], None, time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, 60, peak)
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average = value.item() if average is None else 0.97 * average + 0.03 * value.item()
        if (step + 1) % 100 == 0:
            entry = {"step": step + 1, "loss": round(average, 4), "cpu_seconds": round(time.process_time() - start)}
            log.append(entry)
            logger.info("%s", entry)
    return log


def fit_volumes(tower: Encoder, volumes: Tensor, targets: Tensor, steps: int, batch_size: int, seed: int):
    """Anatomy regression on ``[n, 1, D, H, W]`` with random shifts and gains; returns the readout and the log."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    readout = Readout(tower.spec.dim, targets.shape[1])
    tower.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]

    def loss() -> Tensor:
        index = torch.randint(0, len(volumes), (batch_size,), generator=generator)
        x = volumes[index].float()
        shift = torch.randint(-2, 3, (3,), generator=generator).tolist()
        x = torch.roll(x, shift, (2, 3, 4)) * (
            1 + 0.2 * (torch.rand(batch_size, 1, 1, 1, 1, generator=generator) - 0.5)
        )
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tower(x.contiguous(memory_format=torch.channels_last_3d)).tokens
        cls, mean = readout(tokens.float())
        return F.smooth_l1_loss(cls, targets[index]) + F.smooth_l1_loss(mean, targets[index])

    return readout, fit(tower, readout, loss, steps, 8e-4)


def fit_notes(tower: Encoder, steps: int, batch_size: int, seed: int):
    """Number reading; returns the readout and the log."""
    torch.manual_seed(seed + 10)
    rng = np.random.default_rng([seed, 2])
    readout = Readout(tower.spec.dim, len(NOTE_FIELDS))

    def loss() -> Tensor:
        rows = [draw_note_row(rng) for _ in range(batch_size)]
        notes = [compose_text(row, "full", seed=int(rng.integers(1 << 30))) for row in rows]
        pairs = [note_targets(row) for row in rows]
        values, answered = (torch.tensor(part) for part in zip(*pairs, strict=True))
        features = tower(torch.stack([tower.prepare(note) for note in notes]))
        errors = [F.smooth_l1_loss(p, values, reduction="none") for p in readout(features.tokens, features.mask)]
        return sum(((error * answered).sum() / answered.sum() for error in errors), torch.zeros(()))

    return readout, fit(tower, readout, loss, steps, 1e-3)


@torch.no_grad()
def r_squared(prediction: Tensor, target: Tensor) -> list[float]:
    """Share of variance explained, ``[n, K]`` -> ``[K]``."""
    return rounded((1 - (prediction - target).pow(2).mean(0) / target.var(0, unbiased=False)).tolist())


def prepare_all(volumes: np.ndarray) -> Tensor:
    """Raw volumes ``uint8 [n, D, H, W]`` -> prepared inputs ``[n, 1, ...]``, in half precision to save memory."""
    size = volumes.shape[1:]
    return torch.stack([prepare_volume(torch.from_numpy(v).float(), size).half() for v in volumes])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for brain.safetensors and brain.json")
    parser.add_argument("--volumes", type=int, default=3_000)
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--note-steps", type=int, default=1_500)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--held-out", type=int, default=200, help="volumes that are only tested on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes that draw the volumes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    vocabulary = build_vocabulary(options.seed)
    model = assemble("brain", vocabulary)
    towers = model.towers()
    raw, targets, _ = generate_ageing(options.volumes, 700 + options.seed, jobs=options.jobs)
    mean, deviation = targets.mean(0), targets.std(0)
    standard = torch.from_numpy((targets - mean) / deviation)
    readout, log = fit_volumes(
        towers["volume"], prepare_all(raw), standard, options.steps, options.batch_size, options.seed
    )
    note_readout, note_log = fit_notes(towers["text"], options.note_steps, 64, options.seed)
    model.freeze()
    held_raw, held, _ = generate_ageing(options.held_out, 7_700 + options.seed, jobs=1)
    rng = np.random.default_rng([options.seed, 3])
    rows = [draw_note_row(rng, missing=0.0) for _ in range(500)]
    with torch.no_grad():
        anatomy, _ = readout(torch.cat([towers["volume"](v[None].float()).tokens for v in prepare_all(held_raw)]))
        notes = torch.stack([towers["text"].prepare(compose_text(row, "full")) for row in rows])
        read, _ = note_readout(towers["text"](notes).tokens)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "brain.safetensors"
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    card = {
        "encoder": "embedded:brain",
        "vocabulary": vocabulary,
        "logit_scale": None,
        "sha256": file_digest(path),
        "generator": GENERATOR_VERSION,
        "setting": "pretrain",
        "run": {k: v for k, v in vars(options).items() if k != "out"},
        "environment": {"torch": torch.__version__, "machine": platform.machine()},
        "log": log,
        "note_log": note_log,
        "held_out": {
            "volumes_r2": dict(
                zip(AGEING_TARGETS, r_squared(anatomy, torch.from_numpy((held - mean) / deviation)), strict=True)
            ),
            "notes_r2": dict(
                zip(NOTE_FIELDS, r_squared(read, torch.tensor([note_targets(row)[0] for row in rows])), strict=True)
            ),
        },
    }
    (options.out / "brain.json").write_text(json.dumps(card, indent=1) + "\n")
    logger.info("held out: %s", json.dumps(card["held_out"]))


if __name__ == "__main__":
    main()
