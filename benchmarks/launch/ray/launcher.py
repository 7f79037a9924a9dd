"""The launcher ``ray``: cells run as tasks of a Ray cluster that is there, or of one that is started for the sweep.

A task runs the worker's command on a node that sees the folder of the results; Ray carries the command and its exit
code, and nothing else. Tasks that read the same frozen features go to the node where the first of them has made them,
as long as it has room. What a sweep does not know is Ray's: how many nodes there are, and whether there will be more.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgraft.benchmarks.launch.ray.handle import RayHandle
from medgraft.benchmarks.launch.ray.link import LostRayError, RayLink
from medgraft.benchmarks.launch.ray.options import LOCAL, RayConfig
from medgraft.errors import ConfigError, MedgraftError
from medgraft.launcher import Handle, Job, Launcher, LauncherConfig, Resources

logger = logging.getLogger(__name__)

QUIET_WITHIN = 15.0
"""Seconds in which what was cancelled must have said that it ended; a node that is lost never does."""

REMEDY = "start one with `ray start --head`, or give its address with --set ray.address=HOST:PORT"


class RayLauncher(Launcher):
    """Tasks of a Ray cluster; its nodes need the same packages, and see the folder of results."""

    Config = RayConfig
    one_machine = False
    config: RayConfig

    def __init__(self, config: LauncherConfig, resources: Resources) -> None:
        super().__init__(config, resources)
        self.needs = self.config.needs(resources)
        self.environment = self.config.environment()
        self.handles: dict[str, RayHandle] = {}
        self.link: RayLink | None = None
        self.homes: dict[str, str] = {}
        self.count = 0

    @classmethod
    def missing(cls) -> str:
        """What it lacks here."""
        if importlib.util.find_spec("ray") is None:
            return "it needs ray; install it with: pip install 'medgraft[ray]'"
        return ""

    def check(self) -> None:
        """Asks the cluster whether it is there; one that is yet to be started, whether this machine has the cores.

        Raises:
            ConfigError: It is not.
        """
        cores, cpus = os.cpu_count() or 1, self.needs["num_cpus"]
        if self.config.where() == LOCAL and cpus > cores:
            raise ConfigError(f"a task of launcher 'ray' needs {cpus:g} cores and this machine has {cores}")
        if self.config.where() != LOCAL:
            try:
                link, nodes = self._connected()
            except MedgraftError as error:
                raise ConfigError(f"{error}; nothing was submitted") from error
            link.close()
            if not any(all(node.get(name, 0) >= count for name, count in self._asked()) for node in nodes):
                wanted = ", ".join(f"{name}: {count:g}" for name, count in self._asked())
                logger.warning("no node of the Ray cluster has %s; jobs wait until an autoscaler adds one", wanted)

    def slots(self) -> int:
        """Tasks that are submitted at once."""
        return self.resources.jobs or self.config.queued

    def submit(self, job: Job) -> RayHandle:
        """Puts a job in line.

        Raises:
            MedgraftError: There is no cluster.
        """
        if self.link is None:
            self.link, _ = self._connected()
        self.count += 1
        handle = RayHandle(job, str(self.count), self.config.restarts, self.end)
        self.handles[handle.name] = handle
        return handle

    def wait(self, handles: Sequence[Handle], seconds: float) -> None:
        """Submits what is in line, and hears what has ended.

        Raises:
            MedgraftError: The cluster is gone.
        """
        self.handles = {name: handle for name, handle in self.handles.items() if handle.exit is None}
        self._send()
        self._hear(seconds)

    def end(self, handle: RayHandle) -> None:
        """Cancels a task, and returns when nothing of it runs, or its node does not say so in time."""
        if handle.in_ray and self.link is not None:
            self.link.say({"cancel": [handle.name]})
            self._until_quiet([handle])

    def close(self) -> None:
        """Cancels every task of this launcher, and leaves the cluster."""
        if self.link is not None:
            self.link.close()
            self._until_quiet([handle for handle in self.handles.values() if handle.in_ray])
        self.link, self.handles = None, {}

    def _connected(self) -> tuple[RayLink, list[dict[str, float]]]:
        """A link to the cluster, and what its nodes have.

        Raises:
            MedgraftError: There is none.
        """
        where = self.config.where()
        link = RayLink(where)
        try:
            return link, link.first(self.config.connect)["nodes"]
        except LostRayError as error:
            link.close()
            what = "no Ray could be started here" if where == LOCAL else f"no Ray cluster answers at {where!r}"
            raise MedgraftError(f"{what} ({error}); {REMEDY}") from error
        except BaseException:
            link.close()
            raise

    def _asked(self) -> list[tuple[str, float]]:
        """What a task needs, by the names in Ray's list of nodes."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        plain = {names[name]: value for name, value in self.needs.items() if name in names}
        return list((plain | self.config.resources).items())

    def _send(self) -> None:
        """Submits what is in line; of a group without a home the first alone, the others once that has started."""
        for handle in self.handles.values():
            self._note_home(handle)
        first = {handle.job.group for handle in self.handles.values() if handle.in_ray}
        for handle in [each for each in self.handles.values() if each.in_line]:
            group = handle.job.group
            if not group or group in self.homes or group not in first:
                first.add(group)
                self._say({"submit": self._task(handle)})
                handle.submitted = True

    def _note_home(self, handle: RayHandle) -> None:
        if handle.job.group and (node := handle.home()):
            self.homes.setdefault(handle.job.group, node)

    def _task(self, handle: RayHandle) -> dict[str, Any]:
        job = handle.job
        return {
            "id": handle.name,
            "name": job.name,
            "needs": self.needs,
            "home": self.homes.get(job.group, ""),
            "arguments": [list(job.command), str(job.folder), handle.attempt, self.environment],
        }

    def _hear(self, seconds: float) -> None:
        assert self.link is not None
        try:
            ends = self.link.hear(seconds)
        except LostRayError as error:
            raise self._gone(error) from error
        for end in ends:
            handle = self.handles.get(end["ended"])
            if handle is not None:
                self._note_home(handle)
                if end["how"] == "lost":  # its node may be, too
                    self.homes.pop(handle.job.group, None)
                handle.ended(end)

    def _say(self, message: dict[str, Any]) -> None:
        assert self.link is not None
        try:
            self.link.say(message)
        except LostRayError as error:
            raise self._gone(error) from error

    def _gone(self, error: LostRayError) -> MedgraftError:
        return MedgraftError(
            f"the Ray cluster at {self.config.where()!r} is gone ({error}); what was finished is stored, and the same "
            "command goes on from there once the cluster is back"
        )

    @staticmethod
    def _until_quiet(handles: Sequence[RayHandle]) -> None:
        end = time.monotonic() + QUIET_WITHIN
        while not all(handle.quiet() for handle in handles):
            if time.monotonic() > end:
                folders = ", ".join(Path(handle.job.folder).name for handle in handles if not handle.quiet())
                logger.warning("a node does not say that its tasks have ended: %s", folders)
                return
            time.sleep(0.05)
