"""Stages: patterns become parameters, shares become steps, and what does not fit is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.adapter import Adapter
from medgraft.errors import ConfigError
from medgraft.schedule import Stage, stage_parameters, stage_starts

NAMES = ["router", "expert.0", "expert.1", "head"]


def test_an_adapter_trains_in_one_stage_unless_it_says_otherwise():
    assert stage_parameters(Adapter().schedule(), NAMES, "it") == {"all": tuple(NAMES)}
    assert stage_parameters(Adapter().schedule(), [], "it") == {"all": ()}


def test_patterns_become_parameters_in_their_order():
    stages = (Stage("a", ("expert.*", "router"), 0.5), Stage("b", ("head", "router"), 0.5))
    assert stage_parameters(stages, NAMES, "it") == {"a": tuple(NAMES[:3]), "b": ("router", "head")}


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ((Stage("a", ("*",), 0.5),), "sum to 1"),
        ((Stage("a", ("*",), 1.5), Stage("b", ("*",), -0.5)), "above 0"),
        ((), "sum to 1"),
        ((Stage("a", ("*",), 0.5), Stage("a", ("*",), 0.5)), "twice"),
        ((Stage("a", ("rooter",)),), "'rooter'"),
        ((Stage("a", ("expert.*",)),), "trains router, head"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(stages, problem):
    with pytest.raises(ConfigError, match=problem):
        stage_parameters(stages, NAMES, "it")


@given(shares=st.lists(st.integers(1, 20), min_size=1, max_size=5), extra=st.integers(0, 200))
def test_stages_start_in_order_with_a_step_each(shares, extra):
    stages = tuple(Stage(str(i), share=share / sum(shares)) for i, share in enumerate(shares))
    steps = len(stages) + extra
    starts = stage_starts(stages, steps, "it")
    lengths = [b - a for a, b in zip(starts, [*starts[1:], steps], strict=True)]
    assert starts[0] == 0 and min(lengths) >= 1
    if extra > 100:
        assert all(abs(length / steps - stage.share) < 0.1 for length, stage in zip(lengths, stages, strict=True))


def test_more_stages_than_steps_are_refused():
    with pytest.raises(ConfigError, match=r"2 stages.*only 1 steps"):
        stage_starts((Stage("a", share=0.5), Stage("b", share=0.5)), 1, "it")
