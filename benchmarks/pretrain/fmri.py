"""Trains SwiFT on one's own fMRI without labels: ``python -m medgraft.benchmarks.pretrain.fmri --runs DIR --out DIR``.

Contrastive pre-training as Kim et al. do it ("SwiFT", NeurIPS 2023, arXiv 2307.05916; after Dave et al., "TCLR", CVIU
2022). Of each subject of a batch two windows are drawn that share no volume. *Instance* contrast tells a subject by its
other window among all windows of the batch; *local* contrast tells, within a subject, two augmentations of one window
from those of the other; *both* is their sum. A window's embedding is the mean of its tokens, a linear map to 128
numbers without bias, batch normalisation, and unit length.

``--runs`` is searched for 4D NIfTI files in MNI space at 2 mm whose background is 0; files whose path holds the same
``sub-<label>`` are one subject's, and any other file is a subject by itself. The result is a checkpoint in the authors'
layout, which ``swift:MODEL@FILE`` opens, and a table beside it that names no subject: settings, losses, and how often a
held-out subject's second window is found by the first.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.checkpoints.weights import file_digest
from medgraft.encoders.swift import CONFIGS, SwiFT, load_checkpoint, prepare_run
from medgraft.errors import DataError, MedgraftError
from medgraft.losses import local_contrast, nt_xent

logger = logging.getLogger(__name__)

WIDTH = 128
TEMPERATURE = 0.1
LEARNING_RATE, WEIGHT_DECAY = 5e-5, 0.01
DEGREES, SCALE = 10.0, 0.1
NOISE_SHARE, NOISE = 0.3, 0.1
SMOOTH_SHARE, SMOOTH = 0.1, 0.5
LOG_STEPS = 10


# -- runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """Prepared runs of one subject, each ``float16 [T, x, y, z]`` in a file of its own, read as far as it is needed."""

    files: tuple[Path, ...]

    def two_windows(self, frames: int, random: np.random.Generator) -> Tensor:
        """Two windows of a run that share no volume, ``float32 [2, 1, x, y, z, frames]``."""
        run = np.load(self.files[random.integers(len(self.files))], mmap_mode="r")
        starts = np.arange(len(run) - frames + 1)
        first = random.choice([s for s in starts if s >= frames or s + 2 * frames <= len(run)])
        second = random.choice(starts[np.abs(starts - first) >= frames])
        windows = np.stack([np.asarray(run[s : s + frames], np.float32) for s in (first, second)])
        return torch.from_numpy(windows).movedim(1, -1)[:, None]

    def ends(self, frames: int) -> Tensor:
        """The first and the last window of the first run, ``float32 [2, 1, x, y, z, frames]``."""
        run = np.load(self.files[0], mmap_mode="r")
        windows = np.stack([np.asarray(part, np.float32) for part in (run[:frames], run[-frames:])])
        return torch.from_numpy(windows).movedim(1, -1)[:, None]


def read_run(path: Path) -> np.ndarray:
    """A run ``float32 [T, x, y, z]`` in RAS orientation.

    Raises:
        DataError: It is no NIfTI file of four axes.
    """
    import nibabel as nib

    try:
        image: Any = nib.as_closest_canonical(nib.load(path))  # pyright: ignore
        values = np.asarray(image.dataobj, np.float32)
    except Exception as error:  # nibabel raises what its parts raise
        raise DataError(f"a file cannot be read as NIfTI ({type(error).__name__})") from error
    if values.ndim != 4:
        raise DataError(f"a file holds {values.ndim} axes; a run has three of space and one of time", "not four axes")
    return np.moveaxis(values, -1, 0)


def subject_of(path: Path, root: Path) -> str:
    """Whose run a file is: the first ``sub-<label>`` of its path below ``root``, or the path itself.

    Example:
        >>> subject_of(Path("d/sub-07/func/sub-07_bold.nii.gz"), Path("d")), subject_of(Path("d/a.nii"), Path("d"))
        ('sub-07', 'a.nii')
    """
    inside = path.relative_to(root).as_posix()
    named = re.search(r"sub-[A-Za-z0-9]+", inside)
    return named.group() if named else inside


def prepare_runs(root: Path, folder: Path, size: Sequence[int], frames: int) -> tuple[list[Runs], dict[str, int]]:
    """Prepares every run below a folder, in the half precision that the authors keep.

    Args:
        root: Folder with NIfTI files.
        folder: Where prepared runs go; those that are there are made anew.
        size: Voxels along the three axes.
        frames: Volumes of a window.

    Returns:
        Runs by subject, and what was left out for which reason.

    Raises:
        DataError: Fewer than two subjects have a run of two windows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Path]] = {}
    skipped: dict[str, int] = {}
    for number, path in enumerate(sorted([*root.rglob("*.nii"), *root.rglob("*.nii.gz")])):
        try:
            run = read_run(path)
            windows = len(run) // frames
            if windows < 2:
                raise DataError(f"a run has fewer than two windows of {frames} volumes", "fewer than two windows")
            prepared = prepare_run(run, size, frames, windows)[0]
        except DataError as error:
            reason = error.reason or "not readable"
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        np.save(folder / f"{number}.npy", prepared.half().numpy())
        found.setdefault(subject_of(path, root), []).append(folder / f"{number}.npy")
    if len(found) < 2:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.items()) or "there is no NIfTI file"
        raise DataError(f"{root} has runs of {len(found)} subjects, and contrast needs two; left out: {reasons}")
    return [Runs(tuple(files)) for files in found.values()], skipped


# -- training ---------------------------------------------------------------------------------------------------------


class Embedding(nn.Module):
    """The published head: tokens of a window, averaged, to a unit vector.

    Args:
        dim: Width of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, WIDTH, bias=False)
        self.bn1 = nn.BatchNorm1d(WIDTH)

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, C, h, w, d, T] -> [B, 128]``."""
        return F.normalize(self.bn1(self.fc1(maps.flatten(2).mean(dim=2))), dim=1)


class Augmentation:
    """Turns, scales, blurs and adds noise to each sequence, all of its volumes alike.

    Every sequence is turned by up to 10 degrees about each axis and scaled by up to a tenth; three in ten get Gaussian
    noise of a deviation up to 0.1, one in ten is smoothed by up to half a voxel.

    Args:
        seed: Defines what is drawn.
    """

    def __init__(self, seed: int) -> None:
        from monai.transforms.intensity.array import RandGaussianNoise, RandGaussianSmooth
        from monai.transforms.spatial.array import RandAffine

        angle, width = np.deg2rad(DEGREES), (0.0, SMOOTH)
        turned = {"rotate_range": (angle,) * 3, "scale_range": (SCALE,) * 3}
        self.affine = RandAffine(prob=1.0, **turned, mode="bilinear", padding_mode="border")
        self.noise = RandGaussianNoise(prob=NOISE_SHARE, std=NOISE)
        self.smooth = RandGaussianSmooth(prob=SMOOTH_SHARE, sigma_x=width, sigma_y=width, sigma_z=width)
        for number, transform in enumerate((self.affine, self.noise, self.smooth)):
            transform.set_random_state(seed=seed + number)

    def __call__(self, x: Tensor) -> Tensor:
        """``[B, 1, H, W, D, T] -> [B, 1, H, W, D, T]``; MONAI takes volumes of a sequence as channels."""
        rows = []
        for sequence in x[:, 0].movedim(-1, 1):
            turned = torch.as_tensor(self.affine(sequence)).as_subclass(Tensor)
            noise = torch.as_tensor(self.noise(torch.zeros_like(turned[:1]))).as_subclass(Tensor)
            rows.append(torch.as_tensor(self.smooth(turned + noise)).as_subclass(Tensor))
        return torch.stack(rows).movedim(1, -1)[:, None]


class Trainer:
    """The optimisation.

    Args:
        network: SwiFT.
        subjects: Runs of each training subject.
        loss: ``instance``, ``local`` or ``both``.
        batch_size: Subjects in a batch.
        lr: Learning rate of AdamW.
        seed: Defines the head's weights, the windows and the augmentation.
    """

    def __init__(
        self, network: SwiFT, subjects: Sequence[Runs], loss: str, batch_size: int, lr: float, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.network, self.subjects, self.kind = network, subjects, loss
        self.batch_size = min(batch_size, len(subjects))
        self.head = Embedding(network.num_features)
        parameters = [*network.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=WEIGHT_DECAY)
        self.random = np.random.default_rng([seed, 1])
        self.augment = Augmentation(seed)
        self.log: list[dict[str, float]] = []

    def embed(self, windows: Tensor) -> Tensor:
        """Unit embeddings of a fresh augmentation, ``[B, 1, H, W, D, T] -> [B, 128]``."""
        return self.head(self.network(self.augment(windows)))

    def losses(self, windows: Tensor) -> dict[str, Tensor]:
        """Each term of the loss, a scalar, of two windows of each subject, ``[B, 2, 1, H, W, D, T]``."""
        first, second = windows.unbind(dim=1)
        terms: dict[str, Tensor] = {}
        if self.kind != "local":
            terms["instance"] = nt_xent(self.embed(first), self.embed(second), TEMPERATURE)
        if self.kind != "instance":
            one, other = (torch.stack([self.embed(first), self.embed(second)], dim=1) for _ in range(2))
            terms["local"] = local_contrast(one, other, TEMPERATURE)
        return terms

    def run(self, steps: int) -> None:
        """Trains for some steps."""
        self.network.train()
        self.head.train()
        frames = self.network.img_size[3]
        for step in range(1, steps + 1):
            chosen = self.random.choice(len(self.subjects), self.batch_size, replace=False)
            windows = torch.stack([self.subjects[i].two_windows(frames, self.random) for i in chosen])
            terms = self.losses(windows)
            self.optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            self.optimizer.step()
            if step % LOG_STEPS == 0 or step == steps:
                self.log.append({"step": step, **{name: round(term.item(), 5) for name, term in terms.items()}})
                logger.info("%s", self.log[-1])


@torch.no_grad()
def found_again(network: SwiFT, subjects: Sequence[Runs]) -> float:
    """Share of subjects whose last window is nearest to their first, by cosine of centred mean tokens.

    Args:
        network: SwiFT.
        subjects: Those that were not trained on.
    """
    network.eval()
    pairs = [network(runs.ends(network.img_size[3])).flatten(2).mean(dim=2) for runs in subjects]
    first, last = torch.stack(pairs, dim=1)
    first, last = (F.normalize(each - each.mean(dim=0), dim=1) for each in (first, last))
    return float((first @ last.T).argmax(dim=1).eq(torch.arange(len(first))).double().mean())


def pretrain(options: argparse.Namespace) -> dict[str, Any]:
    """Prepares, trains and writes ``swift.ckpt`` and ``swift.json``; returns what the latter holds.

    Raises:
        DataError: There are too few runs.
    """
    torch.manual_seed(options.seed)
    network = SwiFT(**CONFIGS[options.model])
    if options.start is not None:
        load_checkpoint(network, options.start)
    *size, frames = network.img_size
    subjects, skipped = prepare_runs(options.runs, options.out / "prepared", size, frames)
    order = np.random.default_rng([options.seed, 0]).permutation(len(subjects))
    kept = min(max(round(options.held_out * len(subjects)), 0), len(subjects) - 2)
    tested, trained = ([subjects[i] for i in part] for part in (order[:kept], order[kept:]))
    before = found_again(network, tested) if kept > 1 else None
    trainer = Trainer(network, trained, options.loss, options.batch_size, options.lr, options.seed)
    trainer.run(options.steps)
    path = options.out / "swift.ckpt"
    parts = {"model": network, "output_head": trainer.head}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    torch.save({"state_dict": state}, path)
    names = ("model", "loss", "steps", "batch_size", "lr", "held_out", "seed")
    card = {
        "encoder": f"swift:{options.model}",
        "sha256": file_digest(path),
        "run": {name: getattr(options, name) for name in names},
        "started_from": None if options.start is None else file_digest(options.start),
        "subjects": {"trained": len(trained), "held_out": kept},
        "skipped": skipped,
        "held_out": {"found_again_before": before, "found_again": found_again(network, tested) if kept > 1 else None},
        "chance": 1 / kept if kept > 1 else None,
        "environment": {"torch": torch.__version__, "machine": platform.machine()},
        "log": trainer.log,
    }
    (options.out / "swift.json").write_text(json.dumps(card, indent=1) + "\n")
    return card


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=Path, required=True, help="folder with 4D NIfTI files")
    options.add_argument("--out", type=Path, required=True, help="folder for swift.ckpt, swift.json and prepared runs")
    options.add_argument("--model", choices=sorted(CONFIGS), default="hcp")
    options.add_argument("--start", type=Path, help="checkpoint to go on from, such as the authors'")
    options.add_argument("--loss", choices=("instance", "local", "both"), default="both")
    options.add_argument("--steps", type=int, default=1_000)
    options.add_argument("--batch-size", type=int, default=8, help="subjects in a batch")
    options.add_argument("--lr", type=float, default=LEARNING_RATE)
    options.add_argument("--held-out", type=float, default=0.2, help="share of subjects that are only tested")
    options.add_argument("--seed", type=int, default=0)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        card = pretrain(options)
    except MedgraftError as error:
        raise SystemExit(str(error)) from error
    logger.info("held out: %s, chance %s", json.dumps(card["held_out"]), card["chance"])


if __name__ == "__main__":
    main()
