"""Workers keep the memory that a step frees; who has settings of their own keeps those."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from medgraft.benchmarks.launch.warm_start import SETTINGS, children_keep_memory, keeping_memory

VARIABLE = "GLIBC_TUNABLES"

PAGES = """
import resource
def step():
    kept = [bytearray(8 << 20) for _ in range(12)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_environment_is_as_before_afterwards(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with children_keep_memory():
        assert {name: os.environ[name] for name in SETTINGS} == SETTINGS
    assert dict(os.environ) == before


def test_settings_of_ones_own_stay(monkeypatch):
    monkeypatch.setenv(VARIABLE, "glibc.malloc.arena_max=1")
    with children_keep_memory():
        assert os.environ[VARIABLE] == "glibc.malloc.arena_max=1"
    assert os.environ[VARIABLE] == "glibc.malloc.arena_max=1"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_second_step_asks_the_system_for_nothing():
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    faults = [
        int(subprocess.run([sys.executable, "-c", PAGES], env=env, capture_output=True, text=True, check=True).stdout)
        for env in (plain, keeping_memory(plain))
    ]
    # Without them the 96 MiB are mapped anew, page by page: 24576 pages of 4 KiB, fewer where pages are larger.
    assert faults[1] < faults[0] / 10


SERVER = """
import time
from multiprocessing import forkserver
from pathlib import Path
from medgraft.benchmarks.launch.warm_start import end_fork_server, start_fork_server
start_fork_server()
place, end = Path(f"/proc/{forkserver._forkserver._forkserver_pid}/environ"), time.time() + 10
while b"THP_MEM" not in (told := place.read_bytes()) and time.time() < end:  # empty while the process starts
    time.sleep(0.01)
print(told)
end_fork_server()
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc to look into another process")
def test_the_fork_server_gets_them(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    done = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=120, check=True)
    # glibc cuts its variable into pieces where it stands, so only the first is still to be seen.
    assert all(f"{name}={value.split(':')[0]}" in done.stdout for name, value in SETTINGS.items())
