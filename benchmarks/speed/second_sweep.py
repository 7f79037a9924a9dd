"""How long a second sweep over the same data takes to its first step: ``python -m benchmarks.speed.second_sweep``.

Two sweeps of one cell each, which differ in their seed. The first makes the phantom cohort, the prepared inputs and the
frozen prefix; the second finds them. Told is the wall time from the start of the command to the first step: imports,
planning, starting the worker, reading the cohort, building the graft.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medgraft.errors import MedgraftError

BEHIND = ("train", "evaluate", "measure")
"""Parts of a cell from its first training step on."""


def seconds_to_first_step(arguments: list[str], results: Path) -> float:
    """Runs ``medgraft run`` on one cell and tells when it began to train.

    Args:
        arguments: Of the sweep, which must hold a single cell that ``results`` does not have yet.
        results: Where it writes.

    Returns:
        Wall seconds from the start of the command.

    Raises:
        MedgraftError: It failed, or left no new result or several.
    """
    before, start = set(results.rglob("*.json")), time.time()
    command = [sys.executable, "-m", "medgraft.benchmarks.run", *arguments, "--results", str(results), "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    new = sorted(set(results.rglob("*.json")) - before)
    if done.returncode or len(new) != 1:
        log = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise MedgraftError(f"{' '.join(command)} left {len(new)} new results: {log[-1] if log else done.returncode}")
    timing = json.loads(new[0].read_text())["timing"]
    return new[0].stat().st_mtime - sum(timing[part] for part in BEHIND) - start


def first_and_second(arguments: list[str], results: Path) -> tuple[float, float]:
    """:func:`seconds_to_first_step` with seed 0 and then, over the same data, with seed 1."""
    first, second = (seconds_to_first_step([*arguments, "--seeds", str(seed)], results) for seed in (0, 1))
    return first, second


def main(arguments: list[str] | None = None) -> int:
    """Measures and writes one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.second_sweep", description=__doc__)
    parser.add_argument("--adapter", default="lora")
    parser.add_argument("--task", default="chexpert")
    parser.add_argument("--data", help="COHORT=FOLDER of the task; a phantom without")
    options = parser.parse_args(arguments)
    sweep = ["--adapters", options.adapter, "--tasks", options.task, "--epochs", "1", "--no-baselines"]
    sweep += ["--data", options.data] if options.data else []
    with tempfile.TemporaryDirectory(prefix="medgraft-second-sweep-") as folder:
        first, second = first_and_second(sweep, Path(folder))
    sys.stdout.write(f"{options.adapter} on {options.task}: first sweep {first:.1f} s, second {second:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
