"""Every check of an adapter bites: a broken adapter fails exactly the check of the rule that it breaks."""

from __future__ import annotations

import pytest
from broken_adapters import ALSO_BROKEN, BROKEN
from running import failures
from sound_adapters import Sound, SoundMerge

from medgraft.testing import check_adapter
from medgraft.testing.tiny import ENCODERS

# One encoder that the adapters fit and one that they refuse: what is under test here is the kit.
TWO = {name: ENCODERS[name] for name in ("packed-2d", "none-2d")}
NEEDED = {
    # Its queries have a projection of their own, the only one that the short last block runs on one row.
    "the_short_last_block_agrees": {name: ENCODERS[name] for name in ("split-2d", "none-2d")},
    "cut_texts_agree": {name: ENCODERS[name] for name in ("dual-2d", "none-2d")},
}
"""Rules that these two do not show."""


@pytest.mark.parametrize("adapter", [Sound, SoundMerge])
def test_a_sound_adapter_passes_every_check_on_every_encoder(adapter):
    assert failures(check_adapter(adapter)) == {}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_adapter_fails_exactly_its_check(name):
    found = failures(check_adapter(BROKEN[name], encoders=NEEDED.get(name, TWO)))
    assert list(found) == [name], found
    label, _, rest = found[name].partition(": ")
    assert label.startswith(BROKEN[name].__name__.lower())
    assert len(rest.split(". ")) >= 2, "a problem and a remedy"


@pytest.mark.parametrize(("name", "adapter"), ALSO_BROKEN)
def test_other_ways_to_break_a_rule_are_found(name, adapter):
    checks = [check for check in check_adapter(adapter, encoders=TWO) if str(check) == name]
    assert list(failures(checks)) == [name]


def test_every_check_has_a_broken_adapter():
    assert {str(check) for check in check_adapter(Sound)} == set(BROKEN)
