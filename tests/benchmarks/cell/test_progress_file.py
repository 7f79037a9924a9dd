"""The file of progress: whole lines only, bounded, and never in a file that a plugin opened in its place."""

from __future__ import annotations

import logging
import os

import pytest

from medgraft.benchmarks.cell.job import STEPS
from medgraft.benchmarks.cell.progress import LONGEST_LINE, PROGRESS, READ_AT_ONCE, ProgressReader, ProgressWriter


def test_steps_are_read_as_they_come(tmp_path):
    reader, writer = ProgressReader(tmp_path / "none"), ProgressWriter(tmp_path)
    assert reader.read() == []
    reader = ProgressReader(tmp_path)
    writer.step(STEPS["load"], 0.0)
    (first,) = reader.read()
    assert (first["step"], first["doing"], first["share"]) == ("load", "reading", 0.0) and first["time"] > 1e9
    writer.step("training the routers", 0.0)
    writer.step("training the routers", 0.4)  # too soon after
    writer.step("training the routers", 1.0)
    assert [(each["step"], each["share"]) for each in reader.read()] == [("train", 0.0), ("train", 1.0)]
    assert reader.read() == []


def test_half_a_line_waits_for_its_rest_and_what_is_no_line_of_ours_is_passed_over(tmp_path):
    reader, path = ProgressReader(tmp_path), tmp_path / PROGRESS
    path.write_bytes(b'{"doing": "x"}\n[1]\nnonsense\xff\n' + b"[" * 100_000 + b'\n{"share"')
    assert reader.read() == [{"doing": "x"}]
    with path.open("ab") as file:
        file.write(b": 1}\n" + b"y" * (READ_AT_ONCE + 5) + b'\n{"last": 1}\n')
    entries = [entry for _ in range(4) for entry in reader.read()]
    assert entries == [{"share": 1}, {"last": 1}]


def test_what_medgraft_logs_stands_in_it_and_what_others_log_does_not(tmp_path):
    writer = ProgressWriter(tmp_path)
    with writer.logging():
        logging.getLogger("medgraft.some").warning("careful, %s", "you")
        logging.getLogger("other").warning("no")
        logging.getLogger("medgraft.some").warning("x" * LONGEST_LINE * 2)
    logging.getLogger("medgraft.some").warning("afterwards")
    logs = [each["log"] for each in ProgressReader(tmp_path).read()]
    assert logs == [[30, "medgraft.some", "careful, you"], [30, "medgraft.some", "x" * 2000]]


@pytest.mark.parametrize("reopened", [False, True])
def test_a_closed_file_is_an_error_even_where_another_has_its_number(tmp_path, reopened):
    writer = ProgressWriter(tmp_path)
    os.close(writer.descriptor)
    other = os.open(tmp_path / "theirs", os.O_WRONLY | os.O_CREAT) if reopened else None
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.step("training", 0.0)
    writer.close()
    if other is not None:
        os.close(other)
        assert (tmp_path / "theirs").read_bytes() == b""
