"""A cell that is run again gives its numbers; what would keep it from doing so is said before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeping import command
from test_leaderboard import store

from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import Verified
from medgraft.benchmarks.results.writing import write_arrays
from medgraft.benchmarks.sharing import reproduction
from medgraft.benchmarks.sharing.reproduction import compared


def test_a_cell_agrees_bit_for_bit_and_the_new_result_is_kept(installed, tmp_path):
    cell = installed.cells("chexpert")[0]
    cohort = f"chexpert={installed.cohorts['chexpert']}"
    done = command("reproduce", str(cell), "--data", cohort, "--results", str(tmp_path / "again"))
    assert done.exit_code == 0, done.output
    assert "the numbers agree bit for bit" in done.stdout
    stored, new = read_result(cell), read_result(tmp_path / "again" / cell.relative_to(installed.results))
    assert stored.metrics == new.metrics and stored.key == new.key
    again = command("reproduce", str(cell), "--data", cohort, "--results", str(tmp_path / "again"))
    assert again.exit_code == 2 and "would be overwritten" in again.stderr


def refused(path: Path, *more: str) -> str:
    done = command("reproduce", str(path), *more)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    return done.stderr


def edited(source: Path, folder: Path, **spec: Any) -> Path:
    """A stored result with another specification and a key that fits it."""
    said = json.loads(source.read_text())
    said["spec"] |= spec
    said["key"] = CellSpec.model_validate(said["spec"]).key()
    path = folder / f"{said['key']}.json"
    path.write_text(json.dumps(said))
    shutil.copy(source.with_suffix(".npz"), path.with_suffix(".npz"))
    return path


def test_a_real_cohort_must_be_named(installed, tmp_path):
    source = installed.cells("toy")[0]
    real = {"name": "toy", "revision": "0" * 16, "phantom": False}
    said = json.loads(source.read_text()) | {"phantom": False}
    said["data"].pop("generator")
    (tmp_path / "real.json").write_text(json.dumps(said))
    shutil.copy(source.with_suffix(".npz"), tmp_path / "real.npz")
    assert "give its folder with --data toy=PATH" in refused(edited(tmp_path / "real.json", tmp_path, cohort=real))
    text = refused(source, "--data", f"toy={tmp_path / 'nowhere'}")
    assert "there is no such folder" in text
    assert "the result is of cohort toy" in refused(source, "--data", "adni=x")


def test_a_cohort_that_changed_is_named(installed, tmp_path):
    copy = tmp_path / "toy"
    shutil.copytree(installed.cohorts["toy"], copy)
    table = copy / "toy.csv"
    table.write_text(table.read_text().replace("dull", "bright", 1))
    text = refused(installed.cells("toy")[0], "--data", f"toy={copy}")
    assert "has revision" in text and "the result was made on" in text


def test_a_plugin_of_another_version_is_named(installed, tmp_path):
    source = installed.cells("toy")[0]
    assert "medgraft-toy 9.9 and 1.5 is installed here" in refused(
        edited(source, tmp_path, plugins={"medgraft-toy": "9.9"})
    )
    assert "no-such-zoo 1.0, which is not installed" in refused(
        edited(source, tmp_path, plugins={"no-such-zoo": "1.0"})
    )


@pytest.mark.parametrize(
    ("spec", "told"),
    [({"numbers_version": 3}, "numbers version 3"), ({"encoder_weights": "sha256:0"}, "the weights of toy:tiny are"),
     ({"task_version": 7}, "version 7 of toy"), ({"device": "cuda"}, "a GPU")],
)  # fmt: skip
def test_what_would_give_other_numbers_is_named(installed, tmp_path, spec, told):
    assert told in refused(edited(installed.cells("toy")[0], tmp_path, **spec))


def test_a_failed_cell_has_nothing_to_agree_with(tmp_path):
    path = ResultStore(tmp_path).path(store(tmp_path, status="error").spec)
    assert "there are no numbers to agree" in refused(path)


# --- agreement --------------------------------------------------------------------------------------------------------


def pair(folder: Path, shift: float, *, beside: bool = True, env: dict[str, Any] | None = None, **changes: Any):
    """A stored result, and one whose scores moved by ``shift`` and whose metrics are those of the moved scores."""
    from medgraft.metric import Predictions
    from medgraft.metric.judging import values

    cell = store(folder / "a", **changes)
    path = ResultStore(folder / "a").path(cell.spec)
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = dict(stored)
    scores = arrays["scores"] + np.array([shift, -shift])
    now = values(Predictions(scores, arrays["targets"], arrays["groups"], ("CN", "AD")))
    metrics = {n: m.model_copy(update={"value": now[n]}) for n, m in cell.metrics.items()}
    new = cell.model_copy(update={"metrics": metrics, "env": env or {}})
    other = ResultStore(folder / "b").path(cell.spec)
    other.parent.mkdir(parents=True)
    if beside:
        write_arrays(other.with_suffix(".npz"), arrays | {"scores": scores})
    return Verified(path, cell), Verified(other, new)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("shift", "precision", "verdict"),
    [(0.0, "fp32", "bit for bit"), (1e-6, "fp32", "within rounding"), (5e-3, "bf16", "within rounding"),
     (0.2, "fp32", "they differ"), (0.2, "bf16", "they differ")],
)  # fmt: skip
def test_the_verdict_follows_from_how_far_scores_moved(tmp_path, shift, precision, verdict, beside):
    found = compared(*pair(tmp_path, shift, precision=precision, beside=beside))
    if not beside and verdict == "within rounding":  # metrics that count may jump where scores hardly move
        assert found.verdict != "bit for bit"
    else:
        assert found.verdict == verdict
    assert (found.largest is not None) == beside
    if beside:
        assert found.largest == pytest.approx(shift, abs=1e-12)


def test_what_differs_between_machines_is_listed(tmp_path):
    env = {"cpu": "another", "packages": {"torch": "9.0"}}
    assert set(compared(*pair(tmp_path, 0.0, env=env)).changes) == {"cpu: none, now another", "torch none, now 9.0"}


def test_a_phantom_is_made_again_and_another_one_is_refused(tmp_path, monkeypatch):
    """Candidates are tried until one has the revision of the result."""
    made: list[Any] = []

    def phantom(name: str, entry: Any, jobs: int, announce: Any) -> reproduction.cohorts.Cohort:
        made.append(entry)
        id = reproduction.cohorts.CohortId(name=name, revision=f"r{len(made)}", phantom=True)
        return reproduction.cohorts.Cohort(id, tmp_path)

    monkeypatch.setattr(reproduction.cohorts, "phantom", phantom)
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path))
    spec = store(tmp_path).spec
    wanted = spec.model_copy(update={"cohort": spec.cohort.model_copy(update={"revision": "r2"})})
    assert reproduction.cohort_of(wanted, {}).id.revision == "r2" and len(made) == 2
    with pytest.raises(reproduction.DataError, match="none that this medgraft makes"):
        reproduction.cohort_of(spec, {})
    assert len({json.dumps(entry.model_dump(), sort_keys=True) for entry in made[2:]}) == len(made) - 2
