"""The kit as an author uses it: in a folder of their own, with pytest and nothing of this test suite."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ADAPTER = '''
"""A third party's adapter."""

import torch
from pydantic import Field
from torch import nn

from medgraft import Adapter, AdapterConfig, Attachment


class Gain(Adapter):
    """Multiplies the pooled features by a trained gain, one at the start."""

    class Config(AdapterConfig):
        """Options.

        Attributes:
            start: Exponent of the gain.
        """

        start: float = Field(0.0, ge=0, le={limit})

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.record({{"features": [site for site in sites.values() if site.kind == "features"]}})
        self.gain = nn.Parameter(torch.tensor(self.config.start))
        for tower in encoder.towers().values():
            attachment.map_features(tower, lambda f: f.replace(pooled=f.pooled * {gain}))
        return attachment
'''
TEST = """
import pytest
from acme_gain import Gain
from medgraft.testing import check_adapter

@pytest.mark.parametrize("check", check_adapter(Gain), ids=str)
def test_conformance(check):
    check()
"""


ON_ONE = """
import pytest
from acme_gain import Gain
from medgraft.testing import check_adapter
from medgraft.testing.tiny import ENCODERS

@pytest.mark.parametrize("check", check_adapter(Gain, encoders={"one": ENCODERS["packed-2d"]}), ids=str)
def test_conformance(check):
    check()
"""


def run(folder, test: str = TEST, **parts: str) -> str:
    (folder / "acme_gain.py").write_text(ADAPTER.format(**parts))
    (folder / "test_acme_gain.py").write_text(test)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "test_acme_gain.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False).stdout


@pytest.mark.slow
def test_a_sound_third_party_passes(tmp_path):
    told = run(tmp_path, gain="torch.exp(self.gain)", limit="1")
    assert " failed" not in told and "it has no option 'targets'" in told
    assert "passed" in told


@pytest.mark.slow
def test_a_broken_third_party_is_told_which_rule_and_what_to_change(tmp_path):
    told = run(tmp_path, ON_ONE, gain="(torch.exp(self.gain) + 1)", limit="1")
    assert "1 failed" in told
    assert "test_conformance[identity_at_the_start_is_true]" in told
    assert "Start as the identity" in told


def test_the_kit_imports_no_test_runner():
    code = "import sys, medgraft.testing; print(sorted({'pytest', 'hypothesis', 'timm', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
