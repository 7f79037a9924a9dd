"""Every check of a task bites: a broken task fails exactly the check of the rule that it breaks."""

from __future__ import annotations

import numpy as np
import pytest
from broken_tasks import BROKEN, Sound
from running import failures

from medgraft.errors import ConfigError, UnknownNameError
from medgraft.testing import ConformanceError, check_task


@pytest.mark.parametrize("task", [Sound, Sound(Sound.Config(split_seed=3))], ids=["class", "instance"])
def test_a_sound_task_passes_every_check(task, tmp_path):
    assert failures(check_task(task, tmp_path)) == {}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_task_fails_exactly_its_check(name, tmp_path):
    found = failures(check_task(BROKEN[name], tmp_path))
    assert list(found) == [name], found
    assert len(found[name].split(". ")) >= 2, "a problem and a remedy"


def test_every_check_has_a_broken_task(tmp_path):
    assert {str(check) for check in check_task(Sound, tmp_path)} == set(BROKEN)


def test_a_check_leaves_the_global_random_state_alone(tmp_path):
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    failures(check_task(Sound, tmp_path))
    assert np.random.rand() == expected


def test_a_cohort_without_a_phantom_needs_a_folder():
    check = next(check for check in check_task(Sound) if check.name == "it_loads")
    with pytest.raises(ConformanceError, match="no phantom of cohort 'made_up'; pass the folder"):
        check()


def test_what_is_no_task_is_refused():
    with pytest.raises(ConfigError, match="5 is no task"):
        check_task(5)
    with pytest.raises(UnknownNameError, match="did you mean adni_image"):
        check_task("adni_imag")
