"""Plans over trees of full size, here a hundredth of it: time and memory grow with the files and no faster."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from medgraft.benchmarks.simulate.cohorts import MOST_SCANS, TREES, write_films, write_scans
from medgraft.benchmarks.tasks.brain.adni import AdniImage
from medgraft.benchmarks.tasks.chest.chexpert import Chexpert
from medgraft.errors import ConfigError
from medgraft.task import Task, TaskData

MOST = 8_000
"""Bytes of memory for each image at most, tables and files together; 220,000 films take two gigabytes at most."""


def loaded(task: type[Task], root: Path) -> tuple[TaskData, float, int]:
    """What a task reads, the processor seconds it takes, and the bytes at most."""
    read = task(task.Config())  # pyright: ignore
    read.load(root)  # imports, and digests of files that are kept
    start = time.process_time()
    found = read.load(root)
    seconds = time.process_time() - start
    tracemalloc.start()
    try:
        read.load(root)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return found, seconds, peak


@pytest.mark.parametrize(
    ("task", "write", "sizes"), [(Chexpert, write_films, (600, 2400)), (AdniImage, write_scans, (250, 1000))]
)
def test_a_task_reads_a_large_tree_in_time_and_memory_that_grow_with_it(
    tmp_path, monkeypatch, task: type[Task], write: Callable[[Path, int], None], sizes: tuple[int, int]
):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    seconds, peaks, samples = [], [], []
    for n in sizes:
        root = tmp_path / str(n) / TREES["films" if task is Chexpert else "scans"].folder
        write(root, n)
        found, took, peak = loaded(task, root)
        seconds.append(took)
        peaks.append(peak)
        samples.append(len(found.subjects))
    assert samples[1] == pytest.approx(4 * samples[0], rel=0.2)
    more = samples[1] - samples[0]
    assert (peaks[1] - peaks[0]) / more < MOST
    # Four times as many take four times as long, sixteen if every one looks at all others; half of that is told apart.
    assert seconds[1] < 9 * seconds[0] + 0.2


def test_trees_have_the_layout_and_the_numbers_that_were_asked_for(tmp_path):
    write_films(tmp_path / "CheXpert-v1.0-small", 100)
    assert len(list((tmp_path / "CheXpert-v1.0-small" / "train").rglob("*.jpg"))) == 100
    write_scans(tmp_path / "ADNI", 23)
    assert len(list((tmp_path / "ADNI").rglob("*_I1000??.nii"))) == 23
    with pytest.raises(ConfigError, match="45001 scans are more than 45000; give fewer"):
        write_scans(tmp_path / "more", MOST_SCANS + 1)
