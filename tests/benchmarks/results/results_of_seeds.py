"""Results of many seeds, made of one of an earlier version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult

EARLIER = Path(__file__).parent / "earlier"


def stored(folder: Path, n: int) -> Iterator[Path]:
    """Results of ``n`` seeds whose numbers differ, made of one of an earlier version."""
    source = read_result(next(path for path in sorted(EARLIER.glob("*.json")) if read_result(path).metrics))
    for seed in range(n):
        spec = source.spec.model_copy(update={"seed": seed})
        curve = {name: [0.001 * seed + 0.01 * k for k in range(50)] for name in ("confidence", "observed")}
        curve |= {name: [0.002 * seed + 0.01 * k for k in range(50)] for name in ("ci_low", "ci_high")}
        curve |= {"samples": list(range(50)), "subjects": list(range(50))}
        one = {"value": 0.001 * seed, "ci_low": 0.0, "ci_high": 0.9, "n": 50, "n_subjects": 40}
        group = {"metric": source.primary, "groups": {"F": one, "M": one}, "worst": "F", "gap": one}
        facts = source.model_dump() | {"spec": spec.model_dump(), "key": spec.key(), "groups": {"sex": group}}
        numbers = {f"f1_{k}": {**one, "value": 0.001 * seed + 0.01 * k} for k in range(40)}
        facts |= {"calibration": {"reliability": {"likeliest": curve, "classes": {"a": curve, "b": curve}}}}
        facts |= {"metrics": {**facts["metrics"], **numbers}, "timing": {"train": 1.0 + seed}}
        path = folder / f"{spec.key()}.json"
        path.write_text(CellResult.model_validate(facts).model_dump_json(indent=1))
        yield path
