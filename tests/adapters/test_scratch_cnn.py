"""Networks from scratch: the library's ResNet-50 and DenseNet-121, and where each may stand."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from monai.networks import nets

from medgraft.adapters.scratch_cnn import ScratchCnn, build_large
from medgraft.grafting import graft

pytestmark = pytest.mark.usefixtures("seeded")


def loaded(network, reference):
    """A network with the weights of a reference of the same tensors in the same order."""
    tensors = list(reference.state_dict().values())
    names = list(network.state_dict())
    network.load_state_dict(dict(zip(names, tensors, strict=True)))
    return network.eval()


def test_the_resnet_is_the_librarys_up_to_its_last_map():
    reference = nets.resnet50(
        pretrained=False, spatial_dims=3, n_input_channels=1, feed_forward=False, conv1_t_stride=2
    ).eval()
    network = loaded(build_large("resnet50"), reference)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        # float32: one mean over the map in another order.
        torch.testing.assert_close(network(x).mean(dim=(2, 3, 4)), reference(x), rtol=1e-4, atol=1e-5)


def test_the_densenet_is_the_librarys_up_to_its_last_map():
    reference = nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=2).eval()
    network = loaded(build_large("densenet121"), reference.features)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), torch.relu(reference.features(x)))


@pytest.mark.parametrize(
    ("architecture", "width", "grid"), [("resnet50", 2048, (2, 3, 2)), ("densenet121", 1024, (2, 2, 2))]
)
def test_the_head_reads_the_mean_of_the_last_map(architecture, width, grid):
    encoder = tiny.fresh("pixels_3d")
    grafted = graft(encoder, "scratch_cnn", architecture=architecture).eval()
    with torch.no_grad():
        features = grafted(torch.randn(1, 1, *encoder.spec.input_size))
    assert features.pooled.shape == (1, width) and features.grid == grid
    assert torch.allclose(features.pooled, features.tokens.mean(dim=1))
    assert not grafted.ungraft().__dict__.get("encode")


@pytest.mark.parametrize("architecture", ["resnet50", "densenet121"])
def test_large_networks_read_as_many_channels_as_the_encoder_has_maps(architecture):
    grafted = graft("dmri:maps=3:pixels:3d", "scratch_cnn", architecture=architecture).eval()
    with torch.no_grad():
        features = grafted.adapters["scratch_cnn"].network(torch.randn(1, 3, 32, 32, 32))
    assert features.shape[0] == 1 and features.isfinite().all()


def test_large_networks_are_for_volumes():
    config = ScratchCnn.Config(architecture="densenet121")
    support = ScratchCnn(config).supports(tiny.shared("pixels_2d"))
    assert not support and "reads volumes" in support.reason
    assert ScratchCnn(config).supports(tiny.shared("pixels_3d"))
    assert ScratchCnn().supports(tiny.shared("pixels_2d"))
    assert not ScratchCnn(config).supports(tiny.shared("brain"))
