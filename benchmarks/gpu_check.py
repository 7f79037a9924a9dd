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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medgraft.benchmarks.gpu.jobs import job, jobs, precision, precisions
from medgraft.benchmarks.gpu.operations import kernel, operations
from medgraft.benchmarks.gpu.parity import adapters, parity
from medgraft.benchmarks.gpu.setting import NotHereError, Setting, facts
from medgraft.benchmarks.gpu.steps import ahead, graphs, stackable, stacked
from medgraft.benchmarks.launch.warm_start import start_fork_server

FORMAT = 1
"""Version of the JSON; raised when a field changes its meaning."""

MINUTES = 7.5

PARTS: dict[str, tuple[float, Callable[[Setting], list[str]], Callable[[str, Setting], dict[str, Any]]]] = {
    "machine": (0.1, lambda _: ["facts"], facts),
    "parity": (0.2, adapters, parity),
    "kernels": (0.2, operations, kernel),
    "jobs": (0.2, jobs, job),
    "read ahead": (0.03, lambda _: ["tokens"], ahead),
    "stacked seeds": (0.07, stackable, stacked),
    "precision": (0.1, precisions, precision),
    "graphs": (0.1, stackable, graphs),
}
"""Part -> its share of the time, its items, and what runs one of them. What a part leaves is there for the next."""


# -- a process per part -----------------------------------------------------------------------------------------------


def work(pipe: Any, part: str, done: list[str], setting: Setting) -> None:
    """In a process of its own: lists the items of a part, and runs them until one fails.

    Args:
        pipe: Takes the list, and then ``(item, record)`` of each.
        part: Of :data:`PARTS`.
        done: Items that are left out.
        setting: What with.
    """
    from medgraft.benchmarks.cell.job import without_folders
    from medgraft.benchmarks.measure.environment import use_threads
    from medgraft.commands.plain_text import one_line

    with open(os.devnull, "w") as nowhere:  # what libraries print would stand between the lines of the summary
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    os.environ |= {"MEDGRAFT_CACHE": str(setting.folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    tempfile.tempdir = str(setting.folder)  # small phantoms go with it
    use_threads(1)
    listed, run = PARTS[part][1:]
    items = listed(setting)
    pipe.send(items)
    for item in items:
        if item in done:
            continue
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


def answers(part: str, done: list[str], setting: Setting, until: float) -> Iterator[Any]:
    """What a process of :func:`work` sends, until it ends or the time is over, when it is killed.

    The last is its exit code, or ``None`` where the time was over.
    """
    # Forked processes cannot use a GPU that anything before them has touched, and spawned ones import for seconds.
    context: Any = multiprocessing.get_context("spawn" if setting.device == "cuda" else "forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, part, done, setting))
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            yield receiver.recv()
        yield None
    except EOFError:
        process.join(5)
        yield process.exitcode
    finally:
        process.kill()
        process.join()


def run_part(part: str, setting: Setting, until: float) -> dict[str, Any]:
    """All items of a part, in as many processes as it takes."""
    start, found = time.monotonic(), dict[str, Any]()
    left = [part]  # until the first process has listed its items
    while left:
        *records, code = answers(part, list(found), setting, until)
        if records:
            found |= dict(records[1:])
            left = [item for item in records[0] if item not in found]
        if code is None:
            break
        if left and (code != 0 or len(records) < 2):  # it fell over something that it could not report
            found[left.pop(0)] = {"status": "failed", "reason": f"its process ended with code {code}"}
            left = left if records else []
    found |= {item: {"status": "not run", "reason": "the time was over"} for item in left}
    return {"status": _whole(found), "seconds": round(time.monotonic() - start, 1), "items": found}


def _whole(items: dict[str, Any]) -> str:
    told = [each["status"] for each in items.values()]
    return next((bad for bad in ("failed", "wrong", "not run") if bad in told), "ok" if "ok" in told else "not here")


def check(setting: Setting, minutes: float, console: Console, wanted: Sequence[str] = tuple(PARTS)) -> dict[str, Any]:
    """Runs parts, the machine's facts in any case, within the time, and gives the report."""
    start, share, parts = time.monotonic(), 0.0, dict[str, Any]()
    for part, (allowance, *_) in PARTS.items():
        share += allowance
        if part not in wanted and part != "machine":
            continue
        parts[part] = run_part(part, setting, start + 60 * minutes * share)
        console.print(f"{part}: {parts[part]['status']}, {parts[part]['seconds']:.0f} s", highlight=False)
        for item, each in parts[part]["items"].items():
            if each["status"] in ("failed", "wrong"):
                console.print(f"  {item}: {each['status']}, {each.get('reason', 'see the JSON')}", highlight=False)
    machine = parts.pop("machine")["items"].get("facts", {})
    missing = [f"{part}/{i}" for part, p in parts.items() for i, e in p["items"].items() if e["status"] == "not run"]
    bad = any(each["status"] in ("failed", "wrong") for each in (*parts.values(), machine))
    return {
        "format": FORMAT, "ok": not bad, "device": setting.device, "quick": setting.quick, "minutes": minutes,
        "seconds": round(time.monotonic() - start, 1), "machine": machine, "not_run": missing, "parts": parts,
    }  # fmt: skip


def storable(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: they become texts.

    Example:
        >>> storable({"gap": [float("nan"), 1.0]})
        {'gap': ['nan', 1.0]}
    """
    if isinstance(value, dict):
        return {name: storable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [storable(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
    parser.add_argument("--part", action="append", choices=list(PARTS), help="may be repeated; all by default")
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
        report = check(
            Setting(options.device, options.quick, folder), options.minutes, console, options.part or list(PARTS)
        )
    options.out.write_text(json.dumps(storable(report), indent=1, allow_nan=False, default=str) + "\n")
    console.print(summary(report))
    console.print(f"written to {options.out}; how to send it: docs/how-to/gpu.md", highlight=False)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
