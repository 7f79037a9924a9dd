"""Everything that no GPU has run yet, in one command and under eight minutes: ``python -m benchmarks.gpu_check``.

Parity of every adapter with the CPU, the fused kernels, one whole job per family, the launcher, CUDA graphs, reading
ahead, stacked seeds, bf16 and fp8. The outcome is one JSON file without names of users, hosts or folders, for whoever
has no such card. Each part has an allowance of the time; what one leaves is there for the next, and what was not
reached is named. Parts run in processes of their own, since an error of CUDA spoils its process: the next one goes on
behind the item that failed.

Exit code 0 if all that ran is as it should be, 1 if not, 2 if there is no GPU and ``--device cpu`` was not said.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medgraft.benchmarks.launch.warm_start import start_fork_server
from medgraft.errors import MedgraftError

FORMAT = 1
"""Version of the JSON; raised when a field changes its meaning."""

MINUTES = 7.5
FAMILIES = {
    "image": ("lora", "chexpert", "phantom_chest"),
    "volume": ("brain_adapter", "adni_image", "phantom_brain"),
    "text and image": ("ace_lora", "chexpert_5x200", "phantom_chest"),
    "experts": ("tgh_moe", "adni_image", "phantom_brain"),
    "resampler": ("perceiver_resampler", "chexpert", "phantom_chest"),
    "language": ("soft_prefix", "chest_reports", "pair:embedded:chest|causal_lm:embedded"),
    "fmri": ("lora", "abide", "swift:tiny@random"),
    "eeg": ("channel_mixing", "tuab", "braindecode:eegnet@random"),
}
"""Family -> adapter, task and encoder of its job, on a small phantom."""

PARITY = 1e-3
"""Largest difference from the CPU of a loss or a gradient, relative to its norm: some thousand roundings of float32,
and less than what TF32, which is off here, makes of a few products in a row."""


class NotHereError(MedgraftError):
    """A part cannot run on this machine, which is no failure."""


@dataclass(frozen=True)
class Setting:
    """What a part runs with.

    Attributes:
        device: ``cuda`` or ``cpu``.
        quick: Small shapes and few items, for a test of this program.
        folder: For caches and results.
    """

    device: str
    quick: bool
    folder: Path


# -- the parts: items, and what is found for one of them ---------------------------------------------------------------


def facts(item: str, setting: Setting) -> dict[str, Any]:
    """The device and the software."""
    import torch

    from medgraft.benchmarks.measure import environment
    from medgraft.ops.triton_runtime import triton_obstacle

    found: dict[str, Any] = {**environment.describe(torch.get_num_threads()), "triton_obstacle": triton_obstacle()}
    if setting.device != "cuda":
        return found
    if not torch.cuda.is_available():
        raise MedgraftError("PyTorch sees no GPU")
    card = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = ""
    if shutil.which(query[0]):
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip()
    return found | {
        "gpu": card.name, "capability": [card.major, card.minor], "memory": card.total_memory, "driver": driver or None,
        "multiprocessors": card.multi_processor_count, "cudnn": torch.backends.cudnn.version(),
        "hip": torch.version.hip, "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }  # fmt: skip


def adapters(setting: Setting) -> list[str]:
    """Every adapter of this package."""
    from medgraft.plugins import discover

    names = sorted(name for name, plugin in discover("adapter").items() if plugin.builtin)
    return ["ace_hgnn", "lora"] if setting.quick else names


def parity(item: str, setting: Setting) -> dict[str, Any]:
    """Loss and gradients of an adapter on a tiny encoder, eager and fused, against eager mode on the CPU in float32."""
    import torch

    from medgraft.ops import backends
    from medgraft.testing.adapter_rules.subject import AdapterSubject
    from medgraft.testing.tiny import ENCODERS
    from medgraft.testing.tiny_language import LANGUAGE_ENCODERS, PACKED_ENCODERS
    from medgraft.testing.tiny_signal import SIGNAL_ENCODERS

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    made = {**ENCODERS, **SIGNAL_ENCODERS, **LANGUAGE_ENCODERS, **PACKED_ENCODERS}
    order = sorted(made, key=lambda name: name not in ("dual-2d", "packed-3d"))
    subjects = ((name, AdapterSubject(item, {name: made[name]}, {})) for name in order)
    case, subject = next((pair for pair in subjects if pair[1].cases()), (None, None))
    if case is None or subject is None:
        raise NotHereError(f"{item} fits none of the tiny encoders")
    found: dict[str, Any] = {"encoder": case}
    expected = _gradients(subject, case, "cpu", "eager")
    size = math.sqrt(sum(value.norm().item() ** 2 for name, value in expected.items() if name))
    for backend in ("eager", "fused"):
        with backends.recording() as record:
            got = _gradients(subject, case, setting.device, backend)
        found[backend] = max(
            ((got[name] - value).norm() / max(value.norm().item(), 1e-2 * size, 1e-12)).item()
            for name, value in expected.items()
        )
        found["ops"] = record.summary()
    return {**found, "ok": max(found["eager"], found["fused"]) <= PARITY}


def _trained(subject: Any, case: str) -> dict[str, Any]:
    """What a step on the CPU makes of all that is trained; much of it starts at zero and would hide mistakes."""
    from medgraft.testing import training

    encoder = subject.encoder(case)
    grafted = subject.graft(encoder, case)
    training.steps(grafted, subject.inputs(encoder), n=1)
    return {name: each.detach() for name, each in grafted.named_parameters() if each.requires_grad}


def _gradients(subject: Any, case: str, device: str, backend: Any) -> dict[str, Any]:
    """The loss, named by nothing, and the gradients by name, of the state that :func:`_trained` gives."""
    import torch

    from medgraft.ops import backends
    from medgraft.testing import training

    state = _trained(subject, case)
    encoder = subject.encoder(case)
    inputs = {name: x.to(device) for name, x in subject.inputs(encoder).items()}
    with backends.using(backend):
        grafted = subject.graft(encoder, case).to(device).eval()
        with torch.no_grad():
            for name, parameter in grafted.named_parameters():
                if name in state:
                    parameter.copy_(state[name])
        for _, adapter in grafted.named_adapters():
            adapter.after_step()
        loss = training.loss(grafted, grafted.encode(inputs))
        if loss.requires_grad:
            loss.backward()
    named = {name: p.grad.double().cpu() for name, p in grafted.named_parameters() if p.grad is not None}
    return {"": torch.atleast_1d(loss.detach().double().cpu()), **named}


def operations(setting: Setting) -> list[str]:
    """Every fused operation."""
    from medgraft.benchmarks.kernels.cases import CASES

    return ["bottleneck", "packed_lora"] if setting.quick else list(CASES)


def kernel(item: str, setting: Setting) -> dict[str, Any]:
    """A fused operation: the parity gate, the largest error against float64, and its speed against eager mode."""
    import statistics

    import torch

    from medgraft.benchmarks.kernels.cases import CASES
    from medgraft.benchmarks.kernels.command import one_run, parity, relative

    case, device, found = CASES[item], setting.device, dict[str, Any]()
    small = device == "cpu"
    gate = case if not small else _small(case)
    for name in case.dtypes:
        dtype = getattr(torch, name)
        exact, got = case.build(device, torch.float64, "eager", True)(), case.build(device, dtype, "fused", True)()
        errors = {part: relative(a, b) for part, a, b in zip(case.outputs, got, exact, strict=True)}
        most = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, exact, strict=True))
        steps = {form: case.build(device, dtype, form, small) for form in ("eager", "fused")}
        seconds: dict[str, list[float]] = {form: [] for form in steps}
        for turn in range(3 if small else 12):
            for form, step in steps.items():
                spent = one_run(step, device)
                if turn:  # the first compiles
                    seconds[form].append(spent)
        ratios = [a / b for a, b in zip(seconds["eager"], seconds["fused"], strict=True)]
        found[name] = {
            "wrong": parity(gate, device, dtype), "error": errors, "largest": most,
            "ms": {form: 1e3 * statistics.median(each) for form, each in seconds.items()},
            "eager_over_fused": [min(ratios), statistics.median(ratios), max(ratios)],
        }  # fmt: skip
    form = "Triton" if not small else "the CPU form on small shapes; the Triton kernel was not run"
    return {"form": form, **found, "ok": not any(each["wrong"] for each in found.values())}


def _small(case: Any) -> Any:
    import dataclasses

    return dataclasses.replace(case, build=lambda device, dtype, form, _: case.build(device, dtype, form, True))


def jobs(setting: Setting) -> list[str]:
    """One job per family."""
    return ["image"] if setting.quick else list(FAMILIES)


def job(item: str, setting: Setting, **changes: Any) -> dict[str, Any]:
    """A whole cell on a small phantom, from data to metrics; on a GPU a second time on the CPU, for the difference."""
    import numpy as np

    result, scores = _cell(item, setting, **changes)
    found: dict[str, Any] = {
        "row": list(FAMILIES[item]), "primary": result.metrics[result.primary].value, "timing": result.timing,
        "steps": result.training["steps"], "ms_per_step": 1e3 * result.training["seconds"] / result.training["steps"],
        "epoch_loss": result.training["epoch_loss"], "ops": {k: [vars(u) for u in v] for k, v in result.ops.items()},
        "memory": result.efficiency.train_step_peak_bytes,
    }  # fmt: skip
    losses = result.training["epoch_loss"]
    found["ok"] = bool(losses) and all(map(math.isfinite, losses))
    if setting.device == "cuda" and not changes and scores is not None:
        other = _cell(item, Setting("cpu", setting.quick, setting.folder))[1]
        found["largest_score_difference_from_cpu"] = float(np.abs(scores - other).max())  # dropout differs by device
    return found


def _cell(item: str, setting: Setting, **changes: Any) -> tuple[Any, Any]:
    """The result of a family's cell, and the scores of its test samples ``[n, K]``."""
    from medgraft.benchmarks.cell.job import Job
    from medgraft.benchmarks.cell.worker import run_cell
    from medgraft.benchmarks.sweep.plan import make_plan
    from medgraft.benchmarks.sweep.request import Sweep

    sweep = Sweep.model_validate({**_request(item, setting), **changes})
    plan = make_plan(sweep, Console(quiet=True))
    (cell,) = plan.cells
    result, arrays = run_cell(Job(spec=cell, root=plan.cohorts[cell.cohort.name].root), lambda text, share: None)
    return result, arrays.get("scores")


def _request(item: str, setting: Setting) -> dict[str, Any]:
    """The sweep of one cell that a family's job is."""
    from medgraft.task.names import task_class
    from medgraft.testing.phantoms import small_phantom

    adapter, task, encoder = FAMILIES[item]
    cohort = task_class(task).cohort
    return {
        "adapters": (adapter,), "tasks": (task,), "encoders": (encoder,), "seeds": (0,), "epochs": 2,
        "precision": "fp32", "device": setting.device, "data": {cohort: small_phantom(cohort)}, "baselines": False,
        "results": setting.folder / "results",
    }  # fmt: skip


PARTS: dict[str, tuple[float, Callable[[Setting], list[str]], Callable[[str, Setting], dict[str, Any]]]] = {
    "machine": (0.1, lambda _: ["facts"], facts),
    "parity": (0.2, adapters, parity),
    "kernels": (0.2, operations, kernel),
    "jobs": (0.2, jobs, job),
}
"""Part -> its share of the time, its items, and what runs one of them. What a part leaves is there for the next."""


# -- a process per part -----------------------------------------------------------------------------------------------


def work(pipe: Any, part: str, items: list[str] | None, setting: Setting) -> None:
    """In a process of its own: lists the items of a part, or runs some of them until one fails.

    Args:
        pipe: Takes the list, or ``(item, record)`` of each.
        part: Of :data:`PARTS`.
        items: To run; ``None`` lists them.
        setting: What with.
    """
    from medgraft.benchmarks.cell.job import without_folders
    from medgraft.commands.plain_text import one_line

    with open(os.devnull, "w") as nowhere:  # what libraries print would stand between the lines of the summary
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    os.environ["MEDGRAFT_CACHE"] = str(setting.folder / "cache")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tempfile.tempdir = str(
        setting.folder
    )  # phantoms are deleted at the end of a process, which this one does not reach
    listed, run = PARTS[part][1:]
    if items is None:
        pipe.send(listed(setting))
        return
    for item in items:
        start = time.perf_counter()
        try:
            found = run(item, setting)
            record = {"status": "ok" if found.pop("ok", True) else "wrong", **found}
        except NotHereError as error:
            record = {"status": "not here", "reason": str(error)}
        except BaseException as error:  # whatever a driver, a kernel or a plugin raises
            text = without_folders(str(error).replace(str(setting.folder), "TEMPORARY"))
            record = {"status": "failed", "reason": one_line(f"{type(error).__name__}: {text}", 500)}
        pipe.send((item, {**record, "seconds": round(time.perf_counter() - start, 2)}))
        if record["status"] == "failed":
            return  # an error of CUDA stays with its process


@dataclass
class Child:
    """A process of :func:`work`, started."""

    part: str
    items: list[str] | None
    setting: Setting

    def answers(self, until: float) -> Iterator[Any]:
        """What it sends, until it ends or the time is over; then it is killed."""
        # Forked processes cannot use a GPU that anything before them has touched, and spawned ones import for seconds.
        context: Any = multiprocessing.get_context("spawn" if self.setting.device == "cuda" else "forkserver")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(sender, self.part, self.items, self.setting), daemon=True)
        process.start()
        sender.close()
        try:
            while receiver.poll(max(0.0, until - time.monotonic())):
                yield receiver.recv()
        except EOFError:
            process.join(5)
            self.code = process.exitcode
        finally:
            process.kill()
            process.join()

    code: int | None = None


def run_part(part: str, setting: Setting, until: float) -> dict[str, Any]:
    """All items of a part, in as many processes as it takes."""
    start, found = time.monotonic(), dict[str, Any]()
    items = next(iter(Child(part, None, setting).answers(until)), None)
    if items is None:
        return {"status": "not run", "reason": "the time was over", "seconds": 0.0, "items": {}}
    left = list(items)
    while left and time.monotonic() < until:
        child = Child(part, left, setting)
        before = len(left)
        for item, record in child.answers(until):
            found[item] = record
            left.remove(item)
        if left and time.monotonic() >= until:
            found[left.pop(0)] = {"status": "not run", "reason": "the time was over in the middle of it"}
        elif left and (child.code != 0 or len(left) == before):
            found[left.pop(0)] = {"status": "failed", "reason": f"its process ended with code {child.code}"}
    found |= {item: {"status": "not run", "reason": "the time was over"} for item in left}
    return {"status": _whole(found), "seconds": round(time.monotonic() - start, 1), "items": found}


def _whole(items: dict[str, Any]) -> str:
    told = [each["status"] for each in items.values()]
    return next((bad for bad in ("failed", "wrong", "not run") if bad in told), "ok" if "ok" in told else "not here")


def check(setting: Setting, minutes: float, console: Console) -> dict[str, Any]:
    """Runs all parts within the time and gives the report."""
    start, share, parts = time.monotonic(), 0.0, dict[str, Any]()
    for part, (allowance, *_) in PARTS.items():
        share += allowance
        parts[part] = run_part(part, setting, start + 60 * minutes * share)
        told = ", ".join(f"{name}: {each['reason']}" for name, each in parts[part]["items"].items() if "reason" in each)
        console.print(f"{part}: {parts[part]['status']} ({parts[part]['seconds']:.0f} s) {told}", highlight=False)
    machine = parts.pop("machine")["items"].get("facts", {})
    missing = [f"{part}/{i}" for part, p in parts.items() for i, e in p["items"].items() if e["status"] == "not run"]
    missing += [part for part, each in parts.items() if each["status"] == "not run" and not each["items"]]
    bad = any(each["status"] in ("failed", "wrong") for each in (*parts.values(), machine))
    return {
        "format": FORMAT, "ok": not bad, "device": setting.device, "quick": setting.quick, "minutes": minutes,
        "seconds": round(time.monotonic() - start, 1), "machine": machine, "not_run": missing, "parts": parts,
    }  # fmt: skip


def summary(report: dict[str, Any]) -> Table:
    """A line for each part."""
    table = Table("part", "status", "ok", "other", "seconds")
    for part, each in report["parts"].items():
        good = sum(item["status"] == "ok" for item in each["items"].values())
        table.add_row(part, each["status"], str(good), str(len(each["items"]) - good), f"{each['seconds']:.0f}")
    return table


@functools.cache
def sees_gpu() -> bool:
    """Whether PyTorch sees one, asked in another process, since asking may touch it."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="JSON file to write")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that it may take")
    parser.add_argument("--quick", action="store_true", help="small and few, to try this program itself")
    options = parser.parse_args(arguments)
    console = Console()
    if options.device == "cuda" and not sees_gpu():
        console.print(
            "PyTorch sees no GPU: install a build of it for your card (pytorch.org), or try the program with "
            "--device cpu", highlight=False,
        )  # fmt: skip
        return 2
    if options.device == "cpu":
        start_fork_server()
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="medgraft-gpu-", ignore_cleanup_errors=True))
        )
        report = check(Setting(options.device, options.quick, folder), options.minutes, console)
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False, default=str) + "\n")
    console.print(summary(report))
    console.print(f"written to {options.out}; how to send it: docs/how-to/gpu.md", highlight=False)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
