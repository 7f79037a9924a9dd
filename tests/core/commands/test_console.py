"""The command line from its first line to its exit code, whatever becomes of its streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FULL = Path("/dev/full")

BODY = """
import sys, time
from pathlib import Path
from medgraft.commands.console import entered, guarded
def work():
    with guarded():
        for _ in range(2000):
            print("x" * 80)
        Path(sys.argv[1]).write_text("done")
        sys.exit(int(sys.argv[2]))
entered("medgraft test", work)
"""


def start(code: str, *arguments: str, shell: str = '"$@"') -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("shell", ['"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-', '"$@" | head -1', '"$@" >/dev/full'])
@pytest.mark.parametrize("code", [0, 1])
def test_a_stream_that_is_closed_or_full_costs_no_file(tmp_path, shell, code):
    if "full" in shell and not FULL.exists():
        pytest.skip("this system has no /dev/full")
    done = start(BODY, str(tmp_path / "file"), str(code), shell=f"set -o pipefail; {shell}")
    assert (tmp_path / "file").read_text() == "done"
    assert done.returncode == (1 if "full" in shell else code)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    lines = done.stderr.splitlines()
    if "full" in shell:
        assert len(lines) == 1 and "standard output could not be written" in lines[0] and "No space left" in lines[0]
    else:
        assert lines == []


def test_a_file_that_is_opened_is_never_in_the_place_of_a_closed_stream(tmp_path):
    code = (
        "import sys\nfrom medgraft.commands.console import entered\n"
        "def work():\n    with open(sys.argv[1], 'w') as file:\n        print('to nobody', flush=True)\n"
        "        file.write('mine')\nentered('medgraft test', work)\n"
    )
    assert start(code, str(tmp_path / "file"), shell='"$@" >&-').returncode == 0
    assert (tmp_path / "file").read_text() == "mine"


def test_the_first_line_comes_before_anything_heavy(tmp_path):
    code = (
        "import sys\nfrom medgraft.commands import console\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pydantic', 'sklearn'}\n"
        "def first(text):\n    print(text, sorted(heavy & set(sys.modules)))\n    raise SystemExit\n"
        "console._announce = first\nfrom medgraft.benchmarks.commands.main import main\nmain()\n"
    )
    for command in (["run", "--adapters", "lora"], ["describe", "lora"], ["check", "lora"], ["leaderboard", "x"]):
        done = start(code, *command)
        assert done.stdout == f"medgraft {command[0]} []\n", done.stderr


def test_the_first_line_costs_a_fraction_of_a_second(tmp_path):
    code = (
        "import time\nfrom medgraft.commands import console\n"
        "def first(text):\n    print(time.process_time())\n    raise SystemExit\n"
        "console._announce = first\nfrom medgraft.benchmarks.commands.main import main\nmain()\n"
    )
    assert min(float(start(code, "run", "--adapters", "lora").stdout) for _ in range(2)) < 0.8


def test_ctrl_c_anywhere_is_one_line(tmp_path):
    code = (
        "import time\nfrom medgraft.commands.console import entered, guarded\n"
        "def work():\n    print('ready', flush=True)\n    time.sleep(60)\nentered('medgraft test', work)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.splitlines()[-1] == "interrupted" and "Traceback" not in error
