"""Stages: patterns become parameters, shares become steps, and what does not fit is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.adapter import Adapter
from medgraft.adapter.protocols import phases_of
from medgraft.errors import ConfigError
from medgraft.schedule import Phase, phase_parameters, phase_starts

NAMES = ["router", "expert.0", "expert.1", "head"]


def test_an_adapter_trains_in_one_phase_unless_it_says_otherwise():
    assert phase_parameters(phases_of(Adapter()), NAMES, "it") == {"all": tuple(NAMES)}
    assert phase_parameters(phases_of(Adapter()), [], "it") == {"all": ()}


def test_patterns_become_parameters_in_their_order():
    phases = (Phase("a", ("expert.*", "router"), 0.5), Phase("b", ("head", "router"), 0.5))
    assert phase_parameters(phases, NAMES, "it") == {"a": tuple(NAMES[:3]), "b": ("router", "head")}


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        ((Phase("a", ("*",), 0.5),), "sum to 1"),
        ((Phase("a", ("*",), 1.5), Phase("b", ("*",), -0.5)), "above 0"),
        ((), "sum to 1"),
        ((Phase("a", ("*",), 0.5), Phase("a", ("*",), 0.5)), "twice"),
        ((Phase("a", ("rooter",)),), "'rooter'"),
        ((Phase("a", ("expert.*",)),), "trains router, head"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(phases, problem):
    with pytest.raises(ConfigError, match=problem):
        phase_parameters(phases, NAMES, "it")


@given(shares=st.lists(st.integers(1, 20), min_size=1, max_size=5), extra=st.integers(0, 200))
def test_phases_start_in_order_with_a_step_each(shares, extra):
    phases = tuple(Phase(str(i), share=share / sum(shares)) for i, share in enumerate(shares))
    steps = len(phases) + extra
    starts = phase_starts(phases, steps, "it")
    lengths = [b - a for a, b in zip(starts, [*starts[1:], steps], strict=True)]
    assert starts[0] == 0 and min(lengths) >= 1
    if extra > 100:
        assert all(abs(length / steps - phase.share) < 0.1 for length, phase in zip(lengths, phases, strict=True))


def test_more_phases_than_steps_are_refused():
    with pytest.raises(ConfigError, match=r"2 phases.*only 1 steps"):
        phase_starts((Phase("a", share=0.5), Phase("b", share=0.5)), 1, "it")
