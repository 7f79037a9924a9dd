"""Whole training jobs against the plain peft loop: ``python -m benchmarks.speed``.

A job trains 2 adapters with 3 seeds for 5 epochs on one encoder. Contenders run in turns, each in a process of its own,
so that a machine that slows down slows all of them and memory is each contender's alone. Ratios are medians over the
rounds of processor seconds (of event times on a GPU), and final losses stand beside them. What the contenders are is in
:mod:`medgraft.benchmarks.speed.contenders`; the report goes to the output as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medgraft.benchmarks.launch.warm_start import keeping_memory
from medgraft.errors import MedgraftError

PEER = "peer fp32"
FASTEST = "peer fp32, fastest product"
"""The plain loop with its fp32 products from the faster of MKL and oneDNN, which PyTorch does not choose itself."""
CONTENDERS: dict[str, dict[str, bool]] = {
    PEER: {"ours": False},
    FASTEST: {"ours": False, "fastest_product": True},
    "peer bf16": {"ours": False, "bf16": True},
    "peer bf16 compiled": {"ours": False, "bf16": True, "compiled": True},
    "medgraft fp32": {"ours": True},
    "medgraft bf16": {"ours": True, "bf16": True},
    "medgraft bf16 compiled": {"ours": True, "bf16": True, "compiled": True},
    "medgraft bf16_frozen": {"ours": True, "bf16": True, "bf16_frozen": True},
}
STEP_CONTENDERS: dict[str, dict[str, bool]] = {
    PEER: {"ours": False},
    "peer fp32 compiled": {"ours": False, "compiled": True},
    "medgraft fp32": {"ours": True},
    "medgraft fp32 compiled": {"ours": True, "compiled": True},
}


@dataclass(frozen=True)
class Job:
    """A job and what is wanted of it.

    Attributes:
        title: One line.
        speed: Goal against the peers' plain loop in fp32.
        best_speed: Goal against the peers' fastest form; ``None`` for none.
        memory: Goal for peak memory, as a share of the plain loop's.
        contenders: Name -> fields of an order.
    """

    title: str
    speed: float
    best_speed: float | None
    memory: float
    contenders: dict[str, dict[str, bool]]


JOBS = {
    "probes": Job("adapters on output tokens: ACE-HGNN, linear probe", 40, 15, 0.5, CONTENDERS),
    "tokens": Job("adapters on output tokens: ACE-HGNN, Perceiver Resampler", 40, 15, 0.5, CONTENDERS),
    "lora_third": Job("LoRA on q and v in the last third of the blocks, r = 8 and 16", 8, 3, 0.45, CONTENDERS),
    "lora_all": Job("LoRA on q and v in all blocks, r = 8 and 16", 2.8, 1.05, 0.6, CONTENDERS),
    "ace_step": Job(
        "one ACE-HGNN training step on frozen tokens against the published dense form", 30, None, 0.3, STEP_CONTENDERS
    ),
}


@dataclass
class Runs:
    """The runs of one contender.

    Attributes:
        seconds: Of each round.
        peaks: Largest sum of tensors in a training step above its start, in bytes.
        frozen_peak: The same of a batch of the frozen part, which medgraft runs once.
        loss: Mean of the final losses.
        frozen: Share of the time in the frozen part, of the first round.
        products: Share of the training's time inside matrix products.
    """

    seconds: list[float]
    peaks: list[int]
    frozen_peak: int
    loss: float
    frozen: float
    products: float


def run_once(order: dict[str, Any]) -> dict[str, Any]:
    """One contender's job in a process of its own.

    Raises:
        MedgraftError: It failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(order["threads"]), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if order["ours"]:
        environment = keeping_memory(environment)  # as the workers of a sweep
    command = [sys.executable, "-m", "medgraft.benchmarks.speed.jobs", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise MedgraftError(f"{order} failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(job: str, common: dict[str, Any], names: Sequence[str], rounds: int) -> dict[str, Runs]:
    """Runs the contenders of a job in turns.

    Args:
        job: Of :data:`JOBS`.
        common: Fields of every order.
        names: Contenders.
        rounds: Runs of each.
    """
    fields = JOBS[job].contenders
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            results[name].append(run_once({**common, "job": job, **fields[name]}))
    return {
        name: Runs(
            [run["seconds"] for run in runs],
            [run["peak"] for run in runs],
            runs[0]["frozen_peak"],
            statistics.fmean(runs[0]["losses"]),
            runs[0]["parts"].get("frozen part", 0.0) / runs[0]["seconds"],
            runs[0]["products"],
        )
        for name, runs in results.items()
    }


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the rounds' ratios.

    Example:
        >>> ratio([4.0, 9.0, 8.0], [1.0, 3.0, 1.0])
        4.0
    """
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def best_peer(runs: dict[str, Runs]) -> str:
    """The peer with the least time."""
    return min((name for name in runs if name.startswith("peer")), key=lambda n: statistics.median(runs[n].seconds))


def table(job: str, results: dict[str, Runs]) -> list[str]:
    """A job as Markdown: seconds, ratios, memory, losses, and each goal with its outcome."""
    goal, plain, best = JOBS[job], results[PEER], best_peer(results)
    lines = [f"### {goal.title[0].upper()}{goal.title[1:]}", ""]
    lines += [
        f"| contender | seconds | vs {PEER} | vs {best} | step MB | of {PEER} | frozen MB | frozen time "
        "| in products | final loss |"
    ]
    lines += ["|---|" + "---:|" * 9]
    for name, runs in results.items():
        peak, allocated = statistics.median(plain.peaks), statistics.median(runs.peaks)
        lines.append(
            f"| {name} | {statistics.median(runs.seconds):.2f} | {ratio(plain.seconds, runs.seconds):.2f} | "
            f"{ratio(results[best].seconds, runs.seconds):.2f} | {allocated / 1e6:.1f} | "
            f"{allocated / max(peak, 1):.2f} | {runs.frozen_peak / 1e6:.1f} | {runs.frozen:.0%} | "
            f"{runs.products:.0%} | {runs.loss:.4f} |"
        )
    return [*lines, "", *verdicts(job, results), ""]


def verdicts(job: str, results: dict[str, Runs]) -> list[str]:
    """Goals, each held against medgraft's fastest contender."""
    goal, plain = JOBS[job], results[PEER]
    ours = [name for name in results if name.startswith("medgraft")]
    if not ours:
        return []
    name = min(ours, key=lambda n: statistics.median(results[n].seconds))
    runs = results[name]
    lines = []
    best = best_peer(results)
    if goal.best_speed is not None:
        speed = ratio(results[best].seconds, runs.seconds)
        lines.append(f"- {name}: {speed:.2f}x {best}, goal {goal.best_speed:g}x: {_outcome(speed >= goal.best_speed)}")
    speed = ratio(plain.seconds, runs.seconds)
    lines.append(f"- {name}: {speed:.2f}x {PEER}, goal {goal.speed:g}x: {_outcome(speed >= goal.speed)}")
    floor = runs.frozen + (1 - runs.frozen) * runs.products
    if speed < goal.speed:
        lines[-1] += f" (its frozen part and the matrix products of its training alone: {speed / floor:.1f}x)"
    share = max(statistics.median(runs.peaks), runs.frozen_peak) / max(statistics.median(plain.peaks), 1)
    whole = f"{share:.2f} of its memory, frozen part included"
    lines.append(f"- {name}: {whole}, goal {goal.memory:g}: {_outcome(share <= goal.memory)}")
    return lines


def _outcome(met: bool) -> str:
    return "met" if met else "**not met**"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    arguments.add_argument(
        "--job", action="append", choices=sorted(JOBS), help="one job; may be repeated; all by default"
    )
    arguments.add_argument("--contender", action="append", help="contenders beside peer fp32; all by default")
    arguments.add_argument(
        "--size", choices=["small", "base", "tiny"], default="small", help="ViT-S/16, ViT-B/16 at 224"
    )
    arguments.add_argument("--images", type=int, default=16)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=2, help="runs of each contender")
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments.add_argument(
        "--quick", action="store_true", help="a tiny encoder, one seed, epoch and round: does it run?"
    )
    return arguments


def main(arguments: list[str] | None = None) -> int:
    """Runs the jobs and writes Markdown to the output, one table as soon as it is there."""
    import torch

    arguments_parser = parser()
    options = arguments_parser.parse_args(arguments)
    every = {**CONTENDERS, **STEP_CONTENDERS}
    if unknown := [name for name in options.contender or () if name not in every]:
        arguments_parser.error(f"no contender is called {unknown[0]!r}; they are {', '.join(every)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        arguments_parser.error("--device cuda, but PyTorch sees no GPU; use --device cpu")
    fields = ("size", "images", "batch", "seeds", "epochs", "threads", "device")
    common = {name: getattr(options, name) for name in fields}
    if options.quick:
        common |= {"size": "tiny", "images": 8, "batch": 4, "seeds": 1, "epochs": 1}
        options.rounds = 1
    said = shlex.join(arguments if arguments is not None else sys.argv[1:])
    _write(
        [
            f"Made by `python -m benchmarks.speed {said}`".rstrip(" `") + "`.",
            "",
            f"ViT {common['size']} with random weights (transformers), {common['images']} images, batches of "
            f"{common['batch']}, {common['seeds']} seeds, {common['epochs']} epochs, {options.rounds} rounds, "
            f"{common['device']}, {common['threads']} threads, torch {torch.__version__}.",
            "",
            f"On {machine()}",
            "",
        ]
    )
    for job in options.job or JOBS:
        chosen = JOBS[job].contenders if options.contender is None else {PEER, *options.contender}
        names = [name for name in JOBS[job].contenders if name in chosen]
        _write(table(job, measure(job, common, names, options.rounds)))
    return 0


def machine() -> str:
    """Processor, instruction sets and both fp32 products, in a sentence: what the factors below depend on."""
    import torch

    from medgraft.fast.fp32_product import measured, processor
    from medgraft.fast.linear import fp32_choice, has_onednn, onednn_linear

    native = ["bf16"] * torch.cpu._is_avx512_bf16_supported() + ["AMX"] * torch.cpu._is_amx_tile_supported()
    sets = ", ".join([torch.backends.cpu.get_cpu_capability(), *(native or ["no bf16"])])
    cpu = f"{processor()} ({sets})"
    if not has_onednn():
        return f"{cpu}; its fp32 products are PyTorch's own."
    ratio = measured(torch.nn.functional.linear, onednn_linear)
    return (
        f"{cpu}; a product in fp32 takes MKL {ratio.mkl_ms:.1f} ms and oneDNN {ratio.onednn_ms:.1f} ms, a ratio of "
        f"{ratio.ratio:.2f}; medgraft takes {'oneDNN' if fp32_choice().product == 'onednn' else 'MKL'} here."
    )


def _write(lines: list[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
