"""What workers find imported, and what the launcher does without."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from medgraft.benchmarks.garbage import uncollected
from medgraft.benchmarks.launch.warm_start import EVERY_CELL

FORKED = """
import gc, multiprocessing, sys
from medgraft.benchmarks.launch.warm_start import end_fork_server, start_fork_server

def look(pipe):
    pipe.send((gc.isenabled(), gc.get_freeze_count(), [name in sys.modules for name in %r]))

if __name__ == "__main__":
    start_fork_server()
    mine, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("forkserver").Process(target=look, args=(theirs,))
    worker.start()
    print(mine.recv() if mine.poll(120) else "nothing")
    worker.join()
    end_fork_server()
"""


def run(code: str, tmp_path) -> str:
    path = tmp_path / "script.py"
    path.write_text(code)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_before_behind_the_block_even_if_that_fails(was_on):
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(ValueError, match="inside"), uncollected():
            assert not gc.isenabled()
            raise ValueError("inside")
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.slow
def test_a_worker_has_every_import_and_collects_what_is_its_own_only(tmp_path):
    enabled, frozen, imported = eval(run(FORKED % (EVERY_CELL,), tmp_path))  # a tuple that this test wrote
    assert enabled
    assert all(imported), dict(zip(EVERY_CELL, imported, strict=True))
    assert frozen > 100_000, "torch alone makes more objects than that"


def test_planning_a_sweep_imports_no_library_of_statistics(tmp_path):
    code = """
import sys
import medgraft.benchmarks.sweep.plan, medgraft.benchmarks.sweep.run
print([name for name in ("scipy.stats", "sklearn") if name in sys.modules])
"""
    assert run(code, tmp_path) == "[]"
