"""Zero-shot evaluation three ways, interleaved in one run: images per second, and whether the scores agree.

``python -m benchmarks.speed.zero_shot_speed`` writes a Markdown table. ``one by one`` reads, prepares, encodes one
image after another, as evaluation scripts of the field do; ``batched`` does the same with 64 images at once; ``cached``
is what a sweep does after its first cell: batches through the cached frozen prefix. Class prompts are embedded once per
pass in each. Without ``--data`` a phantom cohort is written first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.precomputing import Ready, build
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.training.trainer import EVAL_BATCH, batches
from medgraft.errors import ConfigError

TOLERANCE = 0.02
"""Largest difference of a class's probability; the cached prefix is kept in half precision."""

Way = Callable[[], np.ndarray]


def make_cell(root: Path, adapter: str, encoder: str, images: int, threads: int) -> Ready:
    """A cell of the zero-shot task, built and ready to predict."""
    spec = CellSpec.model_validate(
        {
            "task": "chexpert_5x200",
            "cohort": {"name": "chexpert", "revision": "timing", "phantom": (root / "PHANTOM").exists()},
            "encoder": encoder,
            "adapter": adapter,
            "seed": 0,
            "precision": "fp32",
            "threads": threads,
            "limit": images,
            "train": {"epochs": 0},
        }
    )
    ready = build(load(spec, root))
    ready.grafted.eval()
    return ready


def ways(cell: Ready) -> dict[str, Way]:
    """Each way to the scores of the test images, ``float64 [n, K]``."""
    index = cell.loaded.splits["test"]
    return {
        "one by one": lambda: from_files(cell, index, 1),
        "batched": lambda: from_files(cell, index, EVAL_BATCH),
        "cached": lambda: cell.runner.predict(index),
    }


@torch.no_grad()
def from_files(cell: Ready, index: np.ndarray, size: int) -> np.ndarray:
    """Scores ``[n, K]`` from the image files, ``size`` images at once, through the whole encoder."""
    objective, grafted, raw = cell.runner.objective, cell.grafted, cell.loaded.data.inputs["image"]
    tower = grafted.towers()["image"]
    context = objective.context(grafted)
    rows = []
    for part in batches(index, size):
        x = torch.stack([tower.prepare(raw.read(int(i))) for i in part])
        rows.append(objective.scores(grafted, grafted.encode({"image": x}), context).double().numpy())
    return np.concatenate(rows)


def measure(ways: dict[str, Way], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each way by round, and how far its scores are from those of the first.

    Every round runs all ways, in an order that turns, so that a machine that slows down slows all of them.

    Raises:
        ConfigError: Scores differ by more than :data:`TOLERANCE`, so that times are not of the same result.
    """
    reference = next(iter(ways.values()))()
    apart = {name: float(np.abs(run() - reference).max()) for name, run in ways.items()}  # and warms up
    if far := [name for name, gap in apart.items() if gap > TOLERANCE]:
        raise ConfigError(f"{far[0]} gives scores up to {apart[far[0]]:.3g} away; a time of it would mean nothing")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        names = list(ways)
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds, apart


def table_rows(adapter: str, seconds: dict[str, list[float]], apart: dict[str, float], images: int) -> Iterator[str]:
    """Lines of the table: the median over rounds, and ratios to the first way within a round with their range."""
    first = next(iter(seconds.values()))
    for name, runs in seconds.items():
        ratios = [a / b for a, b in zip(first, runs, strict=True)]
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        yield f"| {adapter} | {name} | {images / statistics.median(runs):.0f} | {spread} | {apart[name]:.1e} |"


@contextmanager
def cohort(root: Path | None, images: int) -> Iterator[Path]:
    """The folder of a cohort; a phantom that is deleted afterwards where none is given."""
    if root is not None:
        yield root
        return
    from medgraft.benchmarks.cohorts.places import write_phantom

    with tempfile.TemporaryDirectory(prefix="medgraft-timing-") as folder:
        out = Path(folder) / "chexpert"
        each = -(-images // 5)
        options = {"n_train": 60, "n_valid": 12, "n_test": 24, "n_5x200_per_class": each, "seed": 2027, "size": 320}
        write_phantom("chexpert", out, options, jobs=1)
        yield out


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a CheXpert cohort")
    parser.add_argument("--encoder", default="phantom_chest")
    parser.add_argument("--adapters", default="zero_shot,ace_lora")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the table to the standard output."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    lines = ["| adapter | way | images/s | times the first | largest difference of a score |", "|---|---|---|---|---|"]
    count = 0
    with cohort(options.data, options.images) as root:
        for adapter in options.adapters.split(","):
            cell = make_cell(root, adapter, options.encoder, options.images, options.threads)
            count = len(cell.loaded.splits["test"])
            lines += table_rows(adapter, *measure(ways(cell), options.rounds), count)
    lines += ["", f"{options.encoder}, {count} images, {options.rounds} rounds, {options.threads} thread(s), fp32."]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
