"""The published schemas are those of the code, describe every field, and hold for what is really stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from test_leaderboard import store

from medgraft.benchmarks.audit import schema
from medgraft.benchmarks.results.migrations import SCHEMA_VERSION
from medgraft.benchmarks.results.store import ResultStore

EARLIER = Path(__file__).parents[1] / "results" / "earlier"


def validator(name: str) -> Draft202012Validator:
    document = json.loads((schema.FOLDER / f"{name}.json").read_text())
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


@pytest.mark.parametrize("path", schema.files(), ids=lambda path: path.name)
def test_what_is_published_is_what_the_code_says(path):
    assert path.read_text() == schema.files()[path], "run `python -m benchmarks.audit.schema`"


@pytest.mark.parametrize("root", schema.ROOTS.values(), ids=lambda root: root.__name__)
def test_every_field_is_described(root):
    for record in schema.records_of(root):
        assert all(len(meaning) > 5 for meaning in schema.meanings_of(record).values())


def test_stored_results_are_of_the_schema(tmp_path):
    check = validator(f"result-v{SCHEMA_VERSION}")
    for status in ("success", "error"):
        path = ResultStore(tmp_path).path(store(tmp_path, status=status).spec)
        check.validate(json.loads(path.read_text()))
    check.validate(json.loads((EARLIER / f"version-{SCHEMA_VERSION}.json").read_text()))


def test_the_schema_refuses_what_is_no_result(tmp_path):
    check = validator(f"result-v{SCHEMA_VERSION}")
    document = json.loads(ResultStore(tmp_path).path(store(tmp_path).spec).read_text())
    wrong = [{"status": "fine"}, {"invented": 1}, {"metrics": {"f1_macro": {"value": "high"}}}, {"spec": {}}]
    for change in wrong:
        assert not check.is_valid(document | change), change
