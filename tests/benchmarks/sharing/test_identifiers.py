"""No identifier of a subject is in anything that any command writes: as it is, encoded or hashed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sweeping import command

from medgraft.benchmarks.sharing.identifiers import Identifiers, known_forms
from medgraft.benchmarks.sharing.material import read_material
from medgraft.benchmarks.sharing.submission import identifiers_of

NAME = "patient-0042"


def write_npz(path: Path) -> None:
    np.savez_compressed(path, subjects=np.array([NAME, "other"]))


def write_parquet(path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"value": [NAME] * 3})
    parquet.write_table(table, path, compression="zstd")


def write_parquet_metadata(path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"value": [1]}).replace_schema_metadata({"note": f"of {NAME}"})
    parquet.write_table(table, path)


def write_zip_in_zip(path: Path) -> None:
    inner = path.with_suffix(".inner")
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", f"of {NAME}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, "inner.zip")
    inner.unlink()


HIDING: dict[str, Callable[[Path], object]] = {
    "plain": lambda path: path.write_text(f'{{"subject": "{NAME}"}}'),
    "base64": lambda path: path.write_bytes(base64.b64encode(NAME.encode())),
    "base64 of more, one on": lambda path: path.write_bytes(base64.b64encode(f"x{NAME} and more".encode())),
    "base64 of more, two on": lambda path: path.write_bytes(base64.b64encode(f"xy{NAME} and more".encode())),
    "sha256": lambda path: path.write_text(hashlib.sha256(NAME.encode()).hexdigest()),
    "md5, upper case": lambda path: path.write_text(hashlib.md5(NAME.encode()).hexdigest().upper()),
    "bytes of a digest": lambda path: path.write_bytes(hashlib.sha1(NAME.encode()).digest()),
    "utf-16": lambda path: path.write_text(NAME, encoding="utf-16"),
    "gzip": lambda path: path.write_bytes(gzip.compress(NAME.encode())),
    "array": write_npz,
    "parquet": write_parquet,
    "metadata of parquet": write_parquet_metadata,
    "archive in an archive": write_zip_in_zip,
}


@pytest.mark.parametrize("how", HIDING)
def test_an_identifier_is_found_wherever_it_hides(tmp_path, how):
    path = tmp_path / "file.npz"
    HIDING[how](path)
    assert {leak.what for leak in Identifiers([NAME]).leaks(path)} == {NAME}
    assert Identifiers(["somebody-77"]).leaks(path) == []


def test_digits_among_other_digits_are_no_identifier(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"value": 0.7123459, "n": 2123459}')
    assert Identifiers(["12345", "2345"]).leaks(path) == []
    path.write_text('{"subject": "12345"}')
    assert [leak.what for leak in Identifiers(["12345", "2345"]).leaks(path)] == ["12345"]


@pytest.mark.parametrize(
    ("text", "cohort"),
    [("of 941_S_1195 today", "ADNI"), ("train/patient00042/study1", "CheXpert"), ("p10000032", "MIMIC"),
     ("OAS1_0042_MR1", "OASIS"), ("00000001_000.png", "NIH"), ("sub-ADNI941S1195_T1w", "BIDS")],
)  # fmt: skip
def test_identifiers_of_well_known_cohorts_are_known_by_their_looks(tmp_path, text, cohort):
    path = tmp_path / "x.log"
    path.write_text(text)
    assert [leak.form for leak in known_forms(path)] and cohort in known_forms(path)[0].form


def test_a_result_looks_like_nobody(swept):
    assert [leak for path in swept.results.rglob("*.json") for leak in known_forms(path)] == []


def test_no_output_of_any_command_names_a_subject(installed, tmp_path):
    """Every file that there is after every command, and every line that they said."""
    swept, out = installed, tmp_path / "out"
    told = [swept.output]
    rows = ["toy/toy:tiny/toy_gain", "chexpert/toy:tiny/toy_gain"]
    results, graft = str(swept.results), next(swept.results.rglob("*.adapter"))
    toy_cell = str(swept.cells("toy")[0])
    commands = [
        ["leaderboard", results, "--out", str(out / "board"), "--groups"],
        ["reliability", results, "--out", str(out / "reliability.svg")],
        ["export", str(graft), "--to", "card", "--out", str(out / "card.md")],
        ["diff", results, results],
        ["diff", results, results, "--json"],
        ["submit-check", results, "--json"],
        ["embed", toy_cell, "--data", f"toy={swept.cohorts['toy']}", "--out", str(out / "embedded.svg")],
        ["reproduce", toy_cell, "--data", f"toy={swept.cohorts['toy']}", "--results", str(out / "again")],
        *(["show", row, results] for row in rows),
        *(["label", row, results, "--out", str(out / f"label{i}")] for i, row in enumerate(rows)),
    ]
    out.mkdir()
    for words in commands:
        done = command(*words)
        assert done.exit_code == 0, (words, done.output)
        told.append(done.output)
    identifiers = identifiers_of(read_material([swept.results]), swept.cohorts)
    assert len(identifiers.names) > 100
    (out / "told.txt").write_text("\n".join(told))
    files = [path for folder in (swept.results, out) for path in folder.rglob("*") if path.is_file()]
    endings = {path.suffix for path in files}
    assert {".json", ".npz", ".md", ".csv", ".svg", ".safetensors"} <= endings, endings
    leaks = [(leak.path.name, leak.inside, leak.form) for path in files for leak in identifiers.leaks(path)]
    assert leaks == []
    assert [path for path in files if list(identifiers.within(str(path.relative_to(path.parents[3])).encode()))] == []
