"""YAML and JSON within limits: what stands for too much is refused before it is built, and the limit is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medgraft.errors import CheckpointError, ConfigError, UnknownNameError
from medgraft.files.documents import parse_yaml, read_json, read_yaml
from medgraft.files.limits import LIMITS, changed_limits, limit

LAUGHS = "\n".join(
    [
        "a0: &a0 [lol, lol]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)),
    ]
)
MERGES = "\n".join(
    ["a0: &a0 {k: 1, l: 2}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12))]
)


def test_plain_documents_are_what_they_say(tmp_path):
    (tmp_path / "a.yaml").write_text("\ufeffa: [1, 2]\nb: &x {c: d}\ne: *x\n")
    (tmp_path / "a.json").write_text('\ufeff{"a": [[1], {"b": null}]}')
    (tmp_path / "empty.yaml").write_text("")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2], "b": {"c": "d"}, "e": {"c": "d"}}
    assert read_json(tmp_path / "a.json") == {"a": [[1], {"b": None}]}
    assert read_yaml(tmp_path / "empty.yaml") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (LAUGHS, "MEDGRAFT_MAX_DOCUMENT_NODES"),
        (MERGES, "MEDGRAFT_MAX_DOCUMENT_NODES"),
        ("[" * 200_000, "the document"),
        ("a: " + "{b: " * 80 + "1" + "}" * 80, "MEDGRAFT_MAX_DOCUMENT_DEPTH"),
        ("- " * 100 + "1", "MEDGRAFT_MAX_DOCUMENT_DEPTH"),
        ("a: *nowhere", "undefined alias"),
        ("&a [*a]", "the document holds itself"),
        ("a: 1\n b: 2", "the document cannot be read"),
        ("a: 2020-99-99", "the document cannot be read"),
    ],
    ids=["laughs", "merges", "brackets", "braces", "dashes", "alias", "itself", "indent", "date"],
)
def test_yaml_that_stands_for_too_much_or_is_none(text, named):
    with pytest.raises(ConfigError, match=named):
        parse_yaml(text, "the document")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("010", 10), ("-3", -3), ("1:30", "1:30"),
        ("0-4", "0-4"), ('"4"', "4"), ("yes", True), ("12abc", "12abc"), ("1_000", "1_000"), ("~", None),
    ],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_2(text, value):
    (found,) = parse_yaml(f"a: {text}", "the document").values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "'a' is given twice, in lines 1 and 3"),
        ("x: {a: 1, a: 1}", "'a' is given twice, in line 1"),
        ("- {b: {c: 1, d: 2, c: 3}}", "'c' is given twice"),
        ("1: x\n01: y", "1 is given twice"),
    ],
)
def test_a_key_stands_once(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_yaml(text, "the document")


def test_a_merged_key_may_be_given_again():
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", "it")["d"] == {"b": 1, "c": 3}


@pytest.mark.parametrize("depth", [65, 900, 200_000])
@pytest.mark.parametrize("pair", ["[]", ('{"a":', "}")])
def test_deep_json_is_refused_and_names_the_limit(tmp_path, depth, pair):
    (tmp_path / "a.json").write_text(pair[0] * depth + "1" + pair[1] * depth)
    with pytest.raises(CheckpointError, match=r"a\.json.*MEDGRAFT_MAX_DOCUMENT_DEPTH"):
        read_json(tmp_path / "a.json", CheckpointError)


def test_json_may_be_wide_and_as_deep_as_the_limit(tmp_path):
    (tmp_path / "a.json").write_text("[" * 64 + ",".join(["{}"] * 500) + "]" * 63 + "]")
    with pytest.raises(ConfigError, match="65 levels"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[" * 63 + ",".join(["{}"] * 500) + "]" * 63)
    assert read_json(tmp_path / "a.json")


def test_what_is_no_document(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    (tmp_path / "cut.json").write_text('{"a": ')
    for name in ("pipe.json", "latin.json", "cut.json", "missing.json"):
        with pytest.raises(ConfigError, match=name):
            read_json(tmp_path / name)
    monkeypatch.setenv("MEDGRAFT_MAX_DOCUMENT_BYTES", "1K")
    (tmp_path / "long.yaml").write_text("a: " + "b" * 2000)
    with pytest.raises(ConfigError, match=r"long\.yaml.*MEDGRAFT_MAX_DOCUMENT_BYTES"):
        read_yaml(tmp_path / "long.yaml")


@pytest.mark.parametrize(("text", "value"), [("500", 500), ("2k", 2048), ("3M", 3 << 20), (" 1G ", 1 << 30)])
def test_limits_are_set_in_the_environment(monkeypatch, text, value):
    monkeypatch.setenv("MEDGRAFT_MAX_PIXELS", text)
    assert limit("MEDGRAFT_MAX_PIXELS") == value and changed_limits() == {"MEDGRAFT_MAX_PIXELS": value}


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "lots", "none", "1T", "9" * 30])
def test_what_is_no_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv("MEDGRAFT_MAX_PIXELS", text)
    with pytest.raises(ConfigError, match=r"MEDGRAFT_MAX_PIXELS=.*whole number"):
        limit("MEDGRAFT_MAX_PIXELS")


def test_an_unknown_limit_is_refused_with_its_neighbour(monkeypatch):
    monkeypatch.setenv("MEDGRAFT_MAX_VOXEL", "5")
    with pytest.raises(UnknownNameError, match="did you mean MEDGRAFT_MAX_VOXELS"):
        limit("MEDGRAFT_MAX_PIXELS")


def test_every_limit_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "real-data.md").read_text()
    assert [name for name in LIMITS if name not in page] == []
