"""Encoders that are proposed for one's own data exist by these names."""

from __future__ import annotations

import re

import pytest

from medgraft.benchmarks.cohorts.own.proposals import ENCODERS, encoders_for
from medgraft.plugins import find
from medgraft.registry import check_encoder

PLACEHOLDER = re.compile(r"MODEL|_ENCODER|/path/to/")
NAMES = sorted({name for each in ENCODERS.values() for name, _ in each})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_that_can_be_typed(name):
    if PLACEHOLDER.search(name):  # the user's own file or encoder: the source at least
        assert find("encoder", name.partition("@")[0].partition(":")[0]).builtin
    else:
        check_encoder(name)


def test_every_kind_of_input_has_one():
    assert all(encoders_for(inputs) for inputs in ENCODERS) and encoders_for(("table",)) == ()
