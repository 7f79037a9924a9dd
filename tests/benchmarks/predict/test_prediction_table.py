"""The table of predictions survives kills at any byte and is never of two grafts."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.predict.output import PredictionTable
from medgraft.errors import DataError

COLUMNS = ["input", "status", "p:a", "warning"]


def rows(count, start=0):
    return [
        {"input": f"file {k}.png", "status": "ok", "p:a": k / 7, "warning": ""} for k in range(start, start + count)
    ]


def read(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_table_cut_anywhere_is_gone_on_with(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "p.csv"
    PredictionTable(path, COLUMNS, "g").add(rows(10))
    content = path.read_bytes()
    path.write_bytes(content[: min(cut, len(content))])
    if 0 < cut < len(content.split(b"\n")[0]) + 1:  # not even the header is whole
        with pytest.raises(DataError, match="no table of these predictions"):
            PredictionTable(path, COLUMNS, "g")
        return
    table = PredictionTable(path, COLUMNS, "g")
    missing = [row for row in rows(10) if not table.done[row["input"]]]
    table.add(missing)
    assert [row["input"] for row in read(path)] == [f"file {k}.png" for k in range(10)]
    assert path.read_bytes() == content


def test_another_graft_or_table_is_refused(tmp_path):
    path = tmp_path / "p.csv"
    PredictionTable(path, COLUMNS, "one").add(rows(1))
    with pytest.raises(DataError, match="holds predictions of graft one, not two; name another --out"):
        PredictionTable(path, COLUMNS, "two")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is no table of these predictions; name another --out"):
        PredictionTable(tmp_path / "x.csv", COLUMNS, "one")


@pytest.mark.parametrize(
    "name", ["=cmd|'/c calc'!A1.png", "-x.png", "a,b.png", 'q"uote.png', "new\nline.png", "'=x.png"]
)
def test_names_are_data_and_are_known_again(tmp_path, name):
    path = tmp_path / "p.csv"
    PredictionTable(path, COLUMNS, "g").add([{"input": name, "status": "ok"}])
    (row,) = read(path)
    assert not row["input"].startswith(("=", "-"))
    again = PredictionTable(path, COLUMNS, "g")
    assert again.done[" ".join(name.splitlines())] == 1
