"""Every check of an encoder bites: a broken encoder fails exactly the check of the rule that it breaks."""

from __future__ import annotations

import pytest
from broken_encoders import BROKEN
from running import failures

from medgraft import plugins
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.plugins import discovery
from medgraft.testing import check_encoder
from medgraft.testing.tiny import ENCODERS, example_inputs, tiny_encoder


@pytest.fixture(autouse=True)
def a_source_that_takes_any_name(monkeypatch):
    plugin = plugins.Plugin("encoder", "takes_all", "broken_encoders:TakesAll", "tests", "0")
    known = {kind: plugins.discover(kind) for kind in plugins.GROUPS}
    known["encoder"] = {**known["encoder"], "takes_all": plugin}
    for module in (plugins, discovery):  # the name that is offered, and the one that the module itself calls
        monkeypatch.setattr(module, "discover", lambda kind: known[kind])


@pytest.mark.parametrize("name", ENCODERS)
def test_the_tiny_encoders_pass_every_check(name):
    assert failures(check_encoder(ENCODERS[name])) == {}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_encoder_fails_exactly_its_check(name):
    found = failures(check_encoder(BROKEN[name]))
    assert list(found) == [name], found
    assert len(found[name].split(". ")) >= 2, "a problem and a remedy"


def test_every_check_has_a_broken_encoder():
    assert {str(check) for check in check_encoder(tiny_encoder("none-2d"))} == set(BROKEN)


def test_there_is_one_encoder_per_layout_and_rank():
    kinds = set()
    for name in ENCODERS:
        for tower in tiny_encoder(name).towers().values():
            style = tower.attention[-1].style if tower.attention else "none"
            kinds.add((style, len(tower.spec.input_size)))
    assert {(style, rank) for style in ("packed", "split", "mha") for rank in (2, 3)} <= kinds


def test_the_axes_of_a_grid_differ():
    for name in ENCODERS:
        encoder = tiny_encoder(name)
        x = next(iter(example_inputs(encoder).values()))
        assert len(set(encoder(x).grid)) == len(encoder(x).grid)


def test_what_is_no_encoder_is_refused():
    with pytest.raises(ConfigError, match="5 is no encoder"):
        check_encoder(5)
    with pytest.raises(UnknownNameError, match="did you mean"):
        check_encoder("tim:vit")
