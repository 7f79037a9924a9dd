"""Trains ``embedded:slices``: ``python -m medgraft.benchmarks.pretrain.slices --out encoders/weights``.

A 2D ViT, at first that of ``embedded:chest``, reads twelve axial slices of a volume, each by itself. A linear readout
of its CLS token and one of its mean patch token, averaged over the slices as ``inflate3d`` pools them, regress the
anatomy (volumes, age, sex) of a generated healthy ageing population. Of each slice alone, the CLS token tells its place
and how much of each patch is how dark, and every patch token that of its own patch: a slice is full of answers, where a
volume has six. The readouts are thrown away. As with ``embedded:brain``, there is no diagnosis, the scanners differ
from the benchmark's, and ages over 80 are held out. The text tower learns what a sentence about a brain is about; the
two towers share no space.

The run is defined by its seed and numbers of steps; its log and held-out result are written beside the weights. With
``--state``, the drawn slices and a checkpoint every 50 steps lie in that folder, and a stopped run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from medgraft.benchmarks.phantoms.brain.renderer import AGEING_TARGETS, GENERATOR_VERSION, generate_ageing
from medgraft.benchmarks.pretrain.brain import Readout, r_squared
from medgraft.benchmarks.pretrain.brain_sentences import TOPICS, draw_sentences, sentence_vocabulary
from medgraft.benchmarks.pretrain.probe import cosine
from medgraft.checkpoints.weights import file_digest, read_weights
from medgraft.encoder import DualEncoder, Encoder
from medgraft.encoders.embedded import assemble
from medgraft.encoders.slices import slice_positions, take_slices

logger = logging.getLogger(__name__)

SLICES = 12
"""Of a volume, evenly spread, as ``inflate3d:slices=12`` takes them."""
DARKNESS = (0.45, 0.6, 0.75, 0.9, 1.1)
"""Grey values, in medians of the volume's tissue, below which the share of a patch is told."""
PLACE_WEIGHT, PATCH_WEIGHT = 0.2, 0.5
CHECKPOINT_STEPS = 50


def draw_slices(volumes: int, seed: int, jobs: int, state: Path | None = None) -> tuple[Tensor, Tensor]:
    """Every axial slice of generated volumes, in the grey values that ``inflate3d`` gives a 2D encoder.

    Args:
        volumes: How many.
        seed: Of the population.
        jobs: Processes that draw.
        state: Folder that keeps what was drawn, to be read instead of drawn again.

    Returns:
        ``uint8 [n, S, H, W]`` and the targets in natural units, ``float32 [n, len(AGEING_TARGETS)]``.
    """
    kept = None if state is None else state / f"slices-{GENERATOR_VERSION}-{volumes}-{seed}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            return torch.from_numpy(file["slices"]), torch.from_numpy(file["targets"])
    raw, targets, _ = generate_ageing(volumes, seed, jobs=jobs)
    depth = raw.shape[3]
    slices = np.empty((volumes, depth, *raw.shape[1:3]), np.uint8)
    for row, volume in enumerate(raw):
        slices[row] = take_slices(volume.astype(np.float32), 2, depth, None)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, slices=slices, targets=targets)
    return torch.from_numpy(slices), torch.from_numpy(targets)


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Grey values ``[B, K, H, W]``, shifted and mirrored; sizes stay, since they are what is regressed."""
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x = torch.roll(x, shift, (2, 3))
    return torch.where(mirrored[:, None, None, None], x.flip(2), x)


def rescanned(x: Tensor, generator: torch.Generator) -> Tensor:
    """Grey values in 0..1, ``[B, K, H, W]``, as of another scanner: intensity curve, gain and noise of each volume."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator)

    bent = x.pow(uniform(-0.4, 0.5).exp()) * uniform(0.9, 1.1)
    noise = torch.randn(x.shape, generator=generator) * uniform(0.0, 0.05)
    return torch.where(x > 0, bent + noise, bent).clamp(0, 1)


def darkness(x: Tensor) -> Tensor:
    """Of each patch of 16 x 16, the shares of tissue darker than :data:`DARKNESS`, and of all tissue.

    Args:
        x: Grey values in 0..1 as they were scanned, ``[B, K, H, W]``.

    Returns:
        ``[B * K, patches, 6]``, standardised to about unit range.
    """
    inside = x > 0.04
    median = torch.stack([volume[there].median() for volume, there in zip(x, inside, strict=True)])[:, None, None, None]
    maps = torch.stack([*(inside & (x < part * median) for part in DARKNESS), inside], dim=2).float().flatten(0, 1)
    shares = F.avg_pool2d(maps, 16).flatten(2).transpose(1, 2)
    return (shares - shares.mean((0, 1))) / (shares.std((0, 1)) + 1e-3)


def from_chest(tower: Encoder) -> None:
    """Starts a tower from the image tower of ``embedded:chest``, its positions resampled to the other grid."""
    chest = read_weights(Path(str(resources.files("medgraft.encoders"))) / "weights" / "chest.safetensors")
    prefix = "tower.image."
    own = tower.state_dict()
    state = {k.removeprefix(prefix): v.float() if v.is_floating_point() else v for k, v in chest.items()}
    state = {k: v for k, v in state.items() if k in own}
    table, side = state["position"], int((state["position"].shape[1] - 1) ** 0.5)
    grid = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    size = [each // 16 for each in tower.spec.input_size]
    grid = F.interpolate(grid, size=size, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    state["position"] = torch.cat([table[:, :1], grid], dim=1)
    tower.load_state_dict(state)


class SliceTrainer:
    """The optimisation of the image tower.

    Args:
        tower: The image tower.
        slices: ``uint8 [n, S, H, W]``.
        targets: Standardised, ``float32 [n, T]``.
        steps: Number of optimisation steps.
        batch_size: Volumes per step.
        seed: Defines the readouts' weights, order and augmentation.
    """

    def __init__(self, tower: Encoder, slices: Tensor, targets: Tensor, steps: int, batch_size: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.tower, self.slices, self.targets, self.steps = tower, slices, targets, steps
        self.batch_size = batch_size
        patches, kinds = int(np.prod(tower.spec.input_size)) // 256, len(DARKNESS) + 1
        self.readout = Readout(tower.spec.dim, targets.shape[1])
        self.place = Readout(tower.spec.dim, 1)
        self.whole = nn.Linear(tower.spec.dim, patches * kinds)
        self.each = nn.Linear(tower.spec.dim, kinds)
        self.parameters = [p for module in self._modules().values() for p in module.parameters()]
        self.tower.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.05, fused=True)
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.log: list[dict[str, float]] = []
        self.step, self.seconds = 0, 0.0
        self.average = self.anatomy_average = self.anatomy_loss = 0.0

    def loss(self) -> Tensor:
        """Of a batch drawn anew: anatomy of the volumes, and place and darkness of their slices; a scalar."""
        rows = torch.randint(0, len(self.slices), (self.batch_size,), generator=self.generator)
        depth = self.slices.shape[1]
        near = torch.randint(-1, 2, (self.batch_size, 1), generator=self.generator)
        places = (torch.from_numpy(slice_positions(depth, SLICES)) + near).clamp(0, depth - 1)
        x = moved(self.slices[rows[:, None], places].float() / 255, self.generator)
        dark = darkness(x)
        x = ((rescanned(x, self.generator) - 0.5) / 0.25).flatten(0, 1)[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            tokens = self.tower.encode(x).tokens
        tokens, where = tokens.float(), (places.flatten()[:, None] / depth - 0.5) * 4
        loss = PATCH_WEIGHT * F.smooth_l1_loss(self.whole(tokens[:, 0]), dark.flatten(1))
        loss = loss + PATCH_WEIGHT * F.smooth_l1_loss(self.each(tokens[:, 1:]), dark)
        for anatomy, place in zip(self.readout(tokens), self.place(tokens), strict=True):
            volume = anatomy.unflatten(0, (-1, SLICES)).mean(1)
            loss = loss + F.smooth_l1_loss(volume, self.targets[rows]) + PLACE_WEIGHT * F.smooth_l1_loss(place, where)
            self.anatomy_loss = F.smooth_l1_loss(volume, self.targets[rows]).item()
        return loss

    def run(self, checkpoint: Path | None = None) -> None:
        """Trains to the end, from ``checkpoint`` where there is one of this run."""
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)
        for module in self.tower.modules():
            module.training = True
        while self.step < self.steps:
            start = time.process_time()
            for group in self.optimizer.param_groups:
                group["lr"] = cosine(self.step, self.steps, 40, 8e-4)
            value = self.loss()
            self.optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            share = 0.03 if self.step else 1.0
            self.average += share * (value.item() - self.average)
            self.anatomy_average += share * (self.anatomy_loss - self.anatomy_average)
            self.step += 1
            self.seconds += time.process_time() - start
            if self.step % CHECKPOINT_STEPS == 0:
                losses = {"loss": round(self.average, 4), "anatomy_loss": round(self.anatomy_average, 4)}
                entry = {"step": self.step, **losses, "cpu_seconds": round(self.seconds)}
                self.log.append(entry)
                logger.info("%s", entry)
                if checkpoint is not None:
                    self._save(checkpoint)

    def _modules(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("tower", "readout", "place", "whole", "each")}

    def _save(self, path: Path) -> None:
        state = {name: module.state_dict() for name, module in self._modules().items()}
        kept = {name: getattr(self, name) for name in ("step", "average", "anatomy_average", "seconds", "log", "steps")}
        state |= {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state(), "kept": kept}
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def _restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if state["kept"]["steps"] != self.steps:
            raise SystemExit(f"{path} is of a run of {state['kept']['steps']} steps, not {self.steps}; remove it")
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        for name, value in state["kept"].items():
            setattr(self, name, value)


def fit_sentences(tower: Encoder, steps: int, batch_size: int, seed: int) -> tuple[Readout, list[dict[str, float]]]:
    """Topic of a sentence from CLS and from the mean word; returns the readout and the log."""
    from medgraft.benchmarks.pretrain.brain import fit

    torch.manual_seed(seed + 10)
    rng = np.random.default_rng([seed, 2])
    readout = Readout(tower.spec.dim, len(TOPICS))

    def loss() -> Tensor:
        sentences, topics = draw_sentences(rng, batch_size)
        ids = torch.stack([tower.prepare(sentence) for sentence in sentences])[:, :24]
        features = tower.encode(ids)
        return sum(
            (F.cross_entropy(p, torch.from_numpy(topics)) for p in readout(features.tokens, features.mask)),
            torch.zeros(()),
        )

    return readout, fit(tower, readout, loss, steps, 1e-3)


@torch.no_grad()
def read_slices(tower: Encoder, readout: Readout, slices: Tensor, count: int) -> Tensor:
    """What the CLS readout says of each volume from ``count`` slices, ``[n, T]``."""
    places = torch.from_numpy(slice_positions(slices.shape[1], count))
    rows = []
    for volume in slices:
        x = (volume[places].float() / 255 - 0.5) / 0.25
        rows.append(readout(tower.encode(x[:, None]).tokens)[0].mean(0))
    return torch.stack(rows)


def held_out(model: DualEncoder, readout: Readout, topics: Readout, people: tuple[Tensor, Tensor], seed: int):
    """Variance explained in people who were not trained on, from 6 and 12 slices, and topics told rightly.

    ``people`` is their slices ``uint8 [n, slices, H, W]`` and their standardised targets ``[n, T]``.
    """
    slices, standard = people
    towers = model.towers()
    result: dict[str, Any] = {"slices_r2": {}}
    for count in (6, 12):
        found = r_squared(read_slices(towers["image"], readout, slices, count), standard)
        result["slices_r2"][str(count)] = dict(zip(AGEING_TARGETS, found, strict=True))
    sentences, truth = draw_sentences(np.random.default_rng([seed, 3]), 1000)
    with torch.no_grad():
        text = towers["text"].encode(torch.stack([towers["text"].prepare(each) for each in sentences]))
        said = topics(text.tokens, text.mask)[1].argmax(1).numpy()
    result["topic_accuracy"] = float((said == truth).mean())
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for slices.safetensors and slices.json")
    parser.add_argument("--state", type=Path, help="folder for drawn slices and checkpoints; removed by nobody")
    parser.add_argument("--volumes", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--sentence-steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=120, help="volumes that are only tested on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes that draw the volumes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    vocabulary = sentence_vocabulary()
    model = assemble("slices", vocabulary)
    towers = model.towers()
    slices, targets = draw_slices(options.volumes, 500 + options.seed, options.jobs, options.state)
    mean, deviation = targets.mean(0), targets.std(0)
    from_chest(towers["image"])
    standard = (targets - mean) / deviation
    trainer = SliceTrainer(towers["image"], slices, standard, options.steps, options.batch_size, options.seed)
    trainer.run(None if options.state is None else options.state / f"checkpoint-{options.seed}-{options.steps}.pt")
    topics, sentence_log = fit_sentences(towers["text"], options.sentence_steps, 64, options.seed)
    model.freeze()
    others, truth = draw_slices(options.held_out, 5_500 + options.seed, options.jobs)
    people = (others, (truth - mean) / deviation)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "slices.safetensors"
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    card = {
        "encoder": "embedded:slices",
        "vocabulary": vocabulary,
        "logit_scale": None,
        "sha256": file_digest(path),
        "generator": GENERATOR_VERSION,
        "setting": "pretrain",
        "run": {k: v for k, v in vars(options).items() if k not in ("out", "state")},
        "environment": {"torch": torch.__version__, "machine": platform.machine()},
        "log": trainer.log,
        "sentence_log": sentence_log,
        "held_out": held_out(model, trainer.readout, topics, people, options.seed),
    }
    (options.out / "slices.json").write_text(json.dumps(card, indent=1) + "\n")
    logger.info("held out: %s", json.dumps(card["held_out"]))


if __name__ == "__main__":
    main()
