"""The source ``swift``: runs as the authors prepare them, windows, checkpoints, and adapters between its blocks."""

from __future__ import annotations

import contextlib
import unittest

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from medgraft import graft
from medgraft.encoders.parts.swift.runs import centred, prepare_run, real_windows, window_starts
from medgraft.encoders.swift import CONFIGS, SwiFT, SwiftSource
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from medgraft.registry import build_adapter, build_encoder, check_encoder
from medgraft.testing import check_adapter


def run_of(volumes, shape=(12, 18, 16), seed=0):
    """Noise around 1000 in a box, with another level in every volume, on a background of 0."""
    random = np.random.default_rng(seed)
    run = np.zeros((volumes, *shape), np.float32)
    box = tuple(slice(2, length - 2) for length in shape)
    for number, volume in enumerate(run):
        volume[box] = 1000 + 20 * number + 50 * random.standard_normal(volume[box].shape)
    return run


@pytest.fixture(scope="module")
def tiny():
    return build_encoder("swift:tiny,windows=3@random")


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_is_prepared_as_published():
    """z-scores over the brain of the whole run, background at the lowest, then padded and cropped in space."""
    run = run_of(9)
    brain = run[run != 0].astype(np.float64)
    scores = (run - brain.mean()) / brain.std(ddof=1)
    scores[run == 0] = scores[run != 0].min()
    prepared = prepare_run(run, (16, 16, 16), 4, 2)
    assert prepared.shape == (1, 8, 16, 16, 16) and prepared.dtype == torch.float32
    expected = np.pad(scores[:8, :, 1:17], [(0, 0), (2, 2), (0, 0), (0, 0)], constant_values=scores[0, 0, 0, 0])
    assert_close(prepared[0].double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)  # single precision


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_prepared_run_does_not_depend_on_its_unit(scale):
    run = run_of(4)
    expected = prepare_run(run, (16, 16, 16), 4, 1)
    assert_close(prepare_run((run * scale).astype(np.float32), (16, 16, 16), 4, 1), expected, rtol=1e-3, atol=1e-3)


def test_the_authors_size_of_uk_biobank():
    """91 x 109 x 91: three voxels before and two behind, seven and six cut off, three and two."""
    window = np.zeros((1, 91, 109, 91), np.float32)
    window[0, 0, 7, 1], window[0, 90, 102, 90], window[0, 40, 6, 40], window[0, 40, 103, 40] = 1, 2, 4, 8
    found = centred(window, (96, 96, 96))
    assert found.shape == (1, 96, 96, 96) and found[0, 3, 0, 4] == 1 and found[0, 93, 95, 93] == 2 and found.sum() == 3


def test_the_border_takes_the_value_of_the_first_voxel_of_its_window():
    run = run_of(8)
    run[:4, 0, 0, 0], run[4:, 0, 0, 0] = 900, 1300
    prepared = prepare_run(run, (14, 18, 16), 4, 2)[0]
    assert (prepared[:4, 0] == prepared[0, 1, 0, 0]).all() and (prepared[4:, 0] == prepared[4, 1, 0, 0]).all()
    assert prepared[0, 0, 0, 0] != prepared[4, 0, 0, 0]


@pytest.mark.parametrize(
    ("volumes", "windows", "starts"),
    [(4, 3, [0]), (7, 3, [0]), (8, 3, [0, 4]), (12, 3, [0, 4, 8]), (24, 3, [4, 12, 20]), (16, 3, [0, 8, 12])],
)
def test_windows_follow_each_other_and_spread_over_a_longer_run(volumes, windows, starts):
    found = window_starts(volumes, 4, windows)
    assert found == starts and all(start % 4 == 0 and start + 4 <= volumes for start in found)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (run_of(3), "3 volumes is shorter than a window of 4"),
        (run_of(4)[0], r"numbers \[T, x, y, z\]"),
        (run_of(1)[0][None], "1 volumes is shorter"),
        (np.zeros((4, 8, 8, 8), np.float32), "0 voxels that are not 0"),
        (np.full((4, 8, 8, 8), 7.0, np.float32), "deviation of 0"),
        (np.full((4, 8, 8, 8), np.nan, np.float32), "must be finite"),
        (np.full((4, 8, 8, 8), "x"), "must be numbers"),
    ],
)
def test_what_is_no_run_is_refused(run, said):
    with pytest.raises(DataError, match=said):
        prepare_run(run, (16, 16, 16), 4, 2)


# -- windows ----------------------------------------------------------------------------------------------------------


def test_a_subject_is_the_mean_of_its_windows(tiny):
    single = build_encoder("swift:tiny,windows=1@random")
    run = run_of(12)
    with torch.no_grad():
        whole = tiny(tiny.prepare(run)[None])
        parts = [single(tiny.prepare(run)[None, :, start : start + 4]) for start in (0, 4, 8)]
    assert whole.grid == (3, 2, 2, 2, 4) and parts[0].grid == (2, 2, 2, 4) and whole.mask is None
    assert_close(whole.pooled, torch.stack([part.pooled for part in parts]).mean(dim=0))
    assert_close(whole.tokens, torch.cat([part.tokens for part in parts], dim=1))
    assert_close(parts[0].pooled, parts[0].tokens.mean(dim=1))


def test_windows_that_a_run_lacks_are_masked_and_count_for_nothing(tiny):
    short, long = tiny.prepare(run_of(9)), tiny.prepare(run_of(12, seed=1))
    x = torch.stack([short, long])
    assert real_windows(x.unflatten(2, (3, 4)).movedim(2, 1)).tolist() == [[True, True, False], [True, True, True]]
    two = build_encoder("swift:tiny,windows=2@random")
    with torch.no_grad():
        features, alone = tiny(x), two(short[None, :, :8])
        for stage in range(tiny.n_stages):
            again = tiny(tiny.prefix(x, stage), start=stage)
            assert torch.equal(again.pooled, features.pooled) and torch.equal(again.mask, features.mask)
    assert features.mask[0].tolist() == [True] * 64 + [False] * 32 and features.mask[1].all()
    assert_close(features.pooled[:1], alone.pooled)
    assert_close(features.tokens[:1, :64], alone.tokens)
    assert not features.tokens[0, 64:].any() and features.tokens.isfinite().all()


def test_a_blank_batch_runs(tiny):
    features = tiny(torch.zeros(1, 1, 12, 16, 16, 16))
    assert features.mask is None and features.pooled.isfinite().all()


def test_a_linear_score_of_a_subject_is_the_mean_over_its_windows_as_published(tiny):
    """The published head is linear on the mean of a window's tokens, so averaging scores or features is the same."""
    single, run = build_encoder("swift:tiny,windows=1@random"), run_of(12)
    head = torch.nn.Linear(24, 1)
    with torch.no_grad():
        scores = [head(single(tiny.prepare(run)[None, :, start : start + 4]).pooled) for start in (0, 4, 8)]
        assert_close(head(tiny(tiny.prepare(run)[None]).pooled), torch.stack(scores).mean(dim=0))


# -- names and checkpoints --------------------------------------------------------------------------------------------


def drawn(seed=3):
    network = SwiFT(**CONFIGS["tiny"])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval()


@pytest.mark.parametrize("layout", ["lightning", "bare", "safetensors"])
def test_published_checkpoints_load(layout, tmp_path):
    network = drawn()
    state = network.state_dict()
    if layout == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        heads = {"output_head.fc1.weight": torch.zeros(3, 24), "output_head.bn1.running_mean": torch.zeros(3)}
        named = {f"model.{name}": tensor for name, tensor in state.items()} if layout == "lightning" else state
        path = tmp_path / "contrastive_pretrained.ckpt"
        torch.save({"state_dict": {**named, **heads}, "epoch": 9, "hyper_parameters": {"embed_dim": 12}}, path)
    encoder = build_encoder(f"swift:tiny,windows=1@{path}")
    x = torch.randn(2, 1, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = network(x.movedim(2, -1))
        features = encoder(x)
    assert_close(features.tokens, maps.flatten(2).transpose(1, 2))
    assert encoder.spec.weights.startswith("pretrained:")
    assert encoder.spec.cohorts == (() if layout == "safetensors" else ("ABCD", "HCP", "UKB"))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    torch.save({"state_dict": SwiFT(**{**CONFIGS["tiny"], "embed_dim": 16}).state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="of another shape"):
        build_encoder(f"swift:tiny@{tmp_path / 'other.ckpt'}")


def test_names_and_options_are_checked():
    assert check_encoder("swift:hcp,windows=8@random").model == "hcp,windows=8"
    assert SwiftSource.build("tiny", "random", windows=2).spec.name == "swift:tiny,windows=2"
    assert SwiftSource.build("tiny", "random").spec.input_size == (16, 16, 16, 16)
    with pytest.raises(UnknownNameError, match="did you mean tiny"):
        check_encoder("swift:tinny@random")
    with pytest.raises(ConfigError, match="windows"):
        check_encoder("swift:tiny,windows=0@random")
    with pytest.raises(ConfigError, match="did you mean windows"):
        SwiftSource.build("tiny,window=2", "random")
    with pytest.raises(CheckpointError, match="no weights that can be fetched"):
        SwiftSource.build("hcp")
    with pytest.raises(ConfigError, match="cannot be built with these options"):
        SwiftSource.build("tiny", "random", depth=3)


# -- adapters ---------------------------------------------------------------------------------------------------------


def small():
    return SwiftSource.build("tiny", "random", windows=2, depths=(2, 1))


# Options do not depend on the encoder, and compiling would take longer than all other rules together.
ELSEWHERE = {"values_out_of_range_are_refused", "compilation_agrees"}


@pytest.mark.parametrize("name", ["lora", "houlsby", "adaptformer"])
def test_adapters_keep_their_rules_on_it(name):
    passed = 0
    for check in check_adapter(name, encoders={"swift": small}):
        if str(check) not in ELSEWHERE:
            with contextlib.suppress(unittest.SkipTest):  # such as merging what says that it cannot be merged
                check()
                passed += 1
    assert passed > 25


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # rank 8 on q and v of two blocks of width 12 and of one of width 24
        ("lora", 2 * 8 * 2 * (12 + 12 + 24)),
        # two bottlenecks a block of 64 numbers inside, and the block's two norms
        ("houlsby", sum(2 * (2 * 64 * d + d + 64) + 4 * d for d in (12, 12, 24))),
        ("adaptformer", sum(2 * 64 * d + d + 64 for d in (12, 12, 24))),
    ],
)
def test_every_block_has_an_adapter_of_its_own_width(name, expected):
    options = {"rank": 8, "targets": ["q", "v"]} if name == "lora" else {}
    adapter = build_adapter(name, options)
    graft(small(), [adapter])
    assert sum(p.numel() for p in adapter.parameters()) == expected


def test_spatial_pooling_says_that_it_has_no_room_for_four_axes():
    support = build_adapter("spatial_pooling", {}).supports(small())
    assert not support and "more than three axes" in support.reason
