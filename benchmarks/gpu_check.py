"""Everything that no GPU has run yet, in one command and under eight minutes: ``python -m benchmarks.gpu_check``.

Parity of every adapter with the CPU, the fused kernels, one whole job per family, the launcher, CUDA graphs, reading
ahead, stacked seeds, bf16 and fp8. The outcome is one JSON file without names of users, hosts or folders, for whoever
has no such card. Each part has an allowance of the time; what one leaves is there for the next, and what was not
reached is named. Parts run in processes of their own, since an error of CUDA spoils its process: the next one goes on
behind the item that failed.

The file is written behind every part, so that whatever ends the program costs no more than one. Exit code 0 if all that
ran is as it should be, 1 if not, 2 if nothing could run (no GPU, or a file that cannot be written), 130 after Ctrl-C or
the SIGTERM of a time limit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
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
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.commands.console import BAD_INPUT, INTERRUPTED, say
from medgraft.errors import MedgraftError

FORMAT = 1
"""Version of the JSON; raised when a field changes its meaning."""

MINUTES = 7.5

METHOD = {"cuda": "spawn", "cpu": "forkserver"}
"""How processes start: forked ones cannot use a GPU that anything before them has touched, spawned ones import for
seconds."""

PARTS: dict[str, tuple[float, Callable[[Setting], list[str]], Callable[[str, Setting], dict[str, Any]]]] = {
    "machine": (0.06, lambda _: ["facts"], facts),
    "parity": (0.2, adapters, parity),
    "kernels": (0.2, operations, kernel),
    "jobs": (0.26, jobs, job),
    "read ahead": (0.03, lambda _: ["tokens"], ahead),
    "stacked seeds": (0.06, stackable, stacked),
    "precision": (0.09, precisions, precision),
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
    from medgraft.benchmarks.measure.environment import use_threads

    with open(os.devnull, "w") as nowhere:  # what libraries print would stand between the lines of the summary
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    os.environ |= {"MEDGRAFT_CACHE": str(setting.folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    tempfile.tempdir = str(setting.folder)  # small phantoms go with it
    use_threads(1)
    listed, run = PARTS[part][1:]
    try:
        items = listed(setting)
    except BaseException as error:  # as below
        pipe.send([part])
        pipe.send((part, {"status": "failed", "reason": _told(error, setting)}))
        return
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
            record = {"status": "failed", "reason": _told(error, setting)}
        record = {name: _clean(each, setting) if isinstance(each, str) else each for name, each in record.items()}
        pipe.send((item, {**record, "seconds": round(time.perf_counter() - start, 2)}))
        if record["status"] == "failed":
            return  # an error of CUDA stays with its process


def _told(error: BaseException, setting: Setting) -> str:
    """An error in one line, without folders of this machine."""
    return _clean(f"{type(error).__name__}: {error}", setting)


def _clean(text: str, setting: Setting) -> str:
    from medgraft.benchmarks.cell.job import without_folders
    from medgraft.commands.plain_text import one_line

    return one_line(without_folders(text.replace(str(setting.folder), "TEMPORARY")), 500)


def answers(part: str, done: list[str], setting: Setting, until: float) -> Iterator[Any]:
    """What a process of :func:`work` sends, until it ends or the time is over, when it is killed.

    The last is its exit code, or ``None`` where the time was over.
    """
    context: Any = multiprocessing.get_context(METHOD[setting.device])
    receiver, sender = context.Pipe(duplex=False)
    there = import_module("medgraft.benchmarks.gpu_check").work  # by that name, also where this file is the program
    process = context.Process(target=there, args=(sender, part, done, setting))
    with _deaf():  # and so is the process, from its first moment: what Ctrl-C means is decided here
        process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            yield receiver.recv()
        yield None
    except EOFError:
        process.join(5)
        yield process.exitcode or 0  # what has said all and does not come to its end is ended here
    finally:
        process.kill()
        process.join(5)  # one that a driver holds does not end of that, and must not hold this one


def run_part(part: str, setting: Setting, until: float, found: dict[str, Any]) -> None:
    """All items of a part, in as many processes as it takes.

    Args:
        part: Of :data:`PARTS`.
        setting: What with.
        until: When it is to end, of ``time.monotonic``.
        found: Takes the record of each item. On Ctrl-C, which is passed on, it has all of them, too.
    """
    left, why = [part], "the time was over"  # the part stands for its items until a process has listed them
    try:
        while left:
            listed, code, before = False, None, len(found)
            items = left
            for answer in answers(part, list(found), setting, until):
                if isinstance(answer, list):
                    listed, items = True, answer
                elif isinstance(answer, tuple):
                    found[answer[0]] = answer[1]
                else:
                    code = answer
                left = [item for item in items if item not in found]
            last = next(reversed(found.values()), {})
            if code is None:
                if listed and left:
                    found[left.pop(0)] = {"status": "not run", "reason": "it had not ended when the time was over"}
                break
            # Of an error of CUDA a process may also fall when it ends, behind the item that has reported it.
            fell = code != 0 and not (len(found) > before and last.get("status") == "failed")
            if left and (fell or len(found) == before):  # it fell over something that it could not report
                found[left.pop(0)] = {"status": "failed", "reason": f"its process ended with code {code}"}
                left = left if listed else []
    except KeyboardInterrupt:
        why = "interrupted"
        raise
    finally:
        found |= {item: {"status": "not run", "reason": why} for item in left}


def _whole(items: dict[str, Any]) -> str:
    told = [each["status"] for each in items.values()]
    return next((bad for bad in ("failed", "wrong", "not run") if bad in told), "ok" if "ok" in told else "not here")


def check(
    setting: Setting,
    minutes: float,
    console: Console,
    keep: Callable[[dict[str, Any]], None],
    wanted: Sequence[str] = tuple(PARTS),
) -> bool:
    """Runs parts, the machine's facts in any case, within the time; whether it came to its end.

    Args:
        setting: What with.
        minutes: That it may take.
        console: Is told of each part.
        keep: Called with the report behind each part.
        wanted: Parts.
    """
    start, share, parts = time.monotonic(), 0.0, dict[str, Any]()
    asked = {part: PARTS[part][0] for part in PARTS if part in wanted or part == "machine"}
    for part, allowance in asked.items():
        share += allowance / sum(asked.values())
        began, items, interrupted = time.monotonic(), dict[str, Any](), False
        try:
            run_part(part, setting, start + 60 * minutes * share, items)
        except KeyboardInterrupt:
            interrupted = True
        seconds = time.monotonic() - began
        parts[part] = {"status": _whole(items), "seconds": round(seconds, 1), "items": items}
        report = _report(parts, wanted, "interrupted" if interrupted else "the program ended before")
        keep(
            {"format": FORMAT, "device": setting.device, "quick": setting.quick, "minutes": minutes}
            | {"seconds": round(time.monotonic() - start, 1), **report}
        )
        if interrupted:
            return False
        console.print(f"{part}: {parts[part]['status']}, {seconds:.0f} s", highlight=False)
        for item, each in items.items():
            if each["status"] in ("failed", "wrong"):
                console.print(f"  {item}: {each['status']}, {each.get('reason', 'see the JSON')}", highlight=False)
    return True


def _report(ran: dict[str, Any], wanted: Sequence[str], why: str) -> dict[str, Any]:
    """What the parts so far say; the ones that are to come have not run."""
    facts_or_why = ran.get("machine", {}).get("items", {})
    machine = facts_or_why.get("facts") or next(iter(facts_or_why.values()), {"status": "not run"})
    parts = {part: each for part, each in ran.items() if part != "machine"}
    for part in PARTS:
        if part in wanted and part not in ran:
            items = {part: {"status": "not run", "reason": why}}
            parts[part] = {"status": "not run", "seconds": 0.0, "items": items}
    missing = [f"{part}/{i}" for part, p in parts.items() for i, e in p["items"].items() if e["status"] == "not run"]
    bad = any(each.get("status") in ("failed", "wrong") for each in (*parts.values(), machine))
    return {"ok": not bad, "machine": machine, "not_run": missing, "parts": parts}


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
    try:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=90).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def write(report: dict[str, Any], path: Path) -> None:
    """Writes a report, whole or not at all."""
    text = json.dumps(storable(report), indent=1, allow_nan=False, default=str) + "\n"
    write_atomically(path, lambda handle: handle.write(text.encode()))


def require_writable(path: Path) -> None:
    """Raises :class:`MedgraftError` where no file can be written, before minutes are spent on what goes into it."""
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.TemporaryFile(dir=path.parent) as handle:
            handle.write(b"x")
    except OSError as error:
        told = error.strerror or error
        raise MedgraftError(f"--out {path} cannot be written ({told}); choose a file in a folder of yours") from error


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C is ignored, also by a process that is started inside."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """The first Ctrl-C, or the SIGTERM of a time limit, raises ``KeyboardInterrupt``; later ones do not disturb it."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]  # of ``nohup``

    def stop(*_: Any) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def minutes_of(text: str) -> float:
    """The value of ``--minutes``: a number above 0 and up to a day."""
    if not 0 < (minutes := float(text)) <= 1440:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1440")
    return minutes


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="JSON file to write")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="may be repeated; all by default")
    parser.add_argument("--minutes", type=minutes_of, default=MINUTES, help="that it may take")
    parser.add_argument("--quick", action="store_true", help="small and few, to try this program itself")
    options = parser.parse_args(arguments)
    try:
        with stoppable():
            return run(options)
    except MedgraftError as error:
        say(f"error: {error}")
        return BAD_INPUT
    except KeyboardInterrupt:  # before the first part
        say("interrupted")
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Checks what was asked for, and writes and shows what was found; the exit code.

    Raises:
        MedgraftError: There is no GPU, or nothing can be written.
    """
    console, report = Console(markup=False), dict[str, Any]()  # errors hold brackets of their own
    require_writable(options.out)
    if options.device == "cuda" and not sees_gpu():
        raise MedgraftError(
            "PyTorch sees no GPU: install a build of it for your card (pytorch.org), or try the program with "
            "--device cpu"
        )
    if METHOD[options.device] == "forkserver":
        start_fork_server()

    def keep(found: dict[str, Any]) -> None:
        report.update(found)
        write(report, options.out)

    with tempfile.TemporaryDirectory(prefix="medgraft-gpu-", ignore_cleanup_errors=True) as folder:
        setting = Setting(options.device, options.quick, Path(folder))
        ended = check(setting, options.minutes, console, keep, options.part or list(PARTS))
    if not ended:
        console.print(f"interrupted; what was done is written to {options.out}", highlight=False, soft_wrap=True)
        return INTERRUPTED
    console.print(summary(report))
    console.print(f"written to {options.out}; how to send it: docs/how-to/gpu.md", highlight=False)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
