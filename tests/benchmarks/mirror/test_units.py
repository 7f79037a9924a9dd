"""Units of results: whole archives, checked when they are unpacked, and nothing outside of their folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from test_leaderboard import store

from medgraft.benchmarks.mirror.comparing import compared
from medgraft.benchmarks.mirror.units import SUMS, DamagedUnitError, Unit, pack, unit_of, units_below, unpack
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import verified_results


def cell(folder: Path, **how: object) -> Unit:
    """A result in a folder, with predictions."""
    result = store(folder, **how)  # pyright: ignore
    return unit_of(folder, ResultStore(folder).path(result.spec))


def test_the_units_of_a_folder_are_its_heads_with_what_lies_beside_them(tmp_path):
    unit = cell(tmp_path)
    home, stem = tmp_path / Path(unit.name).parent, Path(unit.name).name
    (home / f"{stem}.log").write_text("said")
    (home / f"{stem}.adapter" / "graft").mkdir(parents=True)
    (home / f"{stem}.adapter" / "graft" / "weights.safetensors").write_bytes(b"123")
    (home / f"{stem}.0a1b.external.json").write_text("{}")
    (home / f"{stem}.0a1b.external.npz").write_bytes(b"")
    (home / f"{stem}.json.old").write_text("old")
    (home / ".hidden.json").write_text("{}")
    (tmp_path / "leaderboard.json").write_text("{}")
    (tmp_path / ".work-1-2" / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / ".work-1-2" / "0123456789abcdef.json").write_text("{}")
    units = units_below(tmp_path)
    assert set(units) == {unit.name, f"{unit.name}.0a1b.external"}
    ends = [name.removeprefix(unit.name) for name in units[unit.name].files]
    assert sorted(ends) == [".adapter/graft/weights.safetensors", ".json", ".log", ".npz"]
    assert [name.removeprefix(unit.name) for name in units[f"{unit.name}.0a1b.external"].files] == [
        ".0a1b.external.json",
        ".0a1b.external.npz",
    ]


def test_a_unit_comes_back_as_it_was_and_takes_the_place_of_an_earlier_one(tmp_path):
    unit = cell(tmp_path / "a")
    extra = tmp_path / "b" / f"{unit.name}.log"
    extra.parent.mkdir(parents=True)
    extra.write_text("of a run that failed")
    (tmp_path / "b" / unit.head).write_text("{}")
    pack(tmp_path / "a", unit, tmp_path / "one.zip")
    pack(tmp_path / "a", unit, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    again = unpack(tmp_path / "one.zip", unit.name, tmp_path / "b")
    assert again.files == unit.files and not extra.exists()
    for name in unit.files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert [each.unverified for each in verified_results([tmp_path / "b"])] == [""]


@pytest.mark.parametrize("damage", ["short", "flipped", "no sums", "no head", "outside", "absolute", "of another"])
def test_a_damaged_or_hostile_archive_changes_nothing(tmp_path, damage):
    unit = cell(tmp_path / "a")
    stem, place = Path(unit.name).name, tmp_path / "x.zip"
    pack(tmp_path / "a", unit, place)
    if damage in ("short", "flipped"):
        content = bytearray(place.read_bytes())
        content[200] ^= 1
        place.write_bytes(bytes(content[:-40]) if damage == "short" else bytes(content))
    else:
        names = {"outside": f"{stem}./../../up", "absolute": "/tmp/x", "of another": "other.json"}
        with zipfile.ZipFile(place, "w") as archive:
            if damage != "no head":
                archive.writestr(f"{stem}.json", "{}")
            if damage in names:
                archive.writestr(names[damage], "x")
            if damage != "no sums":
                archive.writestr(SUMS, json.dumps({}))
    with pytest.raises(DamagedUnitError):
        unpack(place, unit.name, tmp_path / "b")
    assert not [path for path in (tmp_path / "b").rglob("*") if path.is_file()] and not (tmp_path / "up").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    unit = cell(tmp_path / "a")
    pack(tmp_path / "a", unit, tmp_path / "x.zip")
    monkeypatch.setenv("MEDGRAFT_MAX_UNPACKED_BYTES", "100")
    with pytest.raises(DamagedUnitError, match="MEDGRAFT_MAX_UNPACKED_BYTES"):
        unpack(tmp_path / "x.zip", unit.name, tmp_path / "b")


@pytest.mark.parametrize(
    ("here", "there", "changed", "way"),
    [
        ({}, {}, (True, True), "same"),
        ({}, {"status": "error"}, (False, True), "push"),
        ({"status": "error"}, {}, (True, False), "pull"),
        ({}, {"skill": 0.2}, (True, False), "refuse"),
        ({"suites": ["a@1"]}, {}, (True, False), "push"),
        ({"suites": ["a@1"]}, {}, (False, True), "pull"),
        ({"suites": ["a@1"]}, {}, (True, True), "keep"),
    ],
)
def test_which_of_two_is_newer(tmp_path, here, there, changed, way):
    units = []
    for folder, how in ((tmp_path / "a", dict(here)), (tmp_path / "b", dict(there))):
        suites = how.pop("suites", [])
        result = store(folder, **how)
        results = ResultStore(folder)
        results.cite(result.spec, suites)
        units.append(unit_of(folder, results.path(result.spec)))
    one, other = changed
    verdict = compared(tmp_path / "a", units[0], tmp_path / "b", units[1], changed_here=one, changed_there=other)
    assert verdict.way == way and (way != "refuse" or "found twice with other numbers" in verdict.why)
