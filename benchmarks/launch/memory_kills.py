"""Whether the kernel killed a process for lack of memory, by its own count."""

from __future__ import annotations

import re
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
MACHINE = Path("/proc/vmstat")


class MemoryKills:
    """Counts the kills for lack of memory that have not been told yet.

    The count is that of this process's control group (version 2: ``memory.events``; version 1: ``memory.oom_control``),
    or where that has none, of the machine (``/proc/vmstat``). See the kernel's Documentation/admin-guide/cgroup-v2.rst.
    """

    def __init__(self) -> None:
        self.source = next((path for path in _sources() if _count(path) is not None), None)
        self.count = self._now()

    def took_one(self) -> bool:
        """Whether there was a kill that no earlier call has answered for."""
        if self._now() > self.count:
            self.count += 1
            return True
        return False

    def _now(self) -> int:
        return 0 if self.source is None else _count(self.source) or 0


def _sources() -> list[Path]:
    """Files that may hold the count, the most specific first."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        place = group.lstrip("/")
        if controllers == "":
            files.append(CGROUPS / place / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(CGROUPS / "memory" / place / "memory.oom_control")
    # In a container the group's own path may be that of the machine outside.
    return [*files, CGROUPS / "memory.events", CGROUPS / "memory" / "memory.oom_control", MACHINE]


def _count(path: Path) -> int | None:
    try:
        match = re.search(r"^oom_kill (\d+)$", path.read_text(), re.M)
    except OSError:
        return None
    return None if match is None else int(match[1])
