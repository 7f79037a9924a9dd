"""Every source of encoders keeps every rule with a small model of its own, random weights, offline."""

from __future__ import annotations

import functools

import pytest
from models import MODELS, TINY_VOCABULARY

from medgraft import plugins
from medgraft.testing import Check, check_encoder

pytestmark = pytest.mark.slow(seconds=120)

SOURCES = [name for name, plugin in plugins.discover("encoder").items() if plugin.builtin]


def names() -> list[str]:
    """The small models by name, and for a source that has none the first that it lists."""
    covered = {name.partition("-")[0] for name in MODELS}
    listed = [source for source in SOURCES if source not in covered]
    return [*MODELS, *(f"{each}:{first_model(each)}@random" for each in listed)]


def first_model(source: str) -> str:
    return next(iter(plugins.load(plugins.find("encoder", source)).models()))


@functools.cache
def checks(name: str) -> dict[str, Check]:
    return {str(check): check for check in check_encoder(MODELS.get(name, name))}


RULES = [str(check) for check in check_encoder("pixels:2d")]


@pytest.mark.parametrize(("name", "check"), [(name, check) for name in names() for check in RULES])
def test_a_built_in_encoder_conforms(name, check):
    if check == "prepare_gives_the_input" and name in TINY_VOCABULARY:
        pytest.skip("the library's tokenizer has more words than this small model")
    checks(name)[check]()


def test_every_source_is_covered():
    covered = {name.partition("-")[0].partition(":")[0] for name in names()}
    assert covered == set(SOURCES)
