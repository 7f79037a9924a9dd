"""``--verify``: what size and dates do not show is noticed when, and only when, every file is read again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from sweeping import command

from medgraft.files import content


def alter_unseen(film: Path) -> None:
    """Other pixels; then size, dates and number of the file are noted as if it had been so when its digest was made."""
    with Image.open(film) as picture:
        ImageOps.invert(picture.convert("L")).save(film)
    facts = os.stat(film)
    stamp = str(content._Stamp(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino))
    content._with_store(lambda store: store.execute("UPDATE files SET stamp = ? WHERE path = ?", (stamp, str(film))))


@pytest.mark.slow
def test_an_unseen_change_is_noticed_with_verify_alone(chest_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "SETTLED_NS", 0)  # the films are seconds old
    home = Path(shutil.copytree(chest_cohort, tmp_path / "films"))

    def run(*more: str) -> str:
        done = command(
            *("run", "--adapters", "linear_probe", "--tasks", "chexpert", "--encoders", "phantom_chest@random"),
            *("--no-baselines", "--seeds", "0", "--data", f"chexpert={home}", "--results", str(tmp_path / "r"), *more),
        )
        assert done.exit_code == 0, done.output
        return done.output

    assert "done already" not in run()
    alter_unseen(next(path for path in sorted(home.rglob("*.jpg")) if "valid" not in str(path)))
    assert "1 of 1 cells are done already" in run()
    assert "done already" not in run("--verify")
    assert "1 of 1 cells are done already" in run()
