"""No network, one thread, and raw samples that every source can prepare."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def offline_and_slim():
    import huggingface_hub.constants

    before, threads = huggingface_hub.constants.HF_HUB_OFFLINE, torch.get_num_threads()
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # read from the environment once, perhaps before this file
    torch.set_num_threads(1)
    yield
    huggingface_hub.constants.HF_HUB_OFFLINE = before
    torch.set_num_threads(threads)


@pytest.fixture
def reachable(monkeypatch):
    """Every host answers, so that what a test puts in the place of a download is called."""
    monkeypatch.setattr("medgraft.encoders.parts.hub._why", lambda url: "")


@pytest.fixture(scope="session")
def radiograph():
    return np.random.default_rng(0).integers(0, 256, (90, 80), dtype=np.uint8)


@pytest.fixture(scope="session")
def volume():
    values = np.random.default_rng(0).random((30, 40, 36), dtype=np.float32) + 0.5
    values[:6] = 0
    return values


class Bomb:
    """Creates a file if it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def pickle_bomb(tmp_path):
    """A checkpoint that runs code when it is unpickled, and the file that shows that it did."""
    fuse = tmp_path / "exploded"
    torch.save({"weight": Bomb(fuse)}, tmp_path / "bomb.pt")
    return tmp_path / "bomb.pt", fuse
