"""Scaling an adapter to a number of trainable parameters, by the option that it names as its size knob.

Parameters are counted on the adapter attached to its encoder, never by a formula. What counts is what the adapter adds;
a head reads the features of every row alike and is counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medgraft.adapter.knobs import SizeKnob
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.registry import build_adapters

if TYPE_CHECKING:
    from medgraft.encoder import Encoder

LARGEST = 2**24
"""Value of a size knob beyond which none is tried."""

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


def parse_count(text: str) -> int:
    """A number of parameters as people write it.

    Example:
        >>> parse_count("1M"), parse_count("500k"), parse_count("2.5M"), parse_count("12000")
        (1000000, 500000, 2500000, 12000)

    Raises:
        ConfigError: It is none, or less than one.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)([kKmMbB]?)", text.strip())
    count = round(float(found[1]) * UNITS[found[2].lower()]) if found else 0
    if count < 1:
        raise ConfigError(f"a budget is a number of parameters such as 1M, 500k or 12000, not {text!r}")
    return count


def shown_count(count: int) -> str:
    """The same the other way round, short.

    Example:
        >>> shown_count(1_000_000), shown_count(2_500_000), shown_count(12_345), shown_count(900)
        ('1M', '2.5M', '12.3k', '900')
    """
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{float(f'{count / size:.4g}' if count % size == 0 else f'{count / size:.3g}'):g}{unit}"
    return str(count)


@dataclass(frozen=True)
class Sizing:
    """How an adapter was scaled.

    Attributes:
        options: Of the adapter, or by part of a composed one, as :func:`medgraft.registry.build_adapters` takes them.
        reached: Trainable parameters that it adds.
        option: The size knob as ``--set`` names it; empty for an adapter without one.
        value: What the knob was set to; ``None`` without one.
        above: Parameters at the next larger size; ``None`` where there is none: the encoder or the option's range ends.
    """

    options: Mapping[str, Any]
    reached: int
    option: str = ""
    value: int | None = None
    above: int | None = None


def trainable_of(encoder: Encoder, adapter: str, options: Mapping[str, Any]) -> int:
    """Trainable parameters that an adapter adds to an encoder, head left out; the encoder is as it was afterwards.

    Args:
        encoder: With the towers that the task reads.
        adapter: Name, several joined by ``+``.
        options: Of the adapter; of several, by part.

    Raises:
        MedgraftError: An option is out of range, or the adapter does not fit.
    """
    from medgraft.grafting import Grafted

    grafted = Grafted(encoder, build_adapters(adapter, options))
    try:
        return sum(grafted.trainable_count().values())
    finally:
        grafted.ungraft()


def sized(encoder: Encoder, adapter: str, options: Mapping[str, Any], budget: int) -> Sizing:
    """The largest setting of an adapter's size knob that keeps to a number of trainable parameters.

    Of a composed adapter the first part with a knob is scaled, and the whole is counted. One without a knob stays as
    it is.

    Args:
        encoder: With the towers that the task reads.
        adapter: Name, several joined by ``+``.
        options: Of the adapter; of several, by part.
        budget: Number of parameters.

    Raises:
        IncompatibleError: Its smallest setting, or all that it is, has more.
        MedgraftError: The options are out of range, or the adapter does not fit.
    """
    built = build_adapters(adapter, options)
    part, knob = next(((part, each.size_knob) for part, each in built.items() if each.size_knob), ("", None))
    if knob is None:
        reached = trainable_of(encoder, adapter, options)
        if reached > budget:
            raise IncompatibleError(
                f"it trains {reached:,} parameters, more than the budget of {budget:,}, and has no size knob"
            )
        return Sizing(options, reached)
    chosen = knob

    def with_value(value: int) -> dict[str, Any]:
        if len(built) == 1:
            return chosen.set_in(options, value)
        return {**options, part: chosen.set_in(options.get(part, {}), value)}

    def count(value: int) -> int | None:
        try:
            return trainable_of(encoder, adapter, with_value(value))
        except (ConfigError, IncompatibleError):
            return None

    value, reached, above = _largest_within(count, knob, budget)
    name = f"{part}.{knob.option}"
    if value is None:
        if reached is None:
            trainable_of(encoder, adapter, options)  # says what is wrong, which no setting mends
            raise IncompatibleError(f"no setting of {name} can be built on the encoder")
        raise IncompatibleError(
            f"it trains {reached:,} parameters at its smallest {name}, more than the budget of {budget:,}"
        )
    assert reached is not None
    return Sizing(with_value(value), reached, name, value, above)


Count = Callable[[int], int | None]


def _largest_within(count: Count, knob: SizeKnob, budget: int) -> tuple[int | None, int | None, int | None]:
    """Setting of a knob, its parameters, and those of the next larger one.

    Without a setting that keeps to the budget: ``None``, the parameters of the smallest, ``None``.
    """
    return _shrinking(count, knob, budget) if knob.shrinks else _growing(count, knob, budget)


def _growing(count: Count, knob: SizeKnob, budget: int) -> tuple[int | None, int | None, int | None]:
    lowest, step = knob.lowest, knob.step
    reached = count(lowest)
    if reached is None or reached > budget:
        return None, reached, None
    known: dict[int, int | None] = {lowest: reached}

    def fits(value: int) -> bool:
        known[value] = count(value)
        return (found := known[value]) is not None and found <= budget

    good, bad = lowest, lowest + step
    while fits(bad):
        if bad > LARGEST or _is_flat([known[value] for value in sorted(known)]):
            good = min(value for value, found in known.items() if found == known[bad])
            return good, known[good], None  # more of it changes nothing any more
        good, bad = bad, bad + (bad - lowest + step)
    while bad - good > step:
        middle = good + (bad - good) // step // 2 * step
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good, known[good], known[bad]


def _shrinking(count: Count, knob: SizeKnob, budget: int) -> tuple[int | None, int | None, int | None]:
    lowest, step = knob.lowest, knob.step
    known: dict[int, int | None] = {}

    def fits(value: int) -> bool:
        known[value] = count(value)
        return (found := known[value]) is not None and found <= budget

    if fits(lowest):
        return lowest, known[lowest], None
    bad, good = lowest, lowest + step
    while not fits(good):
        if good > LARGEST or _is_flat([known[value] for value in sorted(known)]):
            return None, known[good], None
        bad, good = good, good + (good - lowest + step)
    while good - bad > step:
        middle = bad + (good - bad) // step // 2 * step
        bad, good = (bad, middle) if fits(middle) else (middle, good)
    return good, known[good], known[bad]


FLAT = 6
"""Doublings of a knob that change nothing before it is taken to have no more to give."""


def _is_flat(counts: list[int | None]) -> bool:
    return len(counts) > FLAT and counts[-1] is not None and len(set(counts[-FLAT:])) == 1
