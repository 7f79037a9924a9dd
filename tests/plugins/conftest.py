"""The wheel of this checkout, built once."""

from pathlib import Path

import pytest
from environments import build_wheel


@pytest.fixture(scope="session")
def medgraft_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("medgraft-wheel"))
