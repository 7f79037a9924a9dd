"""Results read in processes beside: the same in the same order, errors with their file, and here where one dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from results_of_seeds import stored

from medgraft.benchmarks.results.held import beside
from medgraft.benchmarks.results.held.beside import read_held
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.verification import Verified, verified_results
from medgraft.errors import MedgraftError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Results of 21 seeds, one of them the copy of another part's under its own key, and a file that is none."""
    monkeypatch.setattr(beside, "MANY", 1)
    monkeypatch.setattr(beside, "PART", 4)
    monkeypatch.setattr(beside, "cores", lambda: 2)
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "results"
    place.mkdir()
    paths = sorted(stored(place, 21))
    (place / "0000.json").write_text("{")
    documents = [json.loads(path.read_text()) for path in paths]
    for number, document in enumerate(documents):
        document["timing"] |= {"load": 0.1 + number, "evaluate": 0.2 + number}
        document["training"]["seconds"] = 3.0 + number
    documents[-1] |= {name: documents[0][name] for name in ("timing", "metrics", "training", "efficiency")}
    for path, document in zip(paths, documents, strict=True):
        path.write_text(json.dumps(document))
    return place


def facts(read: Iterable[tuple[Path, Verified | UnreadableError]]) -> list[tuple[object, ...]]:
    """What is to be the same, errors in words."""
    return [
        (path, str(each), each.kind)
        if isinstance(each, UnreadableError)
        else (path, each.path, each.unverified, each.digest, each.run, each.cell.key, vars(each.cell)["file"])
        for path, each in read
    ]


def test_what_is_read_beside_is_what_is_read_here_and_shares_what_is_equal(folder, monkeypatch, caplog):
    paths = sorted(folder.glob("*.json"))
    read = list(read_held(paths))
    kept = [each.path for each in verified_results([folder], read=read_held)]
    monkeypatch.setattr(beside, "cores", lambda: 1)
    here = list(read_held(paths))
    assert [path for path, _ in read] == paths and facts(read) == facts(here) and len(paths) == 22
    cells = [each.cell for _, each in read if isinstance(each, Verified)]
    assert cells == [each.cell for _, each in here if isinstance(each, Verified)]
    assert len(cells) == 21 and len({each.run for _, each in here if isinstance(each, Verified)}) == 20
    one, last = cells[0], cells[-1]
    assert one.data is last.data and one.env is last.env and one.spec.cohort is last.spec.cohort
    assert all(getattr(one.metrics, part) is getattr(last.metrics, part) for part in ("_names", "_counts"))
    assert kept == [each.path for each in verified_results([folder])] and len(kept) == 20
    assert "has all times and numbers of" in caplog.text and "ended" not in caplog.text


def test_an_error_beside_is_raised_with_the_name_of_its_file(folder, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_MAX_DOCUMENT_BYTES", "many")
    with pytest.raises(MedgraftError, match="MEDGRAFT_MAX_DOCUMENT_BYTES=many is no limit") as raised:
        list(read_held(folder.glob("*.json")))
    assert any(str(folder) in note for note in raised.value.__notes__)


def test_where_a_process_dies_the_rest_is_read_here(folder, monkeypatch, caplog):
    monkeypatch.setattr(beside, "begin", os._exit)
    monkeypatch.setattr(beside, "settings", lambda: 3)
    paths = sorted(folder.glob("*.json"))
    assert [path for path, _ in read_held(paths)] == paths
    assert "a process that reads results has ended (BrokenProcessPool); this one goes on" in caplog.text


KILLED = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from medgraft.benchmarks.side_process import begin, settings
os.environ["MEDGRAFT_CACHE"] = "/elsewhere"
context = multiprocessing.get_context("forkserver")
pool = ProcessPoolExecutor(1, context, initializer=begin, initargs=(settings(),))
print(pool.submit(os.getenv, "MEDGRAFT_CACHE").result(), flush=True)
pool.submit(time.sleep, 300)  # and with it the output would stay open
os.kill(os.getpid(), 9)
"""


def test_a_process_ends_with_the_one_that_it_computes_for():
    told = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, timeout=60).stdout
    assert told.split()[-1] == "/elsewhere", "settings are those of now, not of when the fork server was started"
