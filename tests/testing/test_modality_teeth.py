"""The checks of encoders bite on recordings, runs, rows and graphs as they do on images."""

from __future__ import annotations

import pytest
from broken_modalities import BROKEN, SOUND
from running import failures

from medgraft.testing import check_encoder

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_encoder_fails_the_check_of_its_rule(name):
    rule, build = BROKEN[name]
    found = failures(check for check in check_encoder(build) if str(check) == rule)
    assert list(found) == [rule]
    assert len(found[rule].split(". ")) >= 2, "a problem and a remedy"


@pytest.mark.parametrize("modality", SOUND)
def test_the_sound_ones_pass_those_checks_and_each_modality_has_some_that_do_not(modality):
    rules = {rule for rule, _ in BROKEN.values()}
    assert failures(check for check in check_encoder(SOUND[modality]) if str(check) in rules) == {}
    assert sum(name.startswith(f"{modality}:") for name in BROKEN) > 1
