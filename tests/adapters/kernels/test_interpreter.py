"""Runs the tests of ``interpreted/`` in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.timeout(900)  # of the first, which runs them all: two minutes of one core
HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "interpreted").glob("test_*.py"))


@pytest.fixture(scope="module")
def told() -> str:
    """What pytest says of all of them, one line per test: one process, since each imports for seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(HERE / "interpreted")],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=860,
        check=False,
    )
    return done.stderr + done.stdout


@pytest.mark.parametrize("name", FILES)
def test_kernels_match_float64_in_the_interpreter(name, told):
    lines = [line for line in told.splitlines() if f"{name}::" in line]
    assert any(" PASSED" in line for line in lines), told[-8000:]
    assert not any("FAILED" in line or "ERROR" in line for line in lines), told[-8000:]
    ended = re.search(r"\d+ (passed|failed).* in [\d.]+s", told.splitlines()[-1])
    assert ended, told[-8000:]  # killed on the way, it has said nothing of what was to come
