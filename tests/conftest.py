"""For every test: no network, a cache of its own, one thread."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from pathlib import Path

# Read by NumPy's and SciPy's libraries when they are loaded: tests run side by side, and their threads would wait.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
import torch

# Read by the hub's client and by the harness when they are imported, so it must happen before any test is collected.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("MEDGRAFT_DISABLE_PLUGINS", None)
_cache = tempfile.TemporaryDirectory(prefix="medgraft-test-cache-")
os.environ["MEDGRAFT_CACHE"] = _cache.name

torch.set_num_threads(1)
# Imports of libraries and sixteen thousand tests are millions of objects, and next to none of them is garbage.
gc.disable()
# A script's `nohup make test &` ignores Ctrl-C, children inherit that, and commands rightly say so.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_fork_server():
    """Commands end it where an error comes or nothing is left to run; here the next one would have it import again.

    Its workers have the environment that it started with, so a test that changes a variable does not reach them.
    """
    from medgraft.benchmarks.launch import local, warm_start

    with pytest.MonkeyPatch.context() as patch:
        for module in (local, warm_start):
            patch.setattr(module, "end_fork_server", lambda: None)
        yield


@pytest.fixture
def seeded():
    """Fixed random state inside, the old one after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """What a test did to PyTorch's threads ends with it; head choice gives as many to NumPy, and they would wait."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def shared_encoders_stay():
    """A test that leaves a shared encoder changed fails itself, not whichever comes after it in its process."""
    yield
    encoders = sys.modules.get("tiny_encoders")  # no test of this process has asked for one otherwise
    if encoders is not None and (changed := encoders.changed_encoders()):
        pytest.fail(f"the test changed the shared encoders {changed}: take tiny_encoders.fresh(name) instead")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take minutes first: one of them started last keeps one process busy while the others wait.

    They say how many seconds of an idle core they take, ``slow(seconds=...)``. All processes get the same order.
    """
    seconds: dict[Path, float] = {}
    for item in items:
        for marker in item.iter_markers("slow"):
            seconds[item.path] = max(seconds.get(item.path, 0), marker.kwargs.get("seconds", 1))
    items.sort(key=lambda item: -seconds.get(item.path, 0))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What was imported and collected stays to the end; the collector would look through all of it, test for test."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    _cache.cleanup()
