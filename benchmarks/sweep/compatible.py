"""Which rows can run, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from medgraft.benchmarks.cell.resolved import ResolvedRow, Resolver
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row, resolve_row
from medgraft.errors import IncompatibleError, MedgraftError
from medgraft.objective import pair_of

if TYPE_CHECKING:
    from medgraft.adapter.protocols import ClassifiesBySupport
    from medgraft.encoder import Encoder

    Build = Callable[[str, tuple[str, ...]], Encoder]


def misfit(row: ResolvedRow, views: int = 0, build: Build | None = None) -> str:
    """Why a row cannot run; empty if it can.

    Args:
        row: The row.
        views: Augmented views of each sample.
        build: Name and modalities -> encoder, which is only asked; builds one anew by default.

    Raises:
        MedgraftError: The encoder cannot be built at all.
    """
    from medgraft.adapter.protocols import ClassifiesBySupport, LearnsClasses
    from medgraft.benchmarks.cell.encoder import select_encoder
    from medgraft.encoder.towers import shares_space

    objective, name = row.objective, row.encoder.full
    try:
        encoder = (build or select_encoder)(name, row.modalities)
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


def _building() -> Build:
    """Builds encoders, and keeps the last one for the next row; one at a time: they are large."""
    from medgraft.benchmarks.cell.encoder import select_encoder

    kept: dict[tuple[str, tuple[str, ...]], Encoder] = {}

    def build(name: str, inputs: tuple[str, ...]) -> Encoder:
        if (name, inputs) not in kept:
            kept.clear()
            kept[name, inputs] = select_encoder(name, inputs)
        return kept[name, inputs]

    return build


def fits(
    sweep: Sweep, rows: Iterable[Row], explicit: set[str], resolver: Resolver | None = None
) -> tuple[dict[Row, ResolvedRow], dict[Row, str]]:
    """Splits rows into those that can run, resolved, and those that cannot, with the reason.

    An encoder that cannot be built stops the sweep if it was asked for by name, and is a reason otherwise.
    """
    resolver, build = resolver or Resolver(), _building()
    good: dict[Row, ResolvedRow] = {}
    skipped: dict[Row, str] = {}
    listed = list(rows)
    places = {pair: place for place, pair in enumerate(dict.fromkeys((row.encoder, row.task) for row in listed))}
    first = {encoder: place for (encoder, _), place in reversed(places.items())}
    for row in sorted(listed, key=lambda row: (first[row.encoder], places[row.encoder, row.task])):
        try:
            resolved = resolve_row(row, sweep, resolver)
            reason = misfit(resolved, sweep.augment_views, build)
        except MedgraftError as error:
            if row.encoder in explicit:
                raise
            reason = str(error)
        else:
            if not reason:
                good[row] = resolved
        if reason:
            skipped[row] = reason
    return {row: good[row] for row in listed if row in good}, {row: skipped[row] for row in listed if row in skipped}
