"""Rows that are longer than the header, in every writing of a table; R's row names; tables by the thousand."""

from __future__ import annotations

import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.cohorts.tables.reading import SOURCE, UnreadableTableError, read_many, read_table
from medgraft.errors import DataError

ROWS = [("002_S_0295", "CN", 84.8), ("002_S_0295", "MCI", 85.4), ("003_S_0001", "AD", 71.0)]


def table(rows: list[str], header: str = "PTID,DX,AGE") -> bytes:
    return ("\n".join([header, *rows]) + "\n").encode()


def plain(end: str = "") -> list[str]:
    return [f"{ptid},{dx},{age}{end}" for ptid, dx, age in ROWS]


def read(folder: Path, content: bytes, name: str = "a.csv") -> pd.DataFrame:
    (folder / name).write_bytes(content)
    return read_table(folder / name, ("PTID", "DX", "AGE"))


WITHOUT_A_NAME = {
    "a comma": table(plain(",")),
    "two commas": table(plain(",,")),
    "a comma and a blank": table(plain(", ")),
    "a comma in one row": table([*plain()[:2], plain(",")[2]]),
    "a comma in the first row": table([plain(",")[0], *plain()[1:]]),
    "a comma in Windows": table(plain(",")).replace(b"\n", b"\r\n"),
    "a comma behind a mark": b"\xef\xbb\xbf" + table(plain(",")),
    "a comma in UTF-16": table(plain(",")).decode().encode("utf-16"),
    "a tab": table(plain(",")).replace(b",", b"\t"),
    "a semicolon": table(plain(",")).replace(b",", b";").replace(b".", b","),
    "quotes": table([f'"{p}","{d}",{a},""' for p, d, a in ROWS], '"PTID","DX","AGE"'),
    "a comma below a spreadsheet's line": b"sep=,\n" + table(plain(",")),
    "a comma in header and rows": table(plain(","), "PTID,DX,AGE,"),
    "a comma in the header alone": table(plain(), "PTID,DX,AGE,"),
}


@pytest.mark.parametrize("writing", WITHOUT_A_NAME)
@pytest.mark.parametrize("packed", [False, True])
def test_an_empty_surplus_field_shifts_nothing(writing, packed, tmp_path):
    content = WITHOUT_A_NAME[writing]
    found = read(tmp_path, gzip.compress(content) if packed else content, "a.csv.gz" if packed else "a.csv")
    assert [tuple(row) for row in found[["PTID", "DX", "AGE"]].to_numpy().tolist()] == ROWS


@pytest.mark.parametrize(("name", "packed"), [("a.csv", True), ("a.csv.gz", False), ("a.tsv", True)])
def test_a_name_does_not_say_whether_a_table_is_packed(name, packed, tmp_path):
    content = table(plain(","))
    assert len(read(tmp_path, gzip.compress(content) if packed else content, name)) == 3


def test_names_of_rows_as_r_writes_them(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["PTID", "DX", "AGE"])
    for names in ([1, 2, 3], [17, 4, 9], ["first", "second", "third"]):
        content = frame.set_axis(names).to_csv(index_label=False)
        for quoted in (content, content.replace("first", '"first"')):
            assert read(tmp_path, quoted.encode())["DX"].tolist() == ["CN", "MCI", "AD"]
    gaps = frame.assign(AGE=[84.8, np.nan, 71.0]).to_csv(index_label=False)
    assert read(tmp_path, gaps.encode())["PTID"].tolist() == [row[0] for row in ROWS]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([*plain()[:2], "003_S_0001,AD,71.0,late"], 4),
        ([plain(",late")[0], *plain(",")[1:]], 2),
        ([plain(",late")[0], *plain()[1:]], 2),
        (plain(",late"), 2),  # repeated first fields are no names of rows
        (["1,002_S_0295,CN", "2,002_S_0295,MCI,85.4"], 3),
        (['"002_S_0295","C\nN",84.8', '"003_S_0001","AD",71.0,"x"'], 4),  # a text over two lines
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_filled_surplus_field_is_refused_by_name_and_line(rows, line, packed, tmp_path):
    content = table(rows)
    with pytest.raises(UnreadableTableError, match=rf"a\.csv: line {line} has \d fields, the header names 3.*quotes"):
        read(tmp_path, gzip.compress(content) if packed else content)


def test_stray_text_behind_unique_numbers_is_no_name_of_a_row(tmp_path):
    rows = [f"{k},CN,70," for k in range(9)] + ["9,AD,80,late"]
    with pytest.raises(UnreadableTableError, match="line 11 has 4 fields"):
        read(tmp_path, table(rows))


def test_a_table_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_MAX_UNPACKED_BYTES", "1000")
    with pytest.raises(DataError, match="MEDGRAFT_MAX_UNPACKED_BYTES"):
        read(tmp_path, gzip.compress(table(plain() * 100)))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5), st.booleans())
def test_any_text_survives_with_and_without_a_comma_at_the_end(rows, trailing):
    buffer = io.StringIO()
    pd.DataFrame(rows, columns=["one", "two"]).map("x{}".format).to_csv(
        buffer, index=False, quoting=1, lineterminator="\n"
    )
    content = buffer.getvalue()
    if trailing:
        head, _, body = content.partition("\n")
        content = head + "\n" + body.replace('"\n"', '",\n"')[:-1] + ",\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(content.encode())
        found = read_table(path, ("one", "two"))
    assert found.to_numpy().tolist() == [[f"x{a}", f"x{b}"] for a, b in rows]


def test_many_small_tables_are_one_and_odd_ones_are_told(tmp_path):
    contents = {
        "a": b"session_id\tage\tdx\nses-M00\t70,5\tCN\n",
        "b": b"session_id;age;MMSE\nses-M06;70,5;n/a\nses-M12;71;28\n",
        "empty": b"",
        "shifted": b"session_id\tage\nses-M00\t70\tCN\n",
        "trailing": b"session_id\tage\nses-M00\t70\t\n",
        "header": b"session_id\tage\n",
    }
    paths = []
    for name, content in contents.items():
        paths.append(tmp_path / f"{name}.tsv")
        paths[-1].write_bytes(content)
    told: list[str] = []
    names = {"session_id": (), "age": (), "diagnosis": ("dx",), "MMSE": (), "sex": ()}
    found = read_many(paths, names, lambda path, error: told.append(path.stem), "\t")
    assert told == ["empty", "shifted"]
    assert list(found[SOURCE]) == [0, 1, 1, 4] and "sex" not in found
    assert found["session_id"].tolist() == ["ses-M00", "ses-M06", "ses-M12", "ses-M00"]
    assert found["age"].tolist() == ["70,5", 70.5, 71.0, 70] and found["diagnosis"].tolist()[0] == "CN"
    assert read_many([], names, lambda path, error: None, "\t").empty
