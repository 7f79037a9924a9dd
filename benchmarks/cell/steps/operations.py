"""In which forms the shared operations of a cell run, and which they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medgraft.benchmarks.results.result import OpUse
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.ops import backends


@contextmanager
def operations(spec: CellSpec) -> Iterator[backends.Record]:
    """Inside it, shared operations run in the forms that the spec asks for, and the record knows which they were.

    A compiled graft is compiled as a whole, so its operations are asked for in eager mode and traced.
    """
    backend: backends.Backend = "eager" if spec.backend == "compile" else spec.backend
    with backends.using(backend), backends.recording() as record:
        yield record


def uses_of(record: backends.Record) -> dict[str, list[OpUse]]:
    """Which form each shared operation ran in so far, how often, and why not the fused one."""
    return {op: [OpUse(**use) for use in uses] for op, uses in record.summary().items()}
