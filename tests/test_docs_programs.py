"""The programs of README and docs, ``python -m ...``, that measure, pre-train or draw: each is run, at a small size.

What a page gives a program stands first, and what makes it small behind it. Sweeps are in ``test_docs_runs.py``, and
``python -m build`` in ``test_packaging.py``, and the compiler of kernels, which takes its time, in
``adapters/kernels/test_aot.py``.
"""

from __future__ import annotations

import logging
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from readers_files import fmri_run, sentence_model
from test_docs import PAGES, ROOT, commands, in_medgraft
from typer.testing import CliRunner

from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.speed.short_texts import FINDINGS, WORDS
from medgraft.testing.phantoms import small_phantom

pytestmark = [pytest.mark.slow(seconds=130), pytest.mark.timeout(600)]

PRETRAINED = "--steps 2 --out made"
SMALL = {
    "benchmarks.audit.architecture": "",
    "benchmarks.audit.brain_page": "--quick --parts omics --results made/brain",
    "benchmarks.audit.interval_coverage": "--repetitions 2 --population 2000 --tables differences gaps",
    "benchmarks.audit.positive_control": "--images 16 --epochs 1 --seeds 1",
    "benchmarks.audit.schema": "",
    "benchmarks.simulate": "--cells 20 --figure made.svg",
    "benchmarks.gpu_check": "--device cpu --quick --part 'read ahead' --part graphs",
    "benchmarks.simulate.cohorts": "--films 60 --scans 100",
    "benchmarks.kernels": "--op bottleneck --form fused --rounds 1",
    "benchmarks.speed": "--quick --job ace_step --contender 'medgraft fp32'",
    "benchmarks.speed.brain_costs": "--encoder embedded:brain@random --rounds 1",
    "benchmarks.speed.decoding": "--steps 3 --prompt 2 --rounds 1 --visual embedded:chest",
    "benchmarks.speed.peft_table": "--method ia3",
    "benchmarks.speed.scaling": "--quick --curve lora_rank",
    "benchmarks.speed.second_sweep": "--adapter linear_probe --data chexpert=films",
    "benchmarks.speed.short_texts": "--sentences 8 --rounds 1 --epochs 1 --encoder bert",
    "benchmarks.speed.stacked_seeds": "--size tiny --seeds 2 --steps 2 --rounds 1",
    "benchmarks.speed.swift": "--side 48 --rounds 1 --runs 1 --epochs 1",
    "benchmarks.audit.modality_table": "--encoders gene_tokens",
    "benchmarks.speed.zero_shot_speed": "--images 8 --rounds 1 --encoder phantom_chest@random --data films",
    "benchmarks.pretrain.brain": f"{PRETRAINED} --volumes 4 --note-steps 2 --batch-size 2 --held-out 3 --jobs 1",
    "benchmarks.pretrain.chest": f"{PRETRAINED} --images 12 --batch-size 4 --held-out 60 40 --jobs 1",
    "benchmarks.pretrain.fmri": f"{PRETRAINED} --model tiny --batch-size 3 --runs runs --held-out 0.34",
    "benchmarks.pretrain.language": f"{PRETRAINED} --rows 2 --documents 40 --held-out 2",
    "benchmarks.pretrain.slices": f"{PRETRAINED} --volumes 4 --sentence-steps 2 --batch-size 2 --held-out 3 --jobs 1",
    "commands.site_picture": "",
}
"""Program, within the package -> options that make it small."""

ELSEWHERE = ("build", "medgraft.adapters.kernels.aot")

MISSES = ("benchmarks.audit.positive_control",)
"""Programs that end with 1 where a verdict does not hold, which no training of an epoch could give."""

WRITES = {
    "benchmarks.audit.brain_page": "docs/brain.json",
    "benchmarks.audit.positive_control": "docs/volumes-control-load.svg",
    "benchmarks.speed.peft_table": "docs/peft.md",
    **{f"benchmarks.pretrain.{each}": f"made/{each}.json" for each in ("brain", "chest", "language", "slices")},
    "benchmarks.pretrain.fmri": "made/swift.json",
    "benchmarks.simulate": "made.svg",
}
"""Program -> a file that it must leave."""


def program(words: list[str]) -> str | None:
    """The module of ``python -m``, within the package, or ``None`` for others and for sweeps."""
    if words[:2] != ["python", "-m"] or len(words) < 3 or words[2] in ELSEWHERE or in_medgraft(words):
        return None
    return words[2].removeprefix("medgraft.")


def programs() -> Iterator[Any]:
    """Program and words of every command, in blocks and in sentences; the same words once."""
    told = [each.values[0] for each in commands()]
    for page in PAGES:
        told += [shlex.split(code) for code in re.findall(r"`(python -m [^`]+)`", page.read_text())]
    for words in dict.fromkeys(tuple(each) for each in told if program(each)):
        yield pytest.param(program([*words]), [*words[3:]], id="-".join(words[2:5]))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the pages, and what the programs read; what they would write into the repository goes there too."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    (tmp_path / "films").symlink_to(small_phantom("chexpert"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    write = Path.write_text

    def elsewhere(path: Path, *args: Any, **kwargs: Any) -> int:
        path = path.resolve()
        return write(tmp_path / path.relative_to(ROOT) if path.is_relative_to(ROOT) else path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", elsewhere)
    handlers = list(logging.root.handlers)
    yield tmp_path
    logging.root.handlers[:] = handlers


def prepare(name: str) -> None:
    """What a program asks for beside its options."""
    if name == "benchmarks.pretrain.fmri":
        for number in range(6):
            fmri_run(Path(f"runs/sub-{number:02}_bold.nii.gz"), 8, number)
    if name == "benchmarks.simulate":
        where = ["--data", "chexpert=films", "--epochs", "1", "--seeds", "0", "--no-baselines"]
        what = ["--adapters", "linear_probe", "--tasks", "chexpert", "--encoders", "pixels:2d"]
        assert CliRunner().invoke(app, ["run", *what, *where]).exit_code == 0
    if name == "benchmarks.speed.short_texts":
        sentence_model(Path("bert"), [*WORDS, *" ".join(FINDINGS).split()])


@pytest.mark.parametrize(("name", "words"), [*programs()])
def test_a_program_of_the_docs_runs_at_a_small_size(name, words, folder, monkeypatch, capsys):
    prepare(name)
    small = [] if {"--page", "--help"} & {*words} else shlex.split(SMALL[name])
    monkeypatch.setattr(sys, "argv", [name, *words, *small])
    try:
        runpy.run_module(f"medgraft.{name}", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code or name in MISSES, capsys.readouterr().err
    told = capsys.readouterr().out
    assert told.strip() or WRITES.get(name) or [*Path().rglob("*.svg")]
    if name in WRITES and small:
        assert Path(WRITES[name]).read_text().strip()
