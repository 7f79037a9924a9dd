"""The walk of docs/quickstart.md, command by command."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "quickstart.md"


@pytest.mark.slow
def test_the_walk_leads_to_predictions(tmp_path):
    (block,) = re.findall(r"<!-- walk:.*?-->\n```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = block.strip().splitlines()
    assert len(commands) < 10
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "medgraft"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m medgraft.benchmarks.commands.main "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    for line in commands:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 24 and {row["status"] for row in rows} == {"ok"}
    assert {"p:large", "p:none", "p:small", "prediction", "warning", "graft"} < set(rows[0])
