"""Contrastive training of SwiFT: which windows are drawn, what is left out, and that the result loads and learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from readers_files import fmri_run

from medgraft.benchmarks.pretrain import fmri as script
from medgraft.checkpoints.weights import read_weights
from medgraft.encoders.swift import CONFIGS, SwiFT
from medgraft.errors import DataError
from medgraft.losses import local_contrast, nt_xent
from medgraft.registry import build_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for number in range(6):
        fmri_run(root / f"sub-{number:02}" / "func" / f"sub-{number:02}_run-1_bold.nii.gz", 12, number)
    fmri_run(root / "sub-00" / "func" / "sub-00_run-2_bold.nii.gz", 8, 50)
    fmri_run(root / "sub-90" / "func" / "sub-90_bold.nii.gz", 7, 90)  # one window
    fmri_run(root / "sub-91" / "anat" / "sub-91_T1w.nii.gz", 8, 91, axes=3)
    (root / "sub-92_bold.nii").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    arguments = ["--runs", str(folder), "--out", str(out), "--model", "tiny", "--steps", "3", "--batch-size", "3"]
    script.main([*arguments, "--held-out", "0.34", "--lr", "0.001"])
    return out, json.loads((out / "swift.json").read_text())


def test_runs_go_by_subject_and_what_is_unfit_is_counted(trained):
    _, card = trained
    assert card["subjects"] == {"trained": 4, "held_out": 2}
    assert card["skipped"] == {"fewer than two windows": 1, "not four axes": 1, "not readable": 1}
    assert "sub-" not in json.dumps(card)


def test_the_checkpoint_is_an_encoder_that_was_trained(trained):
    out, card = trained
    encoder = build_encoder(f"swift:tiny,windows=1@{out / 'swift.ckpt'}")
    fresh = build_encoder("swift:tiny,windows=1@random").state_dict()
    assert all(not torch.equal(value, fresh[name]) for name, value in encoder.state_dict().items())
    assert [set(entry) for entry in card["log"]] == [{"step", "instance", "local"}]
    assert np.isfinite([list(entry.values()) for entry in card["log"]]).all() and card["chance"] == 0.5


def test_training_repeats_itself_and_goes_on_from_a_checkpoint(trained, folder, tmp_path):
    out, _ = trained
    common = ["--runs", str(folder), "--model", "tiny", "--steps", "1", "--loss", "instance", "--batch-size", "2"]
    states = []
    for name in ("one", "two"):
        script.main([*common, "--out", str(tmp_path / name), "--start", str(out / "swift.ckpt"), "--held-out", "0"])
        states.append(read_weights(tmp_path / name / "swift.ckpt"))
    before = read_weights(out / "swift.ckpt")
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    moved = (states[0]["model.patch_embed.fc.weight"] - before["model.patch_embed.fc.weight"]).abs().max()
    assert 0 < moved < 2 * script.LEARNING_RATE  # one step of AdamW from where the other ended


def test_two_windows_share_no_volume_and_every_start_is_drawn(tmp_path):
    run = np.broadcast_to(np.arange(10, dtype=np.float16)[:, None, None, None], (10, 2, 2, 2))
    np.save(tmp_path / "run.npy", run)
    runs, random, seen = script.Runs((tmp_path / "run.npy",)), np.random.default_rng(0), set()
    for _ in range(200):
        windows = runs.two_windows(4, random)
        assert windows.shape == (2, 1, 2, 2, 2, 4)
        first, second = (set(window[0, 0, 0, 0].tolist()) for window in windows)
        assert not first & second and all(max(each) - min(each) == 3 for each in (first, second))
        seen.add((min(first), min(second)))
    assert seen == {(a, b) for a in range(7) for b in range(7) if abs(a - b) >= 4}


def test_all_volumes_of_a_sequence_are_augmented_alike():
    volume = torch.rand(1, 1, 12, 12, 12, 1, generator=torch.Generator().manual_seed(0))
    augment = script.Augmentation(0)
    out = augment(volume.expand(2, -1, -1, -1, -1, 3))
    assert out.shape == (2, 1, 12, 12, 12, 3)
    for sequence in out:
        assert torch.allclose(sequence[..., 1:], sequence[..., :1].expand(-1, -1, -1, -1, 2), atol=1e-6)
        assert not torch.equal(sequence[..., 0], volume[0, ..., 0])
    assert not torch.equal(out[0], out[1])


def test_three_sequences_in_ten_get_noise():
    """Turned, scaled and smoothed, nothing stays nothing; noise is Gaussian of a deviation up to a tenth."""
    deviations = script.Augmentation(0)(torch.zeros(200, 1, 4, 4, 4, 1)).flatten(1).std(dim=1)
    noisy = deviations[deviations > 0]
    assert 40 <= len(noisy) <= 80 and noisy.max() < 0.14  # of 60 +- 6.5; a deviation of 64 numbers varies by a tenth


def test_the_terms_are_the_losses_of_their_embeddings(monkeypatch):
    trainer = script.Trainer(SwiFT(**CONFIGS["tiny"]), [script.Runs(())] * 3, "both", 3, 1e-3, 0)
    vectors = torch.randn(6, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn, windows_of = iter(vectors), []
    monkeypatch.setattr(trainer, "embed", lambda windows: windows_of.append(int(windows.max())) or next(drawn))
    windows = torch.zeros(3, 2, 1, 1, 1, 1, 1)
    windows[:, 1] = 1
    terms = trainer.losses(windows)
    assert windows_of == [0, 1, 0, 1, 0, 1]  # each time augmented anew
    assert torch.equal(terms["instance"], nt_xent(vectors[0], vectors[1]))
    one, other = torch.stack([vectors[2], vectors[3]], dim=1), torch.stack([vectors[4], vectors[5]], dim=1)
    assert torch.equal(terms["local"], local_contrast(one, other))


def test_a_folder_without_two_subjects_is_refused(tmp_path):
    fmri_run(tmp_path / "runs" / "sub-01_bold.nii.gz", 8, 0)
    with pytest.raises(DataError, match="runs of 1 subjects, and contrast needs two"):
        script.prepare_runs(tmp_path / "runs", tmp_path / "prepared", (16, 16, 16), 4)
    with pytest.raises(SystemExit, match="there is no NIfTI file"):
        script.main(["--runs", str(tmp_path / "none"), "--out", str(tmp_path), "--model", "tiny"])
