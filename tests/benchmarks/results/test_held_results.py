"""Results as a board holds them: the same values in little memory, groups and curves read from the file again."""

from __future__ import annotations

import json
import tracemalloc
from array import array

import pytest
from results_of_seeds import stored

from medgraft.benchmarks.results.held.filed import Filing, Numbers
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError, read_json
from medgraft.errors import MedgraftError

MOST = 10_000
"""Bytes of memory for each held result; as they are read they take twenty times that."""


def test_a_held_result_has_all_values_of_the_one_that_was_read(tmp_path):
    filing = Filing()
    for path in stored(tmp_path, 3):
        whole, held = read_result(path), filing(path, read_result(path))
        assert isinstance(held, CellResult) and held.spec == whole.spec and held.spec.key() == whole.key
        for name in CellResult.model_fields:
            if name == "calibration":
                continue
            one, other = getattr(held, name), getattr(whole, name)
            assert dict(one) == other if name == "metrics" else one == other, name
        assert held.calibration is not None and whole.calibration is not None
        for name in ("likeliest", "classes", "chance_error"):
            assert getattr(held.calibration.reliability, name) == getattr(whole.calibration.reliability, name)
        assert held == whole and whole == held and held != whole.model_copy(update={"log": "other"})
        assert not hasattr(held, "nothing_of_that_name")


def test_held_results_share_what_is_equal_and_take_little_memory(tmp_path):
    paths = list(stored(tmp_path, 120))
    filing = Filing()
    held = [filing(path, read_result(path)) for path in paths[:20]]
    assert held[0].data is held[1].data and held[0].spec.cohort is held[1].spec.cohort
    tracemalloc.start()
    try:
        held += [filing(path, read_result(path)) for path in paths[20:]]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / 100 < MOST


def test_a_file_that_changes_while_its_board_is_made_is_named(tmp_path):
    one, other = stored(tmp_path, 2)
    held = Filing()(one, read_result(one))
    one.write_text(other.read_text())
    with pytest.raises(MedgraftError, match=f"{one.name} was changed while its board was made; make it again"):
        _ = held.groups


def test_a_file_of_the_same_cell_with_other_numbers_is_named_too(tmp_path):
    (path,) = stored(tmp_path, 1)
    first = Filing()(path, read_result(path))
    groups = first.groups
    path.write_text(path.read_text() + "\n")  # the same cell, run again: its key is as it was
    second = Filing()(path, read_result(path))
    assert first.groups == groups == second.groups  # what was read before is kept, and the new one is read by itself
    (tmp_path / "b").mkdir()
    (gone,) = stored(tmp_path / "b", 1)
    lost = Filing()(gone, read_result(gone))
    gone.write_text(gone.read_text() + " ")
    with pytest.raises(MedgraftError, match="was changed while its board was made"):
        _ = lost.groups
    gone.unlink()
    with pytest.raises(MedgraftError, match=f"{gone.name} was changed while its board was made"):
        _ = lost.groups


def test_a_held_result_is_dumped_whole(tmp_path):
    (path,) = stored(tmp_path, 1)
    whole = read_result(path)
    held = Filing()(path, whole)
    assert held.model_dump() == whole.model_dump() and held.model_dump_json() == whole.model_dump_json()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1e999}', "1e999 is no number of JSON"),
        ('{"a": -1E+400}', "no number of JSON"),
        ('{"a": ' + "9" * 310 + ".5}", "it is no JSON: 999"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": 1} x', "it is no JSON"),
    ],
)
def test_numbers_beyond_those_of_64_bits_are_refused(tmp_path, text, problem):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UnreadableError, match=problem):
        read_json(path)


@pytest.mark.parametrize(
    "value", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 2**70, "0e1234", " 5e999", "a5e1234b", -0.0, "\u00e9\ud83d"]
)
def test_what_is_read_is_what_pythons_own_reader_reads(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": value, "b": [1, None, True]}))
    assert repr(read_json(path)) == repr(json.loads(path.read_text()))


def test_results_without_numbers_are_shared_as_what_they_are():
    shared: dict[object, object] = {}
    one, other = (Numbers({}, array("d"), ()) for _ in range(2))
    for each in (one, other, one):  # cells that failed have none, neither names nor counts
        each.share(shared)
    assert dict(one) == dict(other) == {} and len(one) == 0
