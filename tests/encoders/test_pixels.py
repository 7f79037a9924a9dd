"""pixels: grey values without parameters, prepared as the embedded encoders prepare them."""

from __future__ import annotations

import pytest
import torch

from medgraft.encoders import embedded
from medgraft.encoders.pixels import PixelsSource
from medgraft.errors import ConfigError, UnknownNameError


def test_prepared_as_the_embedded_encoders_prepare(radiograph, volume):
    words = (*embedded.SPECIALS, "word")
    chest, brain = embedded.assemble("chest", words), embedded.assemble("brain", words)
    image, scan = PixelsSource.build("2d"), PixelsSource.build("3d")
    assert torch.equal(image.prepare(radiograph), chest.towers()["image"].prepare(radiograph))
    assert torch.equal(scan.prepare(volume), brain.towers()["volume"].prepare(volume))
    assert (image.spec.input_size, scan.spec.input_size) == (embedded.CHEST_SIZE, embedded.BRAIN_SIZE)


@pytest.mark.parametrize(("model", "grid"), [("2d", (32, 32)), ("3d", (16, 20, 16))])
def test_tokens_are_means_of_grey_values(model, grid):
    encoder = PixelsSource.build(model)
    x = torch.randn(2, 1, *encoder.spec.input_size)
    features = encoder(x)
    assert features.grid == grid and features.n_prefix == 0
    patch = x[1, 0][tuple(slice(4, 8) for _ in grid)]  # the second on every axis
    value = features.pooled[1].view(grid)[(1,) * len(grid)]
    assert value == pytest.approx(patch.mean().item(), abs=1e-6)
    assert torch.equal(features.tokens[..., 0], features.pooled)
    assert list(encoder.parameters()) == [] and encoder.spec.weights == "none"


def test_there_are_no_weights_to_name():
    with pytest.raises(UnknownNameError):
        PixelsSource.build("4d")
    with pytest.raises(ConfigError, match="has no weights"):
        PixelsSource.build("2d", "weights.pt")
    assert PixelsSource.build("2d", "random").spec.weights == "none"
