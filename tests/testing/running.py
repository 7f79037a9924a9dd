"""Runs a list of checks and sorts them by what happened."""

from __future__ import annotations

import unittest
from collections.abc import Iterable

from medgraft.testing import Check, ConformanceError


def failures(checks: Iterable[Check]) -> dict[str, str]:
    """Name -> message of the checks that fail; those that do not apply are left out."""
    found = {}
    for check in checks:
        try:
            check()
        except ConformanceError as error:
            found[str(check)] = str(error)
        except unittest.SkipTest:
            continue
    return found
