"""Which rows can run, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from medgraft.benchmarks.cell.resolved import ResolvedRow, Resolver
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row, resolve_row
from medgraft.errors import IncompatibleError, MedgraftError
from medgraft.objective import pair_of

if TYPE_CHECKING:
    from medgraft.adapter.protocols import ClassifiesBySupport


def misfit(row: ResolvedRow, views: int = 0) -> str:
    """Why a row cannot run; empty if it can.

    Args:
        row: The row.
        views: Augmented views of each sample.

    Raises:
        MedgraftError: The encoder cannot be built at all.
    """
    from medgraft.adapter.protocols import ClassifiesBySupport, LearnsClasses
    from medgraft.benchmarks.cell.encoder import select_encoder
    from medgraft.encoder.towers import shares_space

    objective, name = row.objective, row.encoder.full
    try:
        encoder = select_encoder(name, row.modalities)
    except IncompatibleError as error:
        return str(error)
    compared = pair_of(row.task) or row.modalities
    if "shared space" in objective.needs and not shares_space(encoder, *compared):
        return f"the task compares {' and '.join(compared)}, and the encoder has no space that they share"
    if views and "still images" in objective.needs:
        return "augmented views move the image, and what is to be found in it would stay where it was"
    for part, each in row.adapters.items():
        support = each.adapter.supports(encoder)
        if not support:
            return f"adapter {part!r} does not fit encoder {name!r}: {support.reason}"
        if isinstance(each.adapter, LearnsClasses) and not objective.learns_classes:
            return (
                f"adapter {part!r} learns classes by their prompts from images of one class each, and the task has "
                "none to train on; the tasks with the tag few_shot have (--tasks tag:few_shot)"
            )
        if isinstance(each.adapter, ClassifiesBySupport) and (reason := _no_support(part, each.adapter, row)):
            return reason
    return ""


def _no_support(name: str, adapter: ClassifiesBySupport, row: ResolvedRow) -> str:
    """Why an adapter cannot classify by its training features in a row; empty if it can."""
    if len(row.adapters) > 1:
        from medgraft.benchmarks.objectives.support import alone

        return alone(name)
    if not row.objective.takes_support:
        return (
            f"adapter {name!r} classifies by the features of labelled samples, and the objective of the task "
            "has no classes that its training samples show"
        )
    if adapter.reads_prompts and not row.objective.learns_classes:
        return (
            f"adapter {name!r} starts from the prompts of the classes, and the task has none beside its labels; the "
            "tasks with the tag few_shot have (--tasks tag:few_shot)"
        )
    return ""


def fits(
    sweep: Sweep, rows: Iterable[Row], explicit: set[str], resolver: Resolver | None = None
) -> tuple[dict[Row, ResolvedRow], dict[Row, str]]:
    """Splits rows into those that can run, resolved, and those that cannot, with the reason.

    An encoder that cannot be built stops the sweep if it was asked for by name, and is a reason otherwise.
    """
    resolver = resolver or Resolver()
    good: dict[Row, ResolvedRow] = {}
    skipped: dict[Row, str] = {}
    for row in rows:
        try:
            resolved = resolve_row(row, sweep, resolver)
            reason = misfit(resolved, sweep.augment_views)
        except MedgraftError as error:
            if row.encoder in explicit:
                raise
            reason = str(error)
        else:
            if not reason:
                good[row] = resolved
        if reason:
            skipped[row] = reason
    return good, skipped
