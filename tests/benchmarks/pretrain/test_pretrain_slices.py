"""embedded:slices: what it is trained on, that a stopped training goes on, and that its sentences are its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgraft.benchmarks.phantoms.brain.latents import SETTINGS
from medgraft.benchmarks.pretrain import slices as script
from medgraft.benchmarks.pretrain.brain_sentences import FRAMES, TOPICS, draw_sentences, sentence_vocabulary
from medgraft.benchmarks.tasks.brain.brain_prompts import QUESTIONS
from medgraft.encoders.embedded import SPECIALS, WORD, assemble, read_card
from medgraft.encoders.inflate3d import inflate


def test_no_sentence_is_a_wording_of_the_benchmark():
    wordings = {text.lower().rstrip(".?") for q in QUESTIONS for text in (*q.wordings, *q.held_out)}
    sentences = {frame.format(phrase).rstrip(".?") for frame in FRAMES for ps in TOPICS.values() for phrase in ps}
    assert len(sentences) > 1000 and not wordings & sentences


def test_the_vocabulary_has_every_word_of_what_is_drawn():
    vocabulary = sentence_vocabulary()
    assert vocabulary[:3] == list(SPECIALS) and len(set(vocabulary)) == len(vocabulary)
    sentences, topics = draw_sentences(np.random.default_rng(0), 300)
    assert {word for text in sentences for word in WORD.findall(text.lower())} <= set(vocabulary)
    assert set(topics) == set(range(len(TOPICS)))


def test_the_population_is_not_the_benchmarks():
    pretrain, benchmark = SETTINGS["pretrain"], SETTINGS["default"]
    assert not pretrain.diagnosed and pretrain.site_seed != benchmark.site_seed
    assert pretrain.first_site >= benchmark.first_site + benchmark.n_sites
    card = read_card("slices")
    assert card["setting"] == "pretrain" and card["run"]["seed"] == 0


def test_another_scan_of_a_volume_keeps_sizes_background_and_range():
    x = torch.rand(3, 2, 64, 80, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    x[:, :, :8] = x[:, :, -8:] = x[..., :8] = x[..., -8:] = 0
    there = script.moved(x, torch.Generator().manual_seed(1))
    assert ((there > 0).sum((1, 2, 3)) == (x > 0).sum((1, 2, 3))).all()  # neither cut nor zoomed
    out = script.rescanned(there, torch.Generator().manual_seed(1))
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1
    assert ((out > 0) <= (there > 0)).all()
    assert torch.equal(out, script.rescanned(there, torch.Generator().manual_seed(1)))


def test_darkness_is_told_of_each_patch_and_not_of_the_scanner():
    x = torch.full((1, 2, 64, 80), 0.5)
    x[0, 0, :16, 16:32] = 0.2  # below 0.45 medians, in the second patch of the first slice
    dark = script.darkness(x)
    assert dark.shape == (2, 20, 6)
    assert dark[..., 0].flatten().argmax() == 1 and (dark[..., 0].flatten() > 1).sum() == 1
    torch.testing.assert_close(script.darkness(x * 0.8), dark)


def test_it_starts_from_the_encoder_of_radiographs():
    tower = assemble("slices", list(SPECIALS)).towers()["image"]
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    script.from_chest(tower)
    changed = {key for key, value in tower.state_dict().items() if not torch.equal(value, before[key])}
    assert {"position", "cls", "stem.0.weight", "blocks.3.fc2.weight"} <= changed


def trainer(steps: int) -> script.SliceTrainer:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (4, 16, 64, 80), generator=generator, dtype=torch.uint8)
    torch.manual_seed(0)
    tower = assemble("slices", list(SPECIALS)).towers()["image"]
    return script.SliceTrainer(tower, drawn, torch.randn(4, 6, generator=generator), steps, 2, 0)


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "CHECKPOINT_STEPS", 2)
    whole, first = trainer(4), trainer(4)
    whole.run()

    class Stopped(Exception):
        pass

    real = first._save

    def stop(path):
        real(path)
        raise Stopped

    monkeypatch.setattr(first, "_save", stop)
    with pytest.raises(Stopped):
        first.run(tmp_path / "checkpoint.pt")
    second = trainer(4)
    second.run(tmp_path / "checkpoint.pt")
    assert second.step == 4 and [entry["step"] for entry in second.log] == [2, 4]
    for key, value in whole.tower.state_dict().items():
        assert torch.equal(value, second.tower.state_dict()[key]), key
    with pytest.raises(SystemExit, match="run of 4 steps, not 5"):
        trainer(5).run(tmp_path / "checkpoint.pt")


def test_drawn_slices_are_what_inflate3d_cuts():
    drawn, targets = script.draw_slices(1, 1, 1)
    assert drawn.shape == (1, 64, 64, 80) and drawn.dtype == torch.uint8 and targets.shape == (1, 6)
    raw = script.generate_ageing(1, 1)[0][0].astype(np.float32)
    volume = inflate(assemble("slices", list(SPECIALS)), slices=12).towers()["volume"]
    places = torch.from_numpy(script.slice_positions(64, 12))
    expected = (drawn[0][places].float() / 255 - 0.5) / 0.25
    assert torch.equal(volume.prepare(raw)[0], expected)
