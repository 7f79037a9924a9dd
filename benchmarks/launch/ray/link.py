"""The link to the process that talks to Ray, :mod:`medgraft.benchmarks.launch.ray.driver`."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError

DRIVER = "medgraft.benchmarks.launch.ray.driver"

ENDS_WITHIN = 30.0
"""Seconds in which it must end that was told to; a local cluster ends with it."""


class LostRayError(MedgraftError):
    """The process has ended, or does not answer."""


class RayLink:
    """Starts the process, which lives until :meth:`close` or the end of this one.

    Args:
        address: Of the cluster.
    """

    def __init__(self, address: str) -> None:
        self.address, self.buffer = address, b""
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the link
        self.process = subprocess.Popen(
            [sys.executable, "-m", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,  # Ctrl-C reaches it through close()
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.say({"connect": {"address": address}})

    def say(self, message: dict[str, Any]) -> None:
        """Sends a line.

        Raises:
            LostRayError: Nobody is there.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self._lost() from error

    def hear(self, seconds: float) -> list[dict[str, Any]]:
        """Lines that have come, at once where there are some, else those of the next seconds.

        Raises:
            LostRayError: Nobody is there any more.
        """
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return []
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        if not data:
            raise self._lost()
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def first(self, seconds: float) -> dict[str, Any]:
        """The first line, on whether there is a cluster.

        Raises:
            LostRayError: There is none.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for message in self.hear(left):
                if "refused" in message:
                    raise LostRayError(message["refused"])
                return message["ready"]
        raise LostRayError(f"no answer within {seconds:g} s")

    def close(self) -> None:
        """Has it cancel every task and end; returns when it has."""
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()

    def _lost(self) -> LostRayError:
        """What its end means, with the last of its words."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS_WITHIN)
        self.errors.seek(0)
        words = self.errors.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        said = one_line(words[-1], 300) if words else f"exit code {self.process.poll()}"
        return LostRayError(said)
