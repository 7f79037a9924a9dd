"""Every built-in adapter keeps every rule, found through the entry points: a new one is covered without an edit."""

from __future__ import annotations

import functools

import pytest

from medgraft import plugins
from medgraft.testing import Check, check_adapter
from medgraft.testing.adapter_rules import numbers as adapter_numbers

pytestmark = pytest.mark.slow(seconds=577)

NAMES = [name for name, plugin in plugins.discover("adapter").items() if plugin.builtin]
# Families and compositions go by names that are no entry points.
NAMES += ["peft:ia3", "peft:oft", "lora+ace_hgnn"]
OPTIONS = {"peft:oft": {"options": {"oft_block_size": 16}}}


@functools.cache
def checks(name: str) -> dict[str, Check]:
    """One list per adapter, so that it tries the encoders once."""
    return {str(check): check for check in check_adapter(name, **OPTIONS.get(name, {}))}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name in NAMES for check in checks(name)])
def test_a_built_in_adapter_conforms(name, check, monkeypatch):
    monkeypatch.setattr(adapter_numbers, "MANY_PIECES", 10**6)  # ours are traced on every kind, however long it takes
    checks(name)[check]()


def test_the_built_in_adapters_are_found():
    assert {"lora", "ace_lora", "brain_adapter", "linear_probe"} <= set(NAMES)
