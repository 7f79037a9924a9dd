"""Tries plugins out: each is imported in a process of its own, so that none can print, exit, crash or hang here.

``python -m medgraft.plugins.trials`` is the other side: it reads a request on its standard input, imports what most
plugins import (torch, the contracts), forks once per plugin, and writes one JSON line per plugin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from medgraft.errors import PluginError
from medgraft.plugins import DISABLE_VARIABLE, GROUPS, Kind, Plugin, load, survey

LIMIT = 10.0
"""Seconds that a plugin may take to import."""
OUTPUT = 2000
"""Characters of a plugin's own output that are kept, counted from the end."""

PRELOADED = (
    "medgraft.adapter",
    "medgraft.encoder",
    "medgraft.task",
    "pandas",
    "sklearn.model_selection",
)
"""What most plugins import; imported once, it costs none of them its time."""

Outcome = Literal["loaded", "failed", "died", "hung", "refused"]


@dataclass(frozen=True)
class Finding:
    """What became of one plugin.

    Attributes:
        plugin: The plugin.
        outcome: ``loaded``; ``failed`` with an error; ``died`` with its process; ``hung`` past the limit; ``refused``
            because no name leads to it, so that it was not tried.
        message: What happened, in words; empty for ``loaded``.
        remedy: What a user can do about it; empty for ``loaded``.
        output: The end of what it printed while it was imported, standard error included.
    """

    plugin: Plugin
    outcome: Outcome
    message: str = ""
    remedy: str = ""
    output: str = ""


def problems(kinds: Iterable[Kind] = tuple(GROUPS), limit: float = LIMIT) -> list[Finding]:
    """Every installed plugin that cannot be used, with the reason.

    Args:
        kinds: Which kinds to look at.
        limit: Seconds that each plugin may take to import.
    """
    surveys = [survey(kind) for kind in kinds]
    findings = [
        Finding(each.plugin, "refused", each.reason, each.remedy)
        for kind_survey in surveys
        for each in kind_survey.refused
    ]
    tried = probe([plugin for kind_survey in surveys for plugin in kind_survey.usable.values()], limit)
    return findings + [finding for finding in tried if finding.outcome != "loaded"]


def probe(plugins: Sequence[Plugin], limit: float = LIMIT) -> list[Finding]:
    """Imports each plugin in a process of its own.

    Args:
        plugins: The plugins.
        limit: Seconds that each may take.

    Returns:
        One finding per plugin, in their order.

    Raises:
        PluginError: The probing process itself could not start, for example because torch cannot be imported.
    """
    request = {
        "path": sys.path,
        "environment": os.environ.get("PYTHONPATH"),
        "limit": limit,
        "plugins": [dataclasses.asdict(plugin) for plugin in plugins],
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "medgraft.plugins.trials"],  # -P: what lies in the current folder is not installed
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        out, error = process.communicate(json.dumps(request))
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        last = (error.strip().splitlines() or ["no message"])[-1]
        raise PluginError(f"plugins cannot be tried out: the process that imports them failed: {last}")
    answers = {answer.pop("index"): answer for answer in map(json.loads, out.splitlines())}
    return [_finding(plugin, answers[index], limit) for index, plugin in enumerate(plugins)]


def _finding(plugin: Plugin, answer: dict[str, Any], limit: float) -> Finding:
    outcome, message, output = answer["outcome"], answer["message"], answer["output"]
    if outcome == "loaded":
        return Finding(plugin, outcome, output=output)
    return Finding(plugin, outcome, message, _remedy(plugin, outcome, message, limit), output)


def _remedy(plugin: Plugin, outcome: Outcome, message: str, limit: float) -> str:
    without = f"or set {DISABLE_VARIABLE}={plugin.name}"
    if outcome == "hung":
        return f"give it more than {limit:g} s with --limit" + ("" if plugin.builtin else f", {without}")
    if plugin.builtin:
        return "install medgraft and its dependencies again"
    if missing := re.search(r"No module named '([^']+)'", message):
        return f"install {missing[1].partition('.')[0]}, or {plugin.distribution} again, {without}"
    if "api_version" in message:
        return f"install a matching release of {plugin.distribution}, {without}"
    return f"tell the authors of {plugin.distribution}, {without}"


# -- the process that forks -------------------------------------------------------------------------------------------


@dataclass
class _Trial:
    """A plugin that is being imported by the process ``pid``, whose answer comes through a pipe."""

    index: int
    pid: int
    answer: int
    output: IO[bytes]
    deadline: float


def _start(index: int, plugin: Plugin, limit: float) -> _Trial:
    answer, write = os.pipe()
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _end
    pid = os.fork()
    if pid:
        os.close(write)
        return _Trial(index, pid, answer, output, time.monotonic() + limit)
    try:
        os.setsid()  # whatever it starts ends with it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(int(limit) + 30)  # and it ends even if the process that waits for it is killed
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.write(write, json.dumps(_attempt(plugin)).encode())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _attempt(plugin: Plugin) -> tuple[Outcome, str]:
    try:
        load(plugin)
    except PluginError as error:
        whole = str(error)
        return "failed", (whole.partition(f"{plugin.distribution} {plugin.version}) ")[2] or whole)[:OUTPUT]
    except KeyboardInterrupt:
        return "failed", "raises KeyboardInterrupt while it is imported"
    return "loaded", ""


def _end(trial: _Trial, limit: float) -> dict[str, Any]:
    """Ends a trial that answered, died or ran out of time."""
    late = not select.select([trial.answer], [], [], 0)[0]
    answer = b"" if late else os.read(trial.answer, 1 << 16)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(trial.pid, signal.SIGKILL)
    _, status = os.waitpid(trial.pid, 0)
    os.close(trial.answer)
    trial.output.seek(0)
    printed = trial.output.read().decode(errors="replace").strip()[-OUTPUT:]
    trial.output.close()
    if answer:
        outcome, message = json.loads(answer)
    elif late:
        outcome, message = "hung", f"did not finish importing within {limit:g} s"
    else:
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        outcome, message = "died", f"ended its process while it was imported ({how})"
    return {"index": trial.index, "outcome": outcome, "message": message, "output": printed}


def _trials(plugins: Sequence[Plugin], limit: float) -> Iterator[dict[str, Any]]:
    """Imports the plugins, a few at a time; one answer each, as they come."""
    waiting, running = list(enumerate(plugins)), dict[int, _Trial]()
    at_once = max(1, min(4, os.cpu_count() or 1))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                trial = _start(*waiting.pop(0), limit)
                running[trial.answer] = trial
            patience = min(trial.deadline for trial in running.values()) - time.monotonic()
            ready, _, _ = select.select(list(running), [], [], max(0.0, patience))
            late = [pipe for pipe, trial in running.items() if trial.deadline <= time.monotonic()]
            for pipe in dict.fromkeys([*ready, *late]):
                yield _end(running.pop(pipe), limit)
    finally:
        for trial in running.values():
            _end(trial, limit)


def _leave(*_: Any) -> None:
    sys.exit(1)


def main() -> None:
    """Answers the request on standard input with one JSON line per plugin."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    os.environ.pop("PYTHONPATH", None)
    if request["environment"] is not None:
        os.environ["PYTHONPATH"] = request["environment"]
    signal.signal(signal.SIGTERM, _leave)  # so that what was forked is ended too
    for module in PRELOADED:
        importlib.import_module(module)
    sys.stdout.flush()
    for answer in _trials([Plugin(**fields) for fields in request["plugins"]], request["limit"]):
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
