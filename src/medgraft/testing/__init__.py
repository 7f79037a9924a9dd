"""The conformance kit: the rules that a plugin must keep, as checks for an author's own test suite.

Example:
    In a test file, with pytest or any other runner::

        import pytest
        from medgraft.testing import check_adapter
        from my_package import MyAdapter

        @pytest.mark.parametrize("check", check_adapter(MyAdapter), ids=str)
        def test_conformance(check):
            check()

A check that fails raises :class:`ConformanceError`, whose message says what is wrong and what to change; one that does
not apply raises :class:`unittest.SkipTest`. Nothing is downloaded: the kit brings its own tiny encoders.
"""

from medgraft.testing.check import Check, ConformanceError
from medgraft.testing.suites import check_adapter, check_encoder, check_task

__all__ = ["Check", "ConformanceError", "check_adapter", "check_encoder", "check_task"]
